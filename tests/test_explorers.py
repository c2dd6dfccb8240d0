"""Tests of explorers, whose controls a test changes as a browser does."""

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils import explorers, figures, notebooks
from course_utils.explorers import (
    DISTRIBUTIONS,
    FORMATS,
    REAL_LAYER,
    BinsChoices,
    bins_answer,
    bins_explorer,
    explorer,
    lora_answer,
    lora_explorer,
    memory_answer,
    memory_explorer,
    overhead_answer,
    overhead_explorer,
    paging_answer,
    paging_explorer,
)
from course_utils.figures import Picture, loss_curve, memory_timeline
from course_utils.live.lora import CUSTOM, LORA_MODELS, MODULES, LoraChoices
from course_utils.live.overhead import OverheadChoices
from course_utils.live.paging import PagingChoices
from course_utils.live.steps import MemoryChoices
from course_utils.lora import count_lora_parameters
from course_utils.memory import (
    BLOCK_SIZES,
    GPUS,
    ModelShape,
    estimate,
    largest,
    nf4_bytes,
)
from course_utils.paging import simulate
from course_utils.quantization import overhead_bits
from course_utils.units import format_bytes

SOLUTIONS = Path(__file__).parents[1] / "solutions"
SLIDE = {"model": CUSTOM, "d_in": 1000, "d_out": 1000, "layers": 1, "rank": 8, "q_proj": True}
ALL = dict.fromkeys(MODULES, True)


def controls(box):
    """Return the controls of an explorer by description."""
    return {control.description: control for row in box.children[:-1] for control in row.children}


def shown(box):
    """Return the alt text of the picture that an explorer shows, or None, and the text."""
    value = box.children[-1].value
    alt = re.search(r'<svg role="img" aria-label="([^"]*)"', value)
    return alt and html.unescape(alt[1]), html.unescape(re.sub(r"<[^>]*>", "", value))


def change_each(box, changes):
    """Change each control in turn, and check that each change shows a new picture or text."""
    assert set(changes) == set(controls(box))
    for name, value in changes.items():
        before = shown(box)
        controls(box)[name].value = value
        assert shown(box) != before and shown(box)[0], f"{name} changed nothing"


def double(number):
    if number < 0:
        raise ValueError(f"{number} is < 0 & bad.")
    return Picture(loss_curve([]).figure, f"twice {number}"), f"{2 * number} <numbers>"


# --- any explorer ---------------------------------------------------------------------------------


def test_picture_and_text_follow_the_control():
    number = explorers.number("number", 4)
    box = explorer({"number": number}, double)
    assert shown(box) == ("twice 4", "8 <numbers>")
    number.value = 5
    assert shown(box) == ("twice 5", "10 <numbers>")


def test_a_bad_value_shows_a_message_until_the_next_allowed_value():
    number = explorers.number("number", 4)
    box = explorer({"number": number}, double)
    number.value = -1
    assert shown(box) == (None, "-1 is < 0 & bad.")
    assert 'role="alert"' in box.children[-1].value
    number.value = 6
    assert shown(box) == ("twice 6", "12 <numbers>")


def test_a_bad_value_at_the_start_shows_a_message():
    assert shown(explorer({"number": explorers.number("number", -2)}, double))[0] is None


def test_an_error_other_than_value_error_is_raised():
    with pytest.raises(ZeroDivisionError):
        explorer({"number": explorers.number("number", 1)}, lambda number: 1 / 0)


@pytest.mark.parametrize("solution", sorted(SOLUTIONS.glob("*/*.ipynb")), ids=lambda p: p.stem)
def test_explorers_and_paging_can_be_imported_while_an_assignment_is_graded(solution):
    withheld = notebooks.load(solution)["metadata"]["qlora_course"]["withheld"]
    others = {"course_utils.explorers", "course_utils.paging"} - set(withheld)
    code = f"import sys; sys.modules.update(dict.fromkeys({withheld}))\n"
    code += "".join(f"import {module}\n" for module in others)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- LoRA: the pure function ----------------------------------------------------------------------


