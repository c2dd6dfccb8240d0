"""Test explorers, whose controls a test changes as a browser does."""

import html
import re

import ipywidgets as widgets
import pytest

from course_utils import figures, formats
from course_utils.figures import Picture, loss_curve, memory_timeline
from course_utils.lora import count_lora_parameters
from course_utils.machine.units import format_bytes
from course_utils.memory import BLOCK_SIZES, GPUS, ModelShape, Plan, estimate, largest, nf4_bytes
from course_utils.notebook.explorers import (
    CUSTOM,
    DISTRIBUTIONS,
    LORA_MODELS,
    MODULES,
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
from course_utils.paging import longest_text, simulate
from course_utils.quantization import overhead_bits

# The options of the calculator for each method, as the explorers use them.
OPTIONS = {
    "full": {},
    "lora": {"rank": 64},
    "qlora": {"rank": 64},
}


def controls(box):
    """Return the controls of an explorer by description, without the one that unfolds others."""
    found, boxes = {}, list(box.children[:-1])
    while boxes:
        inner = boxes.pop(0)
        if isinstance(inner, widgets.Box):
            boxes += inner.children
        elif inner.description != "More settings":
            found[inner.description] = inner
    return found


def shown(box):
    """Return the alt text of the picture that an explorer shows, or None, and the text."""
    value = box.children[-1].value
    alt = re.search(r'<svg role="img" aria-label="([^"]*)"', value)
    return alt and html.unescape(alt[1]), html.unescape(re.sub(r"<[^>]*>", "", value))


def double(number):
    if number < 0:
        raise ValueError(f"{number} is < 0 & bad.")
    return Picture(loss_curve([]).figure, f"twice {number}"), f"{2 * number} <numbers>"


# --- any explorer ---------------------------------------------------------------------------------


def test_picture_and_text_follow_the_control_and_a_bad_value_shows_a_message():
    number = widgets.IntText(4)
    box = explorer({"number": number}, double)
    assert shown(box) == ("twice 4", "8 <numbers>")
    number.value = -1
    assert shown(box) == (None, "-1 is < 0 & bad.")
    assert 'role="alert"' in box.children[-1].value
    number.value = 6
    assert shown(box) == ("twice 6", "12 <numbers>")
    assert shown(explorer({"number": widgets.IntText(-2)}, double))[0] is None


def test_more_settings_are_folded_until_the_reader_ticks_the_checkbox():
    *_, switch, folded, _ = memory_explorer().children
    names = [box.description for row in folded.children for box in row.children]
    assert names[0] == "trainer" and "method" not in names and "GPU" not in names
    assert folded.layout.display == "none"
    switch.value = True
    assert folded.layout.display is None
    switch.value = False
    assert folded.layout.display == "none"


# Each explorer, a text that its picture and its numbers contain at first, and a change of each
# control, the last of which disables the controls that are named after it.
CHANGES = [
    (
        lora_explorer,
        "48,000",
        {"rank r": 16, "d_in": 500, "d_out": 700, "layers": 3}
        | {name: name not in ("q_proj", "k_proj", "v_proj") for name in reversed(MODULES)}
        | {"model": "smollm2-135m"},
        {"d_in", "d_out", "layers"},
    ),
    (
        bins_explorer,
        "0.0714 to 0.1429 wide",
        {"numbers": "uniform", "bits": 3, "block size": 32, "format": "ocp"},
        {"bits"},
    ),
    (
        memory_explorer,
        "3.87 GB",
        {
            "trainer": "transformers",
            "attention": "eager",
            "optimizer": "adamw8bit",
            "GPU": "A100-40",
        }
        | {"batch size": 4, "tokens": 2048, "rank r": 64, "gradient checkpointing": False}
        | {"double quantization": False, "model": "mistral-7b"}
        | {"method": "full", "recipe": "bf16"},
        {"rank r", "double quantization"},
    ),
    pytest.param(
        paging_explorer,
        "16.23 GB",
        {"paged states": True, "optimizer": "adamw8bit", "model": "llama-7b", "GPU": "H100"}
        | {"rank r": 128, "batch size": 2, "tokens": 700, "long: tokens": 2000}
        | {"gradient checkpointing": False, "method": "full"},
        {"rank r"},
        marks=pytest.mark.full,
    ),
    (
        overhead_explorer,
        "4.126953125",
        {"block size": 128, "absmax bits": 16, "nested bits": 4, "nested size": 64}
        | {"model": "llama-7b", "double quantization": False},
        {"nested bits", "nested size"},
    ),
]


@pytest.mark.full
@pytest.mark.parametrize(("make", "first", "changes", "off"), CHANGES)
def test_every_control_changes_the_picture_or_the_text(make, first, changes, off):
    box = make()
    control = controls(box)
    assert set(changes) == set(control)
    assert all(first in part for part in shown(box))
    for name, value in changes.items():
        before = shown(box)
        control[name].value = value
        assert shown(box) != before and shown(box)[0], f"{name} changed nothing"
    assert {name for name in control if control[name].disabled} == off


@pytest.mark.parametrize(
    ("make", "label", "bad", "message"),
    [
        (bins_explorer, "bits", 9, "bits must be a whole number from 2 to 8, but is 9."),
        (lora_explorer, "d_in", -5, "d_in must be a whole number from 1 to 1,000,000, but is -5."),
        (lora_explorer, "rank r", 1001, "rank r must be from 1 to 1,000 here, but is 1,001."),
        (memory_explorer, "tokens", 10**12, "tokens must be a whole number from 1 to 131,072, but"),
        (memory_explorer, "model", "7b", "parameters of 7b is known, .* choose a preset"),
        (paging_explorer, "batch size", 0, "batch size must be a whole number from 1 to 1,024, "),
        (overhead_explorer, "nested bits", 17, "nested bits must be a whole number from 1 to 16, "),
    ],
)
def test_a_bad_value_shows_a_message_until_the_next_allowed_value(make, label, bad, message):
    box = make()
    control, before = controls(box)[label], shown(box)
    good = control.value
    control.value = bad
    assert shown(box)[0] is None and re.search(message, shown(box)[1])
    control.value = good
    assert shown(box) == before


# --- LoRA -----------------------------------------------------------------------------------------

SLIDE = {"model": CUSTOM, "d_in": 1000, "d_out": 1000, "layers": 1, "rank": 8, "q_proj": True}


def test_lora_on_the_matrix_of_the_slides():
    picture, text = lora_answer(**SLIDE)
    assert "A and B have 16,000 parameters, 1.60% of the 1,000,000 in W." in str(picture)
    for line in (
        *("LoRA trains +16,000 parameters", "ratio +1.60%", "break-even rank +500.0"),
        # Adapters and full fine-tuning need 16 B per parameter; the file needs 4 B.
        *("LoRA with Adam, 16 B each +256.00 kB", "full with Adam, .* +16.00 MB"),
        "file .*64.00 kB",
    ):
        assert re.search(line, text)
    assert "whole model" not in text


def test_every_ticked_module_and_every_layer_counts():
    _, text = lora_answer(**SLIDE | {"k_proj": True, "v_proj": True, "o_proj": False, "layers": 10})
    assert re.search(r"LoRA trains +480,000 parameters\n", text)
    assert re.search(r"adapters +30, in 10 layers\n", text)
    assert f"{10 * 3 * count_lora_parameters(1000, 1000, 8):,}" in text
    with pytest.raises(ValueError, match="Tick at least one module"):
        lora_answer(**SLIDE | {"q_proj": False})


@pytest.mark.parametrize("model", LORA_MODELS)
def test_lora_parameters_of_a_model_equal_those_of_the_memory_calculator(model):
    shape = ModelShape.preset(model)
    _, text = lora_answer(model, 8, **dict.fromkeys(MODULES, True))
    count = Plan.of(shape, "lora", {"rank": 8, "targets": "all-linear"}).trained
    assert f"{count:,} parameters" in text and f"{shape.linear_parameters:,} parameters" in text
    assert f"{count / shape.parameters:.2%} of {shape.parameters:,} parameters" in text


# --- memory ---------------------------------------------------------------------------------------

SEVEN_B = {
    "model": "7b", "method": "full", "optimizer": "adamw", "attention": "sdpa",
    "gpu": "T4", "batch_size": 1, "sequence_length": 1024, "gradient_checkpointing": True,
}  # fmt: skip


def test_memory_of_7b_equals_the_112_gb_of_the_slides():
    picture, text = memory_answer(**SEVEN_B)
    assert "112.00 GB (weights 14.00 GB, gradients 14.00 GB, optimizer 84.00 GB)" in picture.alt
    assert re.search(r"total +112,000,000,000 B +112.00 GB +104.31 GiB\n", text)
    assert text.endswith("unknown; choose a model with known layers")


@pytest.mark.parametrize("method", OPTIONS)
@pytest.mark.parametrize("model", ["smollm2-135m", "llama-7b", "qwen3-0.6b"])
def test_memory_answer_equals_the_memory_calculator(model, method):
    picture, text = memory_answer(**SEVEN_B | {"model": model, "method": method} | OPTIONS[method])
    options = OPTIONS[method] | {"sequence_length": 1024}
    e = estimate(model, method, **options)
    assert text.startswith(str(e)) and "T4 at " in picture.alt
    fitting = ", ".join(gpu for gpu in GPUS if e.fits(gpu)) or "none of these GPUs"
    assert re.search(rf"fits on +{re.escape(fitting)}\n", text)
    batch = largest("batch_size", "T4", model, method, **options)
    assert re.search(rf"largest batch +{batch:,} × 1,024 tokens on T4$", text)


# --- bins -----------------------------------------------------------------------------------------

BINS = {"form": "int", "bits": 4, "block_size": 64, "distribution": "normal"}


LINEAR = [r"squared error +1\.1[56]\d%", r"bits per number +4 \+ 0\.5 = 4\.5", "15 of 16 codes"]
NORMAL = [r"squared error +0\.84\d%", r"entropy +3\.8[89]\d of 4 bits", "0.0805 to 0.2375 wide"]


@pytest.mark.parametrize(
    ("form", "lines", "title"),
    [
        ("int", [*LINEAR, "0.0714 to 0.1429 wide"], "int: equal steps, 4 bits"),
        ("nf", NORMAL, "NormalFloat, 4 bits"),
    ],
)
def test_bins_of_a_format(form, lines, title):
    picture, text = bins_answer(**BINS | {"form": form})
    assert title in picture.alt and all(re.search(line, text) for line in lines)


@pytest.mark.full
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_best_format_depends_on_the_distribution(monkeypatch, distribution):
    # Drawing takes longer than the errors.
    monkeypatch.setattr(figures, "bins", lambda *_: None)
    errors = {}
    for form in (*formats.NAMES, "lloyd"):
        _, text = bins_answer(**BINS | {"form": form, "distribution": distribution})
        errors[form] = float(re.search(r"squared error +([\d.]+)%", text)[1])
    assert min(errors, key=errors.get) == "lloyd"
    best = min(formats.NAMES, key=errors.get)
    assert best == ("int" if distribution == "uniform" else "nf")


# --- paging ---------------------------------------------------------------------------------------

EIGHT_B = {
    "model": "llama-3.1-8b", "method": "qlora", "optimizer": "adamw", "gpu": "T4", "rank": 64,
    "batch_size": 1, "sequence_length": 1024, "longest": 4096, "gradient_checkpointing": True,
    "paged": False,
}  # fmt: skip


def test_a_long_mini_batch_runs_out_of_memory_and_paging_helps():
    picture, text = paging_answer(**EIGHT_B)
    assert "Out of memory in step 3 at the loss: 16.23 GB needed." in picture.alt
    fails, runs = "out of memory in step 3: 16.23 GB needed", "runs; 2.27 GB moved in 0.14 s"
    assert re.match(rf"paging off \(shown\) +{fails}\npaging on +{runs}\n", text)
    assert re.search(r"memory of T4 +15.10 GB\nbus +PCIe 3.0 ×16, nominally 15.75 GB/s\n", text)
    assert re.search(r"optimizer states +1.34 GB, of which 1.31 GB can page\n", text)
    assert re.search(r"tensors that page +384 of 448, those of at least 100,000 elements", text)
    paged, other = paging_answer(**EIGHT_B | {"paged": True})
    assert "Out of memory" not in paged.alt and "2.27 GB moved" in paged.alt
    assert re.match(rf"paging on \(shown\) +{runs}\npaging off +{fails}\n", other)


@pytest.mark.parametrize(("method", "paged"), [("full", True), ("lora", False), ("qlora", True)])
def test_the_timeline_and_the_longest_text_are_those_of_the_simulation(method, paged):
    change = {"model": "tinyllama-1.1b", "method": method, "paged": paged}
    picture, text = paging_answer(**EIGHT_B | change)
    options = {"recipe": "fp32", "loss": "logits", "keep_output": True} | OPTIONS[method]
    options |= {"optimizer": "paged_adamw" if paged else "adamw"}
    run = simulate("tinyllama-1.1b", method, gpu="T4", lengths=(1024, 1024, 4096, 1024), **options)
    assert picture.alt == memory_timeline(run).alt
    assert f"{longest_text('T4', 'tinyllama-1.1b', method, **options):,} tokens" in text


# --- overhead of block constants ------------------------------------------------------------------

NESTED = {"nested_bits": 8, "nested_block_size": 256}
OVERHEAD = {"model": "7b", "block_size": 64, "constant_bits": 32, "double_quant": True} | NESTED


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("block_size", [16, 64, 4096])
def test_overhead_agrees_with_the_memory_calculator(block_size, double_quant):
    picture, text = overhead_answer(
        **OVERHEAD | {"block_size": block_size, "double_quant": double_quant}
    )
    for size in BLOCK_SIZES:
        assert f"blocks of {size:,} {4 + overhead_bits(size, double_quant):.10g}" in picture.alt
    assert f"Marked: blocks of {block_size:,}." in picture.alt
    if block_size in BLOCK_SIZES:
        stored = nf4_bytes(7 * 10**9, block_size=block_size, double_quant=double_quant)
        total = format_bytes(stored["codes"] + stored["constants"])
        assert re.search(rf"total +{re.escape(total)}\n", text)
