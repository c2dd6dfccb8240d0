"""Explorers, driven as a browser drives them: a control's value changes, what is shown follows."""

import html
import re

import pytest

from course_utils import explorers
from course_utils.explorers import (
    FREE,
    LORA_MODELS,
    MODULES,
    explorer,
    lora_answer,
    lora_explorer,
    memory_answer,
    memory_explorer,
)
from course_utils.figures import Picture, lora_parameters
from course_utils.memory import (
    GPUS,
    PRESETS,
    ModelShape,
    count_lora_parameters,
    estimate,
    largest,
)

SLIDE = {"model": FREE, "d_in": 1000, "d_out": 1000, "layers": 1, "rank": 8, "q_proj": True}
ALL = dict.fromkeys(MODULES, True)


def controls(box):
    """Description → control of an explorer."""
    return {control.description: control for row in box.children[:-1] for control in row.children}


def shown(box):
    """What an explorer shows under its controls: (alt text or None, text)."""
    value = box.children[-1].value
    alt = re.search(r'<img alt="([^"]*)" src="data:image/png;base64,iVBOR', value)
    return alt and html.unescape(alt[1]), html.unescape(re.sub(r"<[^>]*>", "", value))


def double(number):
    if number < 0:
        raise ValueError(f"{number} is < 0 & bad.")
    return Picture(lora_parameters(2, 1, 1).figure, f"twice {number}"), f"{2 * number} <numbers>"


# --- any explorer ---------------------------------------------------------------------------------


def test_picture_and_text_follow_the_control():
    number = explorers.number("number", 4)
    box = explorer({"number": number}, double)
    assert shown(box) == ("twice 4", "8 <numbers>")
    number.value = 5
    assert shown(box) == ("twice 5", "10 <numbers>")


def test_a_bad_value_is_answered_in_place_and_the_next_good_one_recovers():
    number = explorers.number("number", 4)
    box = explorer({"number": number}, double)
    number.value = -1
    assert shown(box) == (None, "-1 is < 0 & bad.")
    assert 'role="alert"' in box.children[-1].value
    number.value = 6
    assert shown(box) == ("twice 6", "12 <numbers>")


def test_a_bad_value_at_the_start_is_answered_too():
    assert shown(explorer({"number": explorers.number("number", -2)}, double))[0] is None


def test_a_fault_of_our_own_is_not_taken_for_a_bad_value():
    with pytest.raises(ZeroDivisionError):
        explorer({"number": explorers.number("number", 1)}, lambda number: 1 / 0)


def test_fields_wait_until_a_value_is_complete():
    assert explorers.number("number", 4).continuous_update is False


# --- LoRA: the pure function ----------------------------------------------------------------------


def test_the_slides_matrix():
    picture, text = lora_answer(**SLIDE)
    assert "rank 8 trains 16,000, full fine-tuning 1,000,000; they are equal at rank 500" in str(
        picture
    )
    assert re.search(r"LoRA trains +16,000 parameters\n", text)
    assert re.search(r"share +1.60%\n", text) and re.search(r"break-even rank +500.0\n", text)
    assert "256.00 kB" in text and "16.00 MB" in text and "64.00 kB" in text  # 16, 16 and 4 B each
    assert "whole model" not in text


def test_every_ticked_module_and_every_layer_counts():
    _, text = lora_answer(**SLIDE | {"k_proj": True, "v_proj": True, "o_proj": False, "layers": 10})
    assert re.search(r"LoRA trains +480,000 parameters\n", text)
    assert re.search(r"adapters +30, in 10 layers\n", text)


@pytest.mark.parametrize("model", LORA_MODELS)
def test_a_model_agrees_with_the_memory_calculator(model):
    shape = ModelShape.preset(model)
    _, text = lora_answer(**SLIDE | ALL | {"model": model, "layers": shape.layers})
    count = shape.adapter_parameters(8, "all-linear")
    assert f"{count:,} parameters" in text and f"{shape.linear_parameters:,} parameters" in text
    assert f"{count / shape.parameters:.2%} of {shape.parameters:,} parameters" in text