def test_lora_on_the_matrix_of_the_slides():
    picture, text = lora_answer(LoraChoices(**SLIDE))
    assert "A and B have 16,000 parameters, 1.60% of the 1,000,000 in W." in str(picture)
    assert re.search(r"LoRA trains +16,000 parameters\n", text)
    assert re.search(r"ratio +1.60%\n", text) and re.search(r"break-even rank +500.0\n", text)
    # Adapters and full fine-tuning need 16 B per parameter; the file needs 4 B.
    assert "256.00 kB" in text and "16.00 MB" in text and "64.00 kB" in text
    assert "whole model" not in text


def test_every_ticked_module_and_every_layer_counts():
    _, text = lora_answer(
        LoraChoices(**SLIDE | {"k_proj": True, "v_proj": True, "o_proj": False, "layers": 10})
    )
    assert re.search(r"LoRA trains +480,000 parameters\n", text)
    assert re.search(r"adapters +30, in 10 layers\n", text)


@pytest.mark.parametrize("model", LORA_MODELS)
def test_lora_parameters_of_a_model_equal_those_of_the_memory_calculator(model):
    shape = ModelShape.preset(model)
    _, text = lora_answer(LoraChoices(**SLIDE | ALL | {"model": model, "layers": shape.layers}))
    count = shape.adapter_parameters(8, "all-linear")
    assert f"{count:,} parameters" in text and f"{shape.linear_parameters:,} parameters" in text
    assert f"{count / shape.parameters:.2%} of {shape.parameters:,} parameters" in text


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
def test_bad_values_for_lora_raise_a_value_error(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lora_answer(LoraChoices(**SLIDE | change))


# --- LoRA: the widgets ----------------------------------------------------------------------------


def test_lora_explorer_starts_with_the_slide_and_every_control_changes_the_result():
    box = lora_explorer()
    control = controls(box)
    # At first, q_proj, k_proj and v_proj are ticked.
    assert "At rank 8, A and B have 48,000" in shown(box)[0]
    changes = {"rank r": 16, "d_in": 500, "d_out": 700, "layers": 3}
    changes |= {name: not control[name].value for name in MODULES}
    for name, value in changes.items():
        before = shown(box)
        control[name].value = value
        alt, text = shown(box)
        assert alt != before[0] and text != before[1], f"{name} changed nothing"
    # In 3 layers, the 4 modules o_proj, gate_proj, up_proj and down_proj are ticked.
    expected = 3 * 4 * count_lora_parameters(500, 700, 16)
    assert f"{expected:,}" in alt and f"{expected:,}" in text


def test_choosing_a_model_sets_its_layers_and_disables_the_custom_shape():
    box = lora_explorer()
    control = controls(box)
    control["model"].value = "smollm2-135m"
    assert control["layers"].value == 30 and control["d_in"].disabled and control["d_out"].disabled
    ticked = ("q_proj", "k_proj", "v_proj")
    count = ModelShape.preset("smollm2-135m").adapter_parameters(8, ticked)
    assert f"At rank 8, A and B have {count:,}" in shown(box)[0]
    control["model"].value = CUSTOM
    assert control["layers"].value == 1 and not control["d_in"].disabled
    assert f"{3 * 16_000:,}" in shown(box)[1]


def test_a_bad_custom_shape_does_not_affect_a_model():
    box = lora_explorer()
    control = controls(box)
    control["d_in"].value = -5
    assert shown(box) == (None, "d_in must be from 1 to 1,000,000 here, but is -5.")
    control["model"].value = "llama-7b"
    assert "At rank 8" in shown(box)[0]
    control["model"].value = CUSTOM
    control["d_in"].value = 1000
    assert "48,000" in shown(box)[0]


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


def test_memory_of_7b_equals_the_112_gb_of_the_slides():
    picture, text = memory_answer(MemoryChoices(**SEVEN_B))
    assert "112.00 GB (weights 14.00 GB, gradients 14.00 GB, optimizer 84.00 GB)" in picture.alt
    assert re.search(r"total +112.00 GB +104.31 GiB\n", text)
    assert re.search(r"per parameter +16.00 B\n", text)
    assert re.search(r"fits on +none of these GPUs\n", text)
    assert text.endswith("unknown; choose a model with known layers")


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_on_7b_raise_a_value_error(method):
    with pytest.raises(ValueError, match=r"parameters of 7b is known, .* choose a preset"):
        memory_answer(MemoryChoices(**SEVEN_B | {"method": method}))


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("model", ["smollm2-135m", "llama-7b", "gpt2", "qwen2.5-7b"])
def test_memory_answer_equals_the_memory_calculator(model, method):
    _, text = memory_answer(MemoryChoices(**SEVEN_B | {"model": model, "method": method}))
    options = {
        "full": {},
        "lora": {"targets": "all-linear"},
        "qlora": {"targets": "all-linear", "double_quant": True, "upcast": False},
    }[method]
    e = estimate(model, method, **options)
    assert text.startswith(e.table())
    fitting = ", ".join(gpu for gpu in GPUS if e.fits(gpu)) or "none of these GPUs"
    assert re.search(rf"fits on +{re.escape(fitting)}\n", text)
    batch = largest("batch_size", "T4", model, method, **options)
    assert re.search(rf"largest batch +{batch:,} × 1,024 tokens on T4$", text)


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
def test_bad_values_for_memory_raise_a_value_error(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        memory_answer(MemoryChoices(**SEVEN_B | change))


@pytest.mark.parametrize("gpu", GPUS)
def test_the_picture_shows_the_chosen_gpu(gpu):
    small = {"model": "smollm2-135m", "method": "qlora", "gpu": gpu}
    assert f"{gpu} at " in memory_answer(MemoryChoices(**SEVEN_B | small))[0].alt


def test_an_unused_rank_is_not_checked():
    assert (
        memory_answer(MemoryChoices(**SEVEN_B | {"rank": 0}))[1]
        == memory_answer(MemoryChoices(**SEVEN_B))[1]
    )


# --- memory: the widgets --------------------------------------------------------------------------


def test_memory_explorer_starts_with_qlora_on_a_t4():
    alt, text = shown(memory_explorer())
    assert "QLoRA on an NF4 base 5.12 GB" in alt and "llama-7b, qlora" in text
    assert "5.12 GB" in text and "14 × 1,024 tokens on T4" in text


def test_every_control_of_memory_explorer_changes_the_result():
    box = memory_explorer()
    changes = {"attention": "eager", "optimizer": "adamw8bit", "GPU": "A100-40"}
    changes |= {"batch size": 4, "tokens": 2048, "rank r": 64, "gradient checkpointing": False}
    changes |= {"double quantization": False, "float32 upcast": True}
    changes |= {"method": "full", "recipe": "bf16", "model": "mistral-7b"}
    change_each(box, changes)


def test_unused_controls_are_disabled():
    control = controls(memory_explorer())
    kinds = ("recipe", "rank r", "double quantization", "float32 upcast")
    assert [name for name in kinds if control[name].disabled] == ["recipe"]
    for method, off in {
        "lora": {"recipe", "double quantization", "float32 upcast"},
        "qlora": {"recipe"},
        "full": {"rank r", "double quantization", "float32 upcast"},
    }.items():
        control["method"].value = method
        assert {name for name in kinds if control[name].disabled} == off


def test_memory_explorer_shows_a_message_for_a_bad_value_and_recovers():
    box = memory_explorer()
    controls(box)["batch size"].value = 0
    assert shown(box) == (None, "batch size must be from 1 to 1,024 here, but is 0.")
    controls(box)["batch size"].value = 2
    assert "QLoRA on an NF4 base" in shown(box)[0]


# --- bins -----------------------------------------------------------------------------------------

BINS = {"form": "int", "bits": 4, "block_size": 64, "distribution": "normal"}


def test_bins_of_int4():
    picture, text = bins_answer(BinsChoices(**BINS))
    assert re.search(r"squared error +1\.1[56]\d%", text)
    assert re.search(r"bits per number +4 \+ 0\.5 = 4\.5", text)
    assert "15 of 16 codes" in text
    assert "0.0714 to 0.1429 wide" in text and "0.0714 to 0.1429 wide" in picture.alt


def test_bins_of_nf4():
    picture, text = bins_answer(BinsChoices(**BINS | {"form": "nf"}))
    assert re.search(r"squared error +0\.84\d%", text)
    assert re.search(r"entropy +3\.8[89]\d of 4 bits", text)
    assert "0.0805 to 0.2375 wide" in text and "NormalFloat, 4 bits" in picture.alt


@pytest.fixture
def no_picture(monkeypatch):
    """Leave out the picture of bins, whose drawing takes most of the time."""
    monkeypatch.setattr(figures, "bins", lambda *_: None)


def error_of(**change):
    _, text = bins_answer(BinsChoices(**BINS | change))
    return float(re.search(r"squared error +([\d.]+)%", text)[1])


def test_the_best_format_depends_on_the_distribution(no_picture):
    for distribution in DISTRIBUTIONS:
        errors = {form: error_of(form=form, distribution=distribution) for form in FORMATS}
        assert min(errors, key=errors.get) == "lloyd", distribution
        best = min(("int", "nf", "fp4", "ocp"), key=errors.get)
        assert best == ("int" if distribution == "uniform" else "nf"), distribution


def test_more_bits_and_smaller_blocks_reduce_the_error(no_picture):
    for form in ("int", "nf", "lloyd"):
        errors = [error_of(form=form, bits=bits) for bits in range(2, 9)]
        assert errors == sorted(errors, reverse=True)
    errors = [error_of(block_size=size) for size in (16, 64, 4096, 65_536)]
    assert errors == sorted(errors)


def test_fp4_ignores_the_number_of_bits():
    for form in ("fp4", "ocp"):
        assert (
            bins_answer(BinsChoices(**BINS | {"form": form, "bits": 2}))[1]
            == (bins_answer(BinsChoices(**BINS | {"form": form}))[1])
        )


def test_the_real_layer_has_a_caution():
    assert (
        "the error is biased" in bins_answer(BinsChoices(**BINS | {"distribution": REAL_LAYER}))[1]
    )
    assert "biased" not in bins_answer(BinsChoices(**BINS))[1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bits": 1}, "bits must be from 2 to 8 here, but is 1."),
        ({"bits": 9}, "bits must be from 2 to 8 here, but is 9."),
        ({"form": "nf5"}, "format must be one of int, nf, fp4, ocp, lloyd here, but is nf5."),
        ({"distribution": "t"}, "numbers must be one of normal, uniform, heavy tails"),
    ],
)
def test_bad_values_for_bins_raise_a_value_error(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        bins_answer(BinsChoices(**BINS | change))


def test_every_control_of_bins_explorer_changes_the_result():
    box = bins_explorer()
    control = controls(box)
    changes = {"numbers": "uniform", "bits": 3, "block size": 32, "format": "ocp"}
    change_each(box, changes)
    assert control["bits"].disabled
    control["format"].value = "nf"
    assert not control["bits"].disabled


# --- paging: the pure function --------------------------------------------------------------------

EIGHT_B = {
    "model": "llama-3.1-8b",
    "method": "qlora",
    "optimizer": "adamw",
    "gpu": "T4",
    "batch_size": 1,
    "sequence_length": 1024,
    "longest": 4096,
    "rank": 64,
    "gradient_checkpointing": True,
    "paged": False,
}


def test_a_long_mini_batch_runs_out_of_memory_and_paging_helps():
    picture, text = paging_answer(PagingChoices(**EIGHT_B))
    assert "Out of memory in step 3 at the loss: 16.23 GB needed." in picture.alt
    fails, runs = "out of memory in step 3: 16.23 GB needed", "runs; 2.27 GB moved in 0.14 s"
    assert re.match(rf"paging off \(shown\) +{fails}\npaging on +{runs}\n", text)
    assert re.search(r"memory of T4 +15.10 GB\nbus +PCIe 3.0 ×16, nominally 15.75 GB/s\n", text)
    assert re.search(r"optimizer states +1.34 GB, of which 1.31 GB can page\n", text)
    assert re.search(r"tensors that page +384 of 448, those of at least 100,000 elements", text)
    paged, other = paging_answer(PagingChoices(**EIGHT_B | {"paged": True}))
    assert "Out of memory" not in paged.alt and "2.27 GB moved" in paged.alt
    assert re.match(rf"paging on \(shown\) +{runs}\npaging off +{fails}\n", other)


def test_a_longer_text_than_the_longest_runs_out_of_memory():
    _, text = paging_answer(PagingChoices(**EIGHT_B))
    match = re.search(r"longest text +([\d,]+) tokens, with paging ([\d,]+) tokens$", text)
    off, on = (int(number.replace(",", "")) for number in match.groups())
    for paged, most in ((False, off), (True, on)):
        for tokens, fails in ((most, False), (most + 1, True)):
            picture, _ = paging_answer(
                PagingChoices(**EIGHT_B | {"longest": tokens, "paged": paged})
            )
            assert ("Out of memory" in picture.alt) == fails


@pytest.mark.parametrize(("method", "paged"), [("full", True), ("lora", False), ("qlora", True)])
def test_the_timeline_shows_the_simulated_run(method, paged):
    picture, _ = paging_answer(
        PagingChoices(**EIGHT_B | {"model": "tinyllama-1.1b", "method": method, "paged": paged})
    )
    options = {
        "full": {"recipe": "fp32"},
        "lora": {"rank": 64, "targets": "all-linear"},
        "qlora": {"rank": 64, "targets": "all-linear", "double_quant": True, "upcast": False},
    }[method]
    options["optimizer"] = "paged_adamw" if paged else "adamw"
    run = simulate("tinyllama-1.1b", method, gpu="T4", lengths=(1024, 1024, 4096, 1024), **options)
    assert picture.alt == memory_timeline(run).alt


def test_the_longest_text_is_none_if_no_text_fits():
    options = EIGHT_B | {"model": "smollm2-1.7b", "method": "full"}
    _, text = paging_answer(PagingChoices(**options))
    assert re.search(r"longest text +none, with paging 2,949 tokens$", text)
    _, text = paging_answer(PagingChoices(**options | {"model": "llama-7b"}))
    assert re.search(r"longest text +none, with paging none$", text)


@pytest.mark.parametrize(
    ("gpu", "bus"),
    [("T4", "3.0 ×16, nominally 15.75"), ("A100-80", "4.0 ×16, nominally 31.51"), ("H100", "5.0")],
)
def test_the_bus_depends_on_the_gpu(gpu, bus):
    _, text = paging_answer(PagingChoices(**EIGHT_B | {"gpu": gpu}))
    assert f"PCIe {bus}" in text


def test_adapters_of_rank_8_on_llama_never_page():
    _, text = paging_answer(PagingChoices(**EIGHT_B | {"model": "llama-7b", "rank": 8}))
    assert "159.91 MB, of which 0 B can page" in text and "0 of 448" in text


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 0}, "batch size must be from 1 to 1,024 here, but is 0."),
        ({"longest": 0}, "long: tokens must be from 1 to 131,072 here, but is 0."),
        ({"sequence_length": -1}, "tokens must be from 1 to 131,072 here, but is -1."),
        ({"rank": 2000}, "rank r must be from 1 to 1,024 here, but is 2,000."),
        ({"model": "gpt2", "longest": 1025}, "gpt2 has a table of 1,024 positions"),
    ],
)
def test_bad_values_for_paging_raise_a_value_error(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        paging_answer(PagingChoices(**EIGHT_B | change))


# --- paging: the widgets --------------------------------------------------------------------------


@pytest.mark.full
def test_every_control_of_paging_explorer_changes_the_result():
    box = paging_explorer()
    control = controls(box)
    assert "16.23 GB" in shown(box)[0] and "16.23 GB" in shown(box)[1]
    changes = {"paged states": True, "optimizer": "adamw8bit", "model": "llama-7b", "GPU": "H100"}
    changes |= {"rank r": 128, "batch size": 2, "tokens": 700, "long: tokens": 2000}
    changes |= {"gradient checkpointing": False, "method": "full"}
    change_each(box, changes)
    assert control["rank r"].disabled
    control["method"].value = "lora"
    assert not control["rank r"].disabled


def test_paging_explorer_shows_a_message_for_a_bad_value_and_recovers():
    box = paging_explorer()
    controls(box)["rank r"].value = 0
    assert shown(box) == (None, "rank r must be from 1 to 1,024 here, but is 0.")
    controls(box)["rank r"].value = 64
    assert "16.23 GB" in shown(box)[0]


# --- overhead of block constants ------------------------------------------------------------------

OVERHEAD = {
    "model": "7b",
    "block_size": 64,
    "constant_bits": 32,
    "nested_bits": 8,
    "nested_block_size": 256,
    "double_quant": True,
}


def test_double_quantization_reduces_the_overhead_from_half_a_bit_to_an_eighth():
    picture, text = overhead_answer(OverheadChoices(**OVERHEAD))
    assert "blocks of 64 4.126953125;" in picture.alt and "Marked: blocks of 64." in picture.alt
    assert re.search(r"bits per weight +4\.126953125\n", text)
    assert re.search(r"codes +4 +3\.50 GB\n", text)
    assert re.search(r"\nconstants +0\.125 +109\.38 MB\n", text)
    assert re.search(r"nested constants +0\.001953125 +1\.71 MB\n", text)
    assert re.search(r"saved +0\.373046875 +326\.42 MB$", text)


def test_double_quantization_saves_3_gb_of_a_65b_model():
    _, text = overhead_answer(OverheadChoices(**OVERHEAD | {"model": "65b"}))
    assert re.search(r"total +33\.53 GB\n", text)
    assert re.search(r"saved +0\.373046875 +3\.03 GB$", text)


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("block_size", [32, 64, 4096])
def test_overhead_agrees_with_the_memory_calculator(block_size, double_quant):
    change = {"block_size": block_size, "double_quant": double_quant}
    picture, text = overhead_answer(OverheadChoices(**OVERHEAD | change))
    stored = nf4_bytes(7 * 10**9, **change)
    total = stored["codes"] + stored["constants"]
    assert re.search(rf"total +{re.escape(format_bytes(total))}\n", text)
    assert f"blocks of {block_size:,} {4 + overhead_bits(**change):.10g}" in picture.alt
    assert f"Marked: blocks of {block_size:,}." in picture.alt


def test_blocks_of_16_are_compared_with_the_block_sizes_of_bitsandbytes():
    picture, text = overhead_answer(OverheadChoices(**OVERHEAD | {"block_size": 16}))
    assert re.search(r"bits per weight +4\.5078125\n", text)
    for size in (16, *BLOCK_SIZES):
        assert f"blocks of {size:,} {4 + overhead_bits(size, True):.10g}" in picture.alt
    assert controls(overhead_explorer())["block size"].options == (16, *BLOCK_SIZES)


def test_quantizing_small_constants_needs_more_bits():
    _, text = overhead_answer(OverheadChoices(**OVERHEAD | {"constant_bits": 1, "nested_bits": 16}))
    cost = 16 / 64 + 1 / (64 * 256) - 1 / 64
    assert text.endswith(f"costs{'':24}{cost:<12.10g} {format_bytes(7e9 * cost / 8)}")
    assert "saved" not in text


@pytest.mark.parametrize("model", ["gpt2", "llama-7b", "smollm2-135m"])
def test_only_the_linear_layers_of_a_model_are_quantized(model):
    _, text = overhead_answer(OverheadChoices(**OVERHEAD | {"model": model}))
    assert f"weights in 4 bits            {ModelShape.preset(model).linear_parameters:,}\n" in text


def test_constants_of_16_bits_need_half_the_overhead():
    plain = OVERHEAD | {"constant_bits": 16, "double_quant": False}
    _, text = overhead_answer(OverheadChoices(**plain))
    assert re.search(r"bits per weight +4\.25\n", text) and "nested constants" not in text


@pytest.mark.parametrize(
    "change, message",
    [
        ({"constant_bits": 0}, "absmax bits must be from 1 to 64 here, but is 0."),
        ({"constant_bits": 65, "double_quant": False}, "absmax bits must be from 1 to 64"),
        ({"block_size": 8}, "block size must be one of 16, 32, 64, 128, 256, 512, 1024"),
        ({"nested_bits": 17}, "nested bits must be from 1 to 16 here, but is 17."),
        ({"nested_block_size": -1}, "nested size must be from 1 to 1,048,576 here, but is -1."),
    ],
)
def test_bad_values_for_overhead_raise_a_value_error(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        overhead_answer(OverheadChoices(**OVERHEAD | change))


def test_nested_values_are_ignored_without_double_quantization():
    plain = OVERHEAD | {"double_quant": False}
    other = plain | {"nested_bits": 0, "nested_block_size": 0}
    assert (
        overhead_answer(OverheadChoices(**other))[1] == overhead_answer(OverheadChoices(**plain))[1]
    )


def test_every_control_of_overhead_explorer_changes_the_result():
    box = overhead_explorer()
    control = controls(box)
    assert "4.126953125" in shown(box)[0] and "4.126953125" in shown(box)[1]
    changes = {"block size": 128, "absmax bits": 16, "nested bits": 4, "nested size": 64}
    changes |= {"model": "llama-7b", "double quantization": False}
    change_each(box, changes)
    assert control["nested bits"].disabled and control["nested size"].disabled
    control["double quantization"].value = True
    assert not control["nested bits"].disabled and not control["nested size"].disabled
