"""Tests of the website's tools: their controls, their answers, and what they import."""

import html
import json
import re
import subprocess
import sys

import pytest

from course_utils import memory
from course_utils.machine.units import format_bytes
from course_utils.memory import GPUS, MORE_GPUS, ModelShape, estimate, largest, usable_bytes
from course_utils.memory.settings import TRAINERS
from course_utils.notebook.controls import Control, used, values_of
from workshop import cli
from workshop.publishing import live
from workshop.publishing.live import fit


def words(markup):
    """Return the text of HTML with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def code_of(markup):
    """Return the Python code that an answer shows."""
    return html.unescape(re.search(r'<pre class="live-code".*?>(.*?)</pre>', markup, re.S)[1])


# --- the package ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", live.TOOLS)
def test_each_tool_answers_its_first_values(name):
    markup = live.answer(name, {})
    assert "data-say" in markup and 'role="img" aria-label=' in markup
    assert live.answer(name, "{}") == markup


@pytest.mark.full
@pytest.mark.parametrize("name", live.TOOLS)
def test_each_value_of_each_menu_and_checkbox_is_understood(name):
    controls = live.TOOLS[name].controls
    for key, control in controls.items():
        values = [False, True] if control.kind == "checkbox" else list(control.options)
        assert [control.read(control.write(value)) for value in values] == values, key
        # A message is allowed, because some models lack some layers.
        assert all(live.answer(name, {key: control.write(value)}) for value in values)


def test_a_value_that_is_not_allowed_gives_a_message():
    message = '<p role="alert">Rank r must be a whole number from 1 to 4,096, but is 0.</p>'
    assert live.answer("fit", {"rank": "0"}) == message
    assert "Model must be '7b', 'llama-7b'" in words(live.answer("fit", {"model": "<b>"}))
    assert "<b>" not in live.answer("fit", {"model": "<b>"})


# --- controls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", " ", "1.5", "1e3", "1_000", "٣", "²", "-", "--1", "9" * 5000, "1", "51", "-3"]
)
def test_a_text_that_is_no_whole_number_in_its_range_is_refused(text):
    shown = repr(text[:12]) if text.strip() else "empty"
    shown = text if text in ("1", "51", "-3") else shown
    message = re.escape(f"n must be a whole number from 2 to 50, but is {shown}.")
    control = Control("n", 3, least=2, most=50)
    with pytest.raises(ValueError, match=f"^{message}$"):
        control.read(text)
    assert [control.read(number) for number in ("2", " 50 ", "05")] == [2, 50, 5]


def test_an_unused_control_has_its_first_value_whatever_its_text():
    values = values_of(fit.CONTROLS, {"method": "full", "rank": "nonsense", "gpu": "H100"})
    assert (values["rank"], values["gpu"]) == (fit.CONTROLS["rank"].value, "H100")
    assert "rank" not in used(fit.CONTROLS, values | {"rank": 0})
    with pytest.raises(ValueError, match="Rank r"):
        values_of(fit.CONTROLS, {"rank": "nonsense"})


# --- will it fit? ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", fit.METHODS)
@pytest.mark.parametrize("model", ["smollm2-135m", "llama-7b", "qwen3-0.6b", "gemma-3-1b"])
def test_the_code_of_an_answer_gives_the_same_total(model, method, capsys):
    markup = live.answer("fit", {"model": model, "method": method, "sequence_length": "500"})
    scope = {}
    exec(code_of(markup), scope)
    assert f"total {scope['e'].total:,} at" in words(markup)
    assert f"step needs {format_bytes(scope['e'].total)}" in words(markup)
    for term in scope["e"].terms:
        assert f"{term.name} {term.size:,} {term.formula}" in words(markup)
    assert capsys.readouterr().out.endswith(f"{scope['e'].fits('T4')}\n")


def estimate_of(texts):
    """Return the estimate that a page with these texts shows."""
    model, method, options = fit.arguments(values_of(fit.CONTROLS, texts))
    return estimate(model, method, **options)


@pytest.mark.parametrize("method", fit.METHODS)
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"trainer": "transformers"},
        {"trainer": "course", "loss": "answers", "answer_share": 0.2},
        {"trainer": "transformers", "gradient_checkpointing": True},
        {"loss": "logits"},
        {"recipe": "autocast"},
        {"gradient_checkpointing": False},
        {"optimizer": "paged_adamw8bit", "batch_size": 3, "attention": "eager"},
        {"rank": 64, "targets": ("q_proj", "v_proj")},
        {"double_quant": False, "upcast": True, "compute_dtype": "float16"},
    ],
)
def test_the_page_computes_what_python_computes_for_the_same_changes(method, changed):
    texts, options = {"method": method}, {}
    for name, value in changed.items():
        key = "full_trainer" if (name, method) == ("trainer", "full") else name
        if fit.CONTROLS[key].is_used({**changed, "method": method}):
            options[name] = value
            entered = round(100 * value) if name == "answer_share" else value
            entered = ",".join(value) if isinstance(value, tuple) else entered
            texts[key] = fit.CONTROLS[key].write(entered)
    _, _, shown = fit.arguments(values_of(fit.CONTROLS, texts))
    assert shown.items() <= options.items()
    assert estimate_of(texts) == estimate("llama-3.1-8b", method, **options)


def test_whatever_a_trainer_sets_the_form_leaves_to_the_trainer():
    assert {*fit.TRAINERS, None} == set(TRAINERS)
    for common, recipes in TRAINERS.values():
        for name, value in [*common.items(), *(("recipe", each) for each in recipes.values())]:
            control = fit.CONTROLS[name]
            assert control.value == fit.AUTO and value in control.options
    e = estimate_of({"trainer": "transformers"})
    shown = f"loss (all logits), gradient checkpointing (off), recipe ({e.settings.recipe})."
    assert shown in words(live.answer("fit", {"trainer": "transformers"}))


def test_each_gpu_says_what_is_free_or_missing():
    texts = {"model": "llama-13b", "method": "lora"}
    e, text = estimate_of(texts), words(live.answer("fit", texts))
    for name in (*GPUS, *MORE_GPUS):
        rest = format_bytes(abs(usable_bytes(name) - e.total))
        result = f"✓ fits, {rest} free" if e.fits(name) else f"✗ {rest} missing"
        row = rf"{name}\b[^✓✗]* {format_bytes(usable_bytes(name))} ([✓✗].*? (free|missing))"
        assert re.search(row, text)[1] == result


def test_a_gpu_may_be_given_by_its_size():
    texts = {"gpu": "size", "size": "12"}
    markup, e = live.answer("fit", texts), estimate_of(texts)
    verdict = "Yes, it fits" if e.fits("12 GB") else "No, it does not fit"
    assert words(markup).startswith(f"{verdict} on a GPU of 12 GB.")
    assert f"use {format_bytes(usable_bytes('12 GB'))} of a GPU of 12 GB" in words(markup)
    assert "e.fits('12 GB')" in code_of(markup)


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_the_bar_marks_the_chosen_gpu_and_those_nearest_to_the_need(method):
    texts = {"method": method, "gpu": "RTX 5090"}
    markup, e = live.answer("fit", texts), estimate_of(texts)
    names = re.search(r"Marks: (.*?)\.\"", markup)[1]
    shown = [each.partition(" at ")[0] for each in names.split(", ")]
    sizes = {name: usable_bytes(name) for name in (*GPUS, *MORE_GPUS)}
    assert shown[0] == "RTX 5090" and len(shown) <= 3
    fitting, others = (
        {n: s for n, s in sizes.items() if e.fits(n) is fits} for fits in (True, False)
    )
    if fitting:
        assert min(fitting.values()) in map(usable_bytes, shown)
    if others:
        assert max(others.values()) in map(usable_bytes, shown)


def settings_of_buttons(markup):
    found = re.findall(r'<button type="button" data-set="([^"]*)">', markup)
    return [json.loads(html.unescape(text)) for text in found]


@pytest.mark.parametrize(
    "texts",
    [
        {"batch_size": "64"},
        {"method": "full"},
        {"model": "llama-65b"},
        {"attention": "eager", "sequence_length": "5000"},
        {"method": "lora", "targets": "q_proj,v_proj", "model": "llama-13b"},
    ],
)
def test_each_proposed_change_fits(texts):
    markup = live.answer("fit", texts)
    assert words(markup).startswith("No, it does not fit")
    changes = settings_of_buttons(markup)
    assert changes
    for change in changes:
        assert words(live.answer("fit", texts | change)).startswith("Yes, it fits"), change


def test_the_largest_sizes_fit_and_one_more_does_not():
    changes = settings_of_buttons(live.answer("fit", {}))
    assert [list(change) for change in changes] == [["batch_size"], ["sequence_length"], ["rank"]]
    for change in changes:
        (name, text), = change.items()  # fmt: skip
        assert "Yes" in words(live.answer("fit", change))
        assert "No" in words(live.answer("fit", {name: str(int(text) + 1)}))


CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 259,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128,
}  # fmt: skip


def test_a_config_of_the_reader_is_read():
    own = {"model": "config", "config": json.dumps(CONFIG)}
    markup = live.answer("fit", own)
    assert estimate_of(own).shape == ModelShape.from_config(CONFIG)
    assert f"total {estimate_of(own).total:,}" in words(markup)
    assert "'config.json'" in code_of(markup)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", "Please paste the config.json of your model, or choose its file."),
        ("{", "The config is not valid JSON: "),
        ("[1]", "The config must be a JSON object, which begins with { and ends with }."),
        ("[" * fit.MOST_BRACKETS, "The config is not valid JSON: "),
        ("[" * 5_000, "The config has more than 1,000 brackets [ and {."),
        (" " * 100_001, "the text has 100,001 characters, but at most 100,000 are read."),
        ('{"vocab_size": ' + "9" * 5000 + "}", "The config is not valid JSON: "),
        (json.dumps(CONFIG | {"vocab_size": 10**12}), "'vocab_size' has more than 12 digits."),
        (json.dumps(CONFIG | {"num_hidden_layers": 1001}), "must be a whole number from 1 to 1000"),
        (json.dumps(CONFIG | {"hidden_size": "64"}), "hidden_size"),
        (json.dumps({k: v for k, v in CONFIG.items() if k != "vocab_size"}), "no 'vocab_size'"),
    ],
)
def test_a_config_that_can_t_be_read_gives_a_message(config, message):
    markup = live.answer("fit", {"model": "config", "config": config})
    assert markup.startswith('<p role="alert">') and message in words(markup)


MIXTURE = CONFIG | {"model_type": "mixtral", "num_local_experts": 8}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MIXTURE, "alone need 904.58 kB in 16 bits. All experts are in memory"),
        ({"model_type": "new"}, "its command has no option for gpus: course fit"),
    ],
)
def test_a_config_that_only_pytorch_computes_gets_a_command(config, message):
    own = {"model": "config", "config": json.dumps(config)}
    chosen = {"loss": "answers", "answer_share": "20", "gradient_checkpointing": "0"}
    texts = own | chosen | {"gpu": "size", "size": "12", "targets": "q_proj,v_proj", "gpus": "2"}
    markup = live.answer("fit", texts)
    assert markup.startswith('<p role="alert">') and message in words(markup)
    assert code_of(markup) == (
        "course fit config.json --method qlora --gpu '12 GB' --targets q_proj,v_proj "
        "--loss answers --answers 0.2 --no-checkpointing"
    )
    options = {option for parameter in cli.fit.params for option in parameter.opts}
    assert {f"--{flag}" for flag in fit.FLAGS.values()} <= options


@pytest.mark.parametrize(
    ("texts", "label"),
    [
        ({"model": "7b"}, "Method: full fine-tuning"),
        ({"model": "gemma-3-1b"}, "Attention: eager"),
        (
            {"method": "lora", "compute_dtype": "float32", "recipe": "autocast"},
            "Compute in: bfloat16",
        ),
        (
            {
                "model": "config",
                "config": json.dumps(
                    memory.PRESETS["smollm2-135m"] | {"max_position_embeddings": 1024}
                ),
            },
            "Tokens in a text: 1,024",
        ),
    ],
)
def test_settings_that_are_not_supported_get_buttons_that_work(texts, label):
    markup = live.answer("fit", texts)
    assert markup.startswith('<p role="alert">') and label in words(markup)
    changes = settings_of_buttons(markup)
    assert changes
    for change in changes:
        assert "data-say" in live.answer("fit", texts | change), change


def test_a_proposed_method_also_sets_the_fields_that_were_hidden():
    markup = live.answer("fit", {"method": "full", "rank": "512"})
    (change,) = (each for each in settings_of_buttons(markup) if each.get("method") == "qlora")
    assert change["rank"] == "8" and change["block_size"] == "64"
    hidden = {"rank": "512", "block_size": "32", "double_quant": "0", "upcast": "1"}
    markup = live.answer("fit", {"method": "full"} | hidden | change)
    assert words(markup).startswith("Yes, it fits")


def test_a_change_that_a_field_does_not_accept_is_not_proposed():
    texts = {"accumulation": "1000000", "batch_size": "64"}
    for change in settings_of_buttons(live.answer("fit", texts)):
        assert int(change.get("accumulation", 1)) <= 1_000_000


# --- alternatives ---------------------------------------------------------------------------------


def test_several_small_changes_are_proposed_together_if_none_is_enough():
    options = {"batch_size": 2, "keep_output": True, "attention": "eager", "sequence_length": 4096}
    options["loss"] = "logits"
    found = memory.alternatives("llama-3.1-8b", "qlora", gpu="T4", **options)
    together = found[0]
    assert together.words.startswith("all of these: fused attention (SDPA), a loss in tiles")
    assert set(together.changes) >= {"attention", "loss", "batch_size", "accumulation"}
    for name, value in together.changes.items():
        alone = options | {name: value}
        assert not estimate("llama-3.1-8b", "qlora", **alone).fits("T4")


def test_the_largest_micro_batch_that_fits_is_proposed():
    options = {"batch_size": 24, "sequence_length": 1024, "loss": "logits"}
    found = memory.alternatives("llama-3.1-8b", "qlora", gpu="T4", **options)
    (split,) = (other for other in found if "batch_size" in other.changes)
    micro, count = split.changes["batch_size"], split.changes["accumulation"]
    assert micro * count == 24 and split.words.startswith(f"{count} micro-batches of {micro} texts")
    larger = min(n for n in (1, 2, 3, 4, 6, 8, 12) if n > micro)
    again = options | {"batch_size": larger, "accumulation": 24 // larger}
    assert not estimate("llama-3.1-8b", "qlora", **again).fits("T4")


def alternative(found, key):
    """Return the one alternative that changes an argument."""
    (other,) = (each for each in found if key in each.changes)
    return other


def test_the_chosen_gpus_divide_only_as_much_as_is_needed():
    found = memory.alternatives("llama-3.1-8b", "full", gpu="H100", gpus=8)
    assert alternative(found, "sharding").words == "ZeRO-1 on these 8 GPUs"
    found = memory.alternatives("llama-3.1-8b", "full", gpu="RTX 4090", gpus=8, sharding="zero1")
    assert alternative(found, "sharding").words == "ZeRO-3 or FSDP on these 8 GPUs"
    found = memory.alternatives("llama-65b", "full", gpu="T4", gpus=2, sharding="fsdp")
    assert not any(other.changes.get("gpus") == 2 for other in found)


def test_nothing_is_proposed_if_nothing_fits():
    assert memory.alternatives("llama-65b", "full", gpu=1 * 2**30) == []
    # A number of texts with many digits is divided quickly.
    memory.alternatives("smollm2-135m", "full", gpu=2**30, batch_size=10**9)


def test_the_proposed_model_is_the_largest_that_fits():
    options = {"targets": "all-linear", "recipe": "autocast"}
    *_, last = memory.alternatives("llama-65b", "qlora", gpu="T4", **options)
    assert last.changes == {"model": largest("model", "T4", method="qlora", **options)}


def test_the_tools_need_only_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); from workshop.publishing import live\n"
        "for name in live.TOOLS: live.answer(name, {})\n"
        "names = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(names - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout == "['course_utils', 'workshop']\n", done.stderr