def test_smollm2_trains_what_the_course_says():
    _, text = lora_answer(**SLIDE | ALL | {"model": "smollm2-135m", "layers": 30})
    assert "2,442,240 parameters" in text and "1.82% of 134,515,008" in text


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rank": 0}, "rank r must be from 1 to 1,000 here, but is 0."),
        ({"rank": 1001}, "rank r must be from 1 to 1,000 here, but is 1,001."),
        ({"d_out": 4}, "rank r must be from 1 to 4 here, but is 8."),
        ({"d_in": -5}, "d_in must be from 1 to 1,000,000 here, but is -5."),
        ({"d_out": 10**9}, "d_out must be from 1 to 1,000,000 here, but is 1,000,000,000."),
        ({"layers": 0}, "layers must be from 1 to 1,000 here, but is 0."),
        ({"model": "smollm2-135m", "layers": 31}, "layers must be from 1 to 30 here, but is 31."),
        ({"q_proj": False}, "Tick at least one module"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lora_answer(**SLIDE | change)


# --- LoRA: the widgets ----------------------------------------------------------------------------


def test_lora_explorer_starts_at_the_slide_and_follows_every_control():
    box = lora_explorer()
    control = controls(box)
    assert "LoRA of rank 8 trains 48,000" in shown(box)[0]  # K, Q and V
    changes = {"rank r": 16, "d_in": 500, "d_out": 700, "layers": 3}
    changes |= {name: not control[name].value for name in MODULES}
    for name, value in changes.items():
        before = shown(box)
        control[name].value = value
        alt, text = shown(box)
        assert alt != before[0] and text != before[1], f"{name} changed nothing"
    expected = 3 * 4 * count_lora_parameters(500, 700, 16)  # layers × o, gate, up and down
    assert f"{expected:,}" in alt and f"{expected:,}" in text


def test_choosing_a_model_brings_its_layers_and_switches_the_free_shape_off():
    box = lora_explorer()
    control = controls(box)
    for name in MODULES:
        control[name].value = True
    control["model"].value = "smollm2-135m"
    assert control["layers"].value == 30 and control["d_in"].disabled and control["d_out"].disabled
    assert "LoRA of rank 8 trains 2,442,240" in shown(box)[0]
    control["model"].value = FREE
    assert control["layers"].value == 1 and not control["d_in"].disabled
    assert f"{7 * 16_000:,}" in shown(box)[1]


def test_a_bad_shape_left_behind_does_not_trouble_a_model():
    box = lora_explorer()
    control = controls(box)
    control["d_in"].value = -5
    assert shown(box) == (None, "d_in must be from 1 to 1,000,000 here, but is -5.")
    control["model"].value = "llama-7b"
    assert "LoRA of rank 8" in shown(box)[0]
    control["model"].value = FREE
    control["d_in"].value = 1000
    assert "48,000" in shown(box)[0]


def test_every_control_has_a_name_for_screen_readers():
    assert set(controls(lora_explorer())) == {
        "model",
        "d_in",
        "d_out",
        "layers",
        "rank r",
        *MODULES,
    }


# --- memory: the pure function --------------------------------------------------------------------

SEVEN_B = {
    "model": "7b",
    "method": "full",
    "recipe": "mixed",
    "optimizer": "adamw",
    "attention": "sdpa",
    "gpu": "T4",
    "batch_size": 1,
    "sequence_length": 1024,
    "rank": 16,
    "gradient_checkpointing": True,
    "double_quant": True,
    "upcast": False,
}


def test_the_slides_112_gb():
    picture, text = memory_answer(**SEVEN_B)
    assert "112.00 GB (weights 14.00 GB, gradients 14.00 GB, optimizer 84.00 GB)" in picture.alt
    assert re.search(r"total +112.00 GB +104.31 GiB\n", text)
    assert re.search(r"a parameter of the model +16.00 B\n", text)
    assert re.search(r"fits +none of these GPUs\n", text)
    assert text.endswith("needs a shape: choose another model")


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_on_a_bare_number_are_answered_with_a_sentence(method):
    with pytest.raises(ValueError, match="7b is a bare number of parameters: .* choose a preset"):
        memory_answer(**SEVEN_B | {"method": method})


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("model", ["smollm2-135m", "llama-7b", "gpt2", "qwen2.5-7b"])
def test_the_answer_is_the_calculators(model, method):
    _, text = memory_answer(**SEVEN_B | {"model": model, "method": method})
    options = {
        "full": {},
        "lora": {"targets": "all-linear"},
        "qlora": {"targets": "all-linear", "double_quant": True, "upcast": False},
    }[method]
    e = estimate(model, method, **options)
    assert text.startswith(e.table())
    fitting = ", ".join(gpu for gpu in GPUS if e.fits(gpu)) or "none of these GPUs"
    assert re.search(rf"fits +{re.escape(fitting)}\n", text)
    batch = largest("batch_size", "T4", model, method, **options)
    assert re.search(rf"largest batch +{batch:,} × 1,024 tokens on T4$", text)


@pytest.mark.parametrize("model", PRESETS)
def test_every_model_can_be_chosen(model):
    picture, _ = memory_answer(**SEVEN_B | {"model": model, "method": "qlora"})
    assert "QLoRA on an NF4 base" in picture.alt


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 0}, "batch size must be from 1 to 1,024 here, but is 0."),
        ({"batch_size": -3}, "batch size must be from 1 to 1,024 here, but is -3."),
        ({"sequence_length": 10**12}, "tokens must be from 1 to 131,072 here, but is 1,000,000,"),
        ({"model": "gpt2", "sequence_length": 1025}, "has a table of 1,024 positions"),
        ({"model": "llama-7b", "method": "lora", "rank": 0}, "rank r must be from 1 to 1,024"),
        ({"model": "llama-7b", "method": "qlora", "rank": 2000}, "rank r must be from 1 to 1,024"),
    ],
)
def test_bad_values_for_memory_are_named(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        memory_answer(**SEVEN_B | change)


@pytest.mark.parametrize("gpu", GPUS)
def test_the_picture_reaches_the_chosen_gpu(gpu):
    small = {"model": "smollm2-135m", "method": "qlora", "gpu": gpu}
    assert f"{gpu} at " in memory_answer(**SEVEN_B | small)[0].alt


def test_a_rank_that_is_not_used_is_not_judged():
    assert memory_answer(**SEVEN_B | {"rank": 0})[1] == memory_answer(**SEVEN_B)[1]


# --- memory: the widgets --------------------------------------------------------------------------


def test_memory_explorer_starts_at_the_slide():
    alt, text = shown(memory_explorer())
    assert "full fine-tuning 112.00 GB" in alt and "112.00 GB" in text and "104.31 GiB" in text


def test_every_control_of_memory_changes_what_is_shown():
    box = memory_explorer()
    control = controls(box)
    control["model"].value, control["method"].value = "llama-7b", "qlora"
    changes = {"attention": "eager", "optimizer": "adamw8bit", "GPU": "A100-40"}
    changes |= {"batch size": 4, "tokens": 2048, "rank r": 64, "gradient checkpointing": False}
    changes |= {"double quantization": False, "float32 upcast": True}
    changes |= {"method": "full", "recipe": "bf16", "model": "mistral-7b"}
    assert set(changes) == set(control)
    for name, value in changes.items():
        before = shown(box)
        control[name].value = value
        alt, text = shown(box)
        assert alt and (alt, text) != before, f"{name} changed nothing"


def test_controls_that_do_not_matter_are_switched_off():
    control = controls(memory_explorer())
    kinds = ("recipe", "rank r", "double quantization", "float32 upcast")
    assert [name for name in kinds if control[name].disabled] == list(kinds[1:])
    for method, off in {
        "lora": {"recipe", "double quantization", "float32 upcast"},
        "qlora": {"recipe"},
        "full": {"rank r", "double quantization", "float32 upcast"},
    }.items():
        control["method"].value = method
        assert {name for name in kinds if control[name].disabled} == off


def test_memory_explorer_answers_a_bad_value_in_place_and_recovers():
    box = memory_explorer()
    controls(box)["batch size"].value = 0
    assert shown(box) == (None, "batch size must be from 1 to 1,024 here, but is 0.")
    controls(box)["batch size"].value = 2
    assert "112.00 GB" in shown(box)[0]
