"""memory: every part against bytes measured here, on a T4, and against the papers."""

import csv
import pickle
import re
import subprocess
import sys
from importlib import resources
from itertools import product

import bitsandbytes
import numpy as np
import pytest
import torch

from course_utils.measure import optimizer_bytes
from course_utils.memory import (
    GPUS,
    OPTIMIZERS,
    PARTS,
    PRESETS,
    RECIPES,
    ModelShape,
    Plan,
    estimate,
    kv_cache_bytes,
    largest,
    nf4_bytes,
    timeline,
    trainable_tensors,
    usable_bytes,
)
from course_utils.units import GB, GiB
from tests.steps import CONFIGS, step

WAYS = {
    "full-bf16": ("full", {"recipe": "bf16"}),
    "full-fp32": ("full", {"recipe": "fp32"}),
    "full-autocast": ("full", {"recipe": "autocast"}),
    "lora": ("lora", {}),
    "lora-fp32": ("lora", {"compute_dtype": "float32"}),
    "lora-qv": ("lora", {"targets": ("q_proj", "v_proj")}),
    "lora-v": ("lora", {"targets": ("v_proj",)}),
    "lora-some": ("lora", {"targets": ("k_proj", "o_proj", "up_proj")}),
    "lora-autocast": ("lora", {"recipe": "autocast"}),
    "lora-o": ("lora", {"targets": ("o_proj",)}),
    "lora-gate": ("lora", {"targets": ("gate_proj",)}),
    "lora-up": ("lora", {"targets": ("up_proj", "down_proj")}),
    "lora-down": ("lora", {"targets": ("down_proj",)}),
    "lora-some-autocast": ("lora", {"recipe": "autocast", "targets": ("k_proj", "up_proj")}),
    "qlora-upcast": ("qlora", {}),
    "qlora-autocast": ("qlora", {"recipe": "autocast", "upcast": False}),
    "qlora-upcast-autocast": ("qlora", {"recipe": "autocast"}),
    "qlora": ("qlora", {"upcast": False, "double_quant": True}),
}


def cases():
    for name, way, attention, checkpointing in product(
        CONFIGS, WAYS, ("sdpa", "eager"), (False, True)
    ):
        partial = "targets" in WAYS[way][1]
        if partial and name != "grouped" and (name, way) != ("qwen3", "lora-v"):
            continue
        if name in ("gelu", "gpt2-gelu") and way not in ("full-bf16", "qlora-upcast"):
            continue
        fast = (attention == "sdpa") != checkpointing  # one of the two diagonals
        mark = () if fast else pytest.mark.slow
        label = f"{name}-{way}-{attention}-{'checkpointing' if checkpointing else 'all'}"
        yield pytest.param(name, way, attention, checkpointing, marks=mark, id=label)


# --- against bytes measured on this machine ---


@pytest.mark.parametrize(("name", "way", "attention", "checkpointing"), list(cases()))
def test_every_part_of_a_real_step_is_predicted(
    name, way, attention, checkpointing, tmp_path, tokenizer
):
    method, options = WAYS[way]
    options = options | {"attention": attention, "gradient_checkpointing": checkpointing}
    measured, predicted = step(name, tmp_path, tokenizer, method, **options)
    for part in ("weights", "adapters", "gradients", "optimizer"):
        assert getattr(predicted, part) == getattr(measured, part), part
    assert predicted.activations == pytest.approx(measured.activations, rel=0.002)
    held = predicted.weights + predicted.adapters + predicted.optimizer
    assert predicted.total - held == pytest.approx(measured.peak, rel=0.005)


@pytest.mark.parametrize("way", ["full-fp32", "lora", "qlora-upcast"])
def test_a_loop_that_keeps_only_the_loss_takes_less(way, tmp_path, tokenizer):
    method, options = WAYS[way]
    options = options | {"keep_output": False, "gradient_checkpointing": False}
    measured, predicted = step("grouped", tmp_path, tokenizer, method, **options)
    held = predicted.weights + predicted.adapters + predicted.optimizer
    assert predicted.total - held == pytest.approx(measured.peak, rel=0.005)
    kept = estimate(predicted.shape, method, **vars_of(predicted.settings, keep_output=True))
    logits = predicted.settings.tokens * predicted.shape.vocab * predicted.settings.stream_bytes
    assert kept.total - predicted.total == logits


def vars_of(settings, **changes):
    """Options of `estimate` that give these settings, with changes."""
    options = {name: getattr(settings, name) for name in settings.__dataclass_fields__} | changes
    return {name: value for name, value in options.items() if name != "method"}


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("adamw", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
        ("sgd_momentum", lambda p: torch.optim.SGD(p, momentum=0.9)),
        ("adamw8bit", bitsandbytes.optim.AdamW8bit),
        ("paged_adamw", bitsandbytes.optim.PagedAdamW),
        ("paged_adamw8bit", bitsandbytes.optim.PagedAdamW8bit),
    ],
)
def test_optimizer_states_are_exact(name, optimizer):
    """Tensors of the adapters of one layer of SmolLM2 at rank 8: some below 4,096 numbers."""
    shape = ModelShape.from_config(PRESETS["smollm2-135m"] | {"num_hidden_layers": 1})
    pairs = [(8 * i, 8 * o) for i, o in shape.linear_layers().values()]
    parameters = [torch.nn.Parameter(torch.ones(n)) for pair in pairs for n in pair]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    trained = optimizer(parameters)
    trained.step()
    options = {"rank": 8, "targets": "all-linear", "optimizer": name}
    assert estimate(shape, "lora", **options).optimizer == optimizer_bytes(trained)


@pytest.mark.parametrize("block_size", [32, 64, 128, 4096])
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("size", [64 * 64, 64 * 300, 70_000])
def test_nf4_bytes_are_those_of_bitsandbytes(size, block_size, double_quant):
    codes, state = bitsandbytes.functional.quantize_4bit(
        torch.randn(size), None, None, block_size, double_quant, "nf4"
    )
    stored = nf4_bytes(size, block_size, double_quant)
    assert stored["codes"] == codes.nbytes
    constants, books = state.absmax.nbytes, state.code.nbytes
    if double_quant:
        constants += state.state2.absmax.nbytes
        books += state.state2.code.nbytes + state.offset.nbytes
    assert stored["constants"] == constants and stored["code books"] == books


# --- against a Tesla T4 ---


def t4_rows():
    text = resources.files("course_utils").joinpath("data/t4_measured_peaks.csv").read_text()
    return list(csv.DictReader(line for line in text.splitlines() if line[0] != "#"))


def t4_error(row):
    """Relative error of the prediction for one row, which is in MiB."""
    names = {"TinyLlama/TinyLlama-1.1B-Chat-v1.0": "tinyllama-1.1b"}
    names |= {"HuggingFaceTB/SmolLM2-1.7B": "smollm2-1.7b"}
    names |= {"Qwen/Qwen2.5-1.5B-Instruct": "qwen2.5-1.5b"}
    predicted = estimate(
        names[row["model"]],
        "qlora",
        rank=int(row["lora_rank"]),
        batch_size=int(row["batch_size"]),
        sequence_length=int(row["sequence_length"]),
        attention=row["attention"],
    )
    return predicted.total / (int(row["peak_allocated_mib"]) * 2**20) - 1


def test_peaks_on_a_t4_are_predicted():
    errors = [abs(t4_error(row)) for row in t4_rows()]
    assert len(errors) == 10
    assert max(errors) < 0.0015 and sum(errors) / len(errors) < 0.0005


# --- against the slides and the papers ---


def test_the_slides_7b():
    e = estimate("7b")
    assert (e.weights, e.gradients, e.optimizer) == (14 * GB, 14 * GB, 84 * GB)
    assert e.total == 112 * GB and e.peak == "the update"
    fp32 = estimate("7b", recipe="fp32", optimizer="sgd")
    assert fp32.weights == 28 * GB and round(fp32.weights / GiB, 2) == 26.08


@pytest.mark.parametrize("recipe", RECIPES)
def test_bytes_a_parameter(recipe):
    each = {"fp32": 16, "mixed": 16, "autocast": 16, "bf16": 8, "qlora-paper": 12}[recipe]
    assert estimate(ModelShape.generic(1e9), recipe=recipe).total == each * GB


def test_mixed_precision_adam_splits_as_the_zero_paper_says():
    lines = {line.what: line.size for line in estimate(ModelShape.generic(1)).lines}
    assert list(lines.values()) == [2, 2, 4, 8]  # weights, gradients, master copy, m and v


def test_65b():
    full = estimate(ModelShape.generic(65e9), recipe="qlora-paper")
    assert full.total == 780 * GB
    assert estimate("llama-65b", recipe="qlora-paper").total > 780 * GB
    options = {"targets": "all-linear", "double_quant": True, "recipe": "qlora-paper"}
    options |= {"rank": 64, "upcast": False, "compute_dtype": "bfloat16", "sequence_length": 512}
    assert estimate("llama-65b", "qlora", **options).total < 48 * GB


def test_bits_of_nf4():
    def bits(**options):
        stored = nf4_bytes(7_000_014_848, 64, **options)  # whole blocks of blocks
        return 8 * (stored["codes"] + stored["constants"]) / 7_000_014_848

    assert bits(double_quant=False) == 4.5
    assert bits(double_quant=True) == 4.126953125
    billions = nf4_bytes(7_000_014_848)
    assert (billions["codes"] + billions["constants"]) / GB == pytest.approx(3.611, abs=0.001)
    once, twice = (
        sum(nf4_bytes(65 * 10**9, 64, double)[part] for part in ("codes", "constants")) / GB
        for double in (False, True)
    )
    assert twice == pytest.approx(33.53, abs=0.01) and once - twice == pytest.approx(
        3.031, abs=0.001
    )


def test_smollm2_in_nf4_to_the_byte():
    options = {"upcast": False, "compute_dtype": "bfloat16"}
    assert estimate("smollm2-135m", "qlora", double_quant=True, **options).weights == 111_692_152
    assert estimate("smollm2-135m", "qlora", **options).weights == 116_426_752
    upcast = estimate("smollm2-135m", "qlora", double_quant=True).weights
    table_and_norms = 49152 * 576 + 61 * 576
    assert upcast - 111_692_152 == 2 * table_and_norms


def test_adapters_take_16_bytes_a_parameter_in_peft_and_12_in_the_paper():
    for recipe, each in (("fp32", 16), ("qlora-paper", 12)):
        e = estimate("smollm2-135m", "qlora", rank=8, targets="all-linear", recipe=recipe)
        assert e.adapters + e.gradients + e.optimizer == each * 2_442_240


def test_kv_cache():
    assert kv_cache_bytes("llama-7b", 2048) == 2 * 32 * 32 * 128 * 2 * 2048 == GiB
    assert kv_cache_bytes("llama-3.1-8b", 2048, batch_size=4) == GiB  # a quarter of the heads
    assert kv_cache_bytes("llama-7b", 1, dtype="float32") == 2 * 32 * 4096 * 4
    with pytest.raises(ValueError, match="bare number"):
        kv_cache_bytes("7b", 10)
    with pytest.raises(ValueError, match="dtype must be one of"):
        kv_cache_bytes("llama-7b", 10, dtype="int4")


# --- the breakdown ---


@pytest.mark.parametrize(
    ("way", "preset"), list(product(WAYS, ("llama-7b", "qwen2.5-0.5b", "gpt2")))
)
def test_parts_and_peak_add_up_to_the_total(way, preset):
    method, options = WAYS[way]
    if preset == "gpt2":
        options = options | {"targets": "all-linear"}
    e = estimate(preset, method, **options)
    assert e.total == sum(e.parts.values()) == sum(e.at_peak.values())
    assert all(size > 0 for size in e.at_peak.values())
    assert tuple(e.parts) == PARTS
    for part in PARTS:
        assert sum(line.size for line in e.lines if line.part == part) == getattr(e, part)


def test_the_peak_moves():
    wide = estimate("qwen2.5-0.5b", "qlora")
    assert wide.peak == "the loss"
    assert estimate("tinyllama-1.1b", "qlora", attention="eager", sequence_length=4096).peak == (
        "the last layer's backward"
    )
    assert estimate("llama-7b", batch_size=1, sequence_length=32).peak == "the update"


def test_an_estimate_is_frozen():
    e = estimate("7b")
    with pytest.raises(AttributeError):
        e.weights = 1
    with pytest.raises(TypeError):
        e.at_peak["weights"] = 1
    assert pickle.loads(pickle.dumps(e)) == e and len({e, estimate("7b")}) == 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("full", {"upcast": False}),
        ("lora", {}),
        ("qlora", {}),
        ("qlora", {"recipe": "autocast"}),
    ],
)
def test_every_line_of_a_layers_backward_has_a_formula_that_gives_its_bytes(
    method, more, attention
):
    options = {"attention": attention, "sequence_length": 2048, "device": "cpu"} | more
    e = estimate("llama-65b", method, batch_size=2, keep_output=False, **options)
    lines = [line for line in e.lines if line.what.startswith("a layer at work: ")]
    if attention == "eager":
        assert len(lines) > 5 and "backward" in e.peak
    words = {" tokens": "", " heads": "", " words": "", "rank ": "", "×": "*", ",": ""}
    for line in lines:
        formula = line.formula
        for word, symbol in words.items():
            formula = formula.replace(word, symbol)
        if re.fullmatch(r"[\d* ()+]+", formula):
            assert eval(formula) == abs(line.size), line
        else:
            assert any(name in line.formula for name in ("rms", "norm", "mean")), line


def test_dropout_of_the_config_is_pointed_out():
    assert "dropout of 0.1 in the config is taken to be off" in estimate("gpt2").explain()
    assert "dropout" not in estimate("llama-7b").explain()


def test_numpy_numbers_are_numbers():
    e = estimate("smollm2-135m", batch_size=np.int64(2), sequence_length=np.int32(128))
    assert e == estimate("smollm2-135m", batch_size=2, sequence_length=128)
    assert type(e.total) is int


def test_text_names_gb_and_gib_and_every_formula():
    e = estimate("llama-7b", "qlora", targets="all-linear", double_quant=True)
    text = str(e)
    assert text.startswith(f"llama-7b, qlora: peak at {e.peak}\n")
    assert f"{e.total:,} B" in text and "GB" in text and "GiB" in text
    explained = e.explain()
    for line in e.lines:
        assert f"{line.size:>18,} B  {line.what} = {line.formula}" in explained
        assert f"= {line.formula}  [{line.source}]" in explained and line.source and line.formula
    assert "[QLoRA, section 3]" in explained and explained.endswith(e.peak)


def test_accumulation_keeps_gradients_through_the_loss():
    once, often = (estimate("smollm2-135m", "lora", accumulation=n) for n in (1, 4))
    assert often.total - once.total == once.gradients
    assert often.gradients == once.gradients


def test_the_upcast_costs_what_it_turns_into_float32():
    options = {"targets": "all-linear", "double_quant": True}
    with_it, without = (estimate("llama-7b", "qlora", upcast=u, **options) for u in (True, False))
    assert with_it.weights - without.weights == 2 * (2 * 32000 * 4096 + 65 * 4096)
    assert with_it.activations > without.activations


def test_every_layer_can_stay_unquantized():
    names = tuple(ModelShape.preset("llama-7b").linear_layers())
    e = estimate("llama-7b", "qlora", unquantized=names, upcast=False, device="cpu")
    assert e.weights == estimate("llama-7b", "lora", device="cpu").weights


def test_the_head_is_never_quantized():
    with_head = estimate("llama-7b", "qlora", unquantized=("lm_head", "down_proj"))
    assert with_head.weights == estimate("llama-7b", "qlora", unquantized=("down_proj",)).weights
    assert estimate("llama-7b", "qlora", unquantized="lm_head").total == (
        estimate("llama-7b", "qlora").total
    )


def test_the_format_of_full_fine_tuning_is_that_of_its_recipe():
    """CUDA's softmax reads float16 directly, and float32 copies of bfloat16."""
    options = {"attention": "eager", "sequence_length": 4096}
    totals = {
        (recipe, dtype): estimate("smollm2-135m", recipe=recipe, compute_dtype=dtype, **options)
        for recipe in ("bf16", "mixed")
        for dtype in ("float16", "bfloat16")
    }
    totals = {key: e.total for key, e in totals.items()}
    assert totals["bf16", "float16"] == totals["bf16", "bfloat16"]
    assert totals["mixed", "float16"] < totals["mixed", "bfloat16"]


def test_layers_can_stay_unquantized():
    options = {"targets": "all-linear", "upcast": False}
    mixed = estimate("llama-7b", "qlora", unquantized=("down_proj",), **options)
    all_nf4 = estimate("llama-7b", "qlora", **options)
    n = 11008 * 4096
    saved = sum(nf4_bytes(n, 64, False).values())
    assert mixed.weights - all_nf4.weights == 32 * (2 * n - saved)


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3", "fsdp"])
def test_sharding_divides_what_its_stage_divides(sharding):
    alone, shared = estimate("7b"), estimate("7b", gpus=8, sharding=sharding)
    assert shared.optimizer == alone.optimizer / 8
    assert shared.gradients == alone.gradients / (1 if sharding == "zero1" else 8)
    assert shared.weights == alone.weights / (8 if sharding in ("zero3", "fsdp") else 1)


def test_zeros_of_the_paper():
    """ZeRO, table 1: 7.5B parameters on 64 GPUs take 120, 31.4, 16.6 and 1.9 GB."""
    model = ModelShape.generic(7_500_000_000)
    totals = [estimate(model, gpus=64, sharding=s).total for s in (None, "zero1", "zero2", "zero3")]
    assert [round(total / GB, 1) for total in totals] == [120.0, 31.4, 16.6, 1.9]


def test_gathered_layers_count_with_zero3():
    sharded = estimate("llama-7b", gpus=8, sharding="zero3")
    one = 4 * 4096**2 + 3 * 4096 * 11008
    assert sharded.at_peak["gathered layers"] == 2 * one * 2
    assert "gathered layers" not in estimate("llama-7b", gpus=1, sharding="zero3").at_peak
    coded = estimate("llama-7b", "qlora", gpus=8, sharding="fsdp").at_peak["gathered layers"]
    assert coded == one  # two layers of half bytes: what is gathered are the codes
    options = {"unquantized": ("down_proj",), "gpus": 8, "sharding": "fsdp", "upcast": False}
    kept = estimate("llama-7b", "qlora", **options).at_peak["gathered layers"]
    down = 4096 * 11008
    assert kept == one - down + 2 * down * 2


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3", "fsdp"])
def test_adapters_scratch_and_pages_are_shared_too(sharding):
    alone, shared = (
        estimate("llama-7b", "qlora", targets="all-linear", rank=64, optimizer="paged_adamw", **on)
        for on in ({}, {"gpus": 8, "sharding": sharding})
    )
    assert shared.paged == shared.optimizer == alone.optimizer / 8
    assert shared.adapters == alone.adapters / (8 if sharding in ("zero3", "fsdp") else 1)
    constants = [line.size for line in shared.lines if line.what == "NF4 constants"]
    assert constants == [line.size for line in alone.lines if line.what == "NF4 constants"]
    foreach = {"optimizer": "adamw_foreach", "sequence_length": 8, "sharding": sharding}
    scratch = estimate("llama-7b", gpus=8, **foreach).at_peak["scratch of the optimizer"]
    assert scratch == 4 * ModelShape.preset("llama-7b").parameters / 8


def test_paged_states_are_those_of_large_tensors():
    """bitsandbytes pages from 100,000 numbers on: not the adapters of LLaMA-7B at rank 8."""
    options = {"targets": "all-linear", "optimizer": "paged_adamw"}
    assert estimate("llama-7b", "qlora", rank=8, **options).paged == 0
    full = estimate("llama-7b", "qlora", rank=64, **options)
    assert full.paged == full.optimizer
    assert estimate("llama-7b", "qlora", rank=64, targets="all-linear").paged == 0


def test_cuda_adds_what_a_cpu_does_not_have():
    options = {"targets": "all-linear", "sequence_length": 512}
    gpu = estimate("tinyllama-1.1b", "qlora", **options)
    cpu = estimate("tinyllama-1.1b", "qlora", device="cpu", **options)
    assert gpu.total > cpu.total and gpu.weights == cpu.weights
    assert "cuBLAS workspaces" in gpu.at_peak and "cuBLAS workspaces" not in cpu.at_peak


# --- moment by moment ---


def every_choice():
    """Presets and choices, each pair of them somewhere."""
    methods = [("full", {"recipe": name}) for name in RECIPES]
    methods += [("lora", {"targets": "all-linear"}), ("lora", {"recipe": "autocast"})]
    methods += [
        ("qlora", {"targets": "all-linear", "upcast": u, "rank": 64}) for u in (True, False)
    ]
    for preset, (method, more), checkpointing, attention in product(
        PRESETS, methods, (True, False), ("sdpa", "eager")
    ):
        if preset.startswith("gpt") and method != "full":
            more = more | {"targets": "all-linear"}
        options = {"gradient_checkpointing": checkpointing, "attention": attention} | more
        yield preset, method, options


def test_the_highest_moment_is_the_estimates_peak():
    numbers = {"sequence_length": (1, 64, 1000), "accumulation": (1, 1, 1, 1, 3)}
    numbers |= {"optimizer": tuple(OPTIMIZERS), "keep_output": (True, False)}
    for n, (preset, method, options) in enumerate(every_choice()):
        options = options | {name: some[n % len(some)] for name, some in numbers.items()}
        found = estimate(preset, method, **options)
        highest = max(timeline(preset, method, **options), key=lambda moment: moment.total)
        assert (highest.total, highest.name) == (found.total, found.peak), (preset, options)
        assert highest.alive == found.at_peak and highest.groups == found.groups
        assert highest.paged == found.paged


def test_moments_come_in_the_order_of_a_step():
    names = [moment.name for moment in timeline("smollm2-135m", "qlora")]
    assert names[:2] == ["forward of layer 1", "forward of layer 2"] and len(names) == 3 * 30 + 1
    assert names[29:34] == [
        "forward of layer 30",
        "the loss",
        "the last layer's backward",
        "after the last layer's backward",
        "layer 29's backward",
    ]
    last = ["layer 2's backward", "after layer 2's backward", "the first layer's backward"]
    assert names[-4:] == [*last, "the update"]


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("method", ["full", "qlora"])
def test_activations_grow_layer_by_layer_and_go_again(method, checkpointing):
    options = {"gradient_checkpointing": checkpointing, "sequence_length": 512}
    moments = timeline("tinyllama-1.1b", method, **options)
    at = [moment.parts["activations"] for moment in moments]
    layers = 22
    forward, loss, backward = at[:layers], at[layers], at[layers + 1 : -1]
    steps = {b - a for a, b in zip(forward, forward[1:], strict=False)}
    assert len(steps) == 1 and min(steps) > 0, "each layer saves as much"
    e = estimate("tinyllama-1.1b", method, **options)
    above = ("last norm", "input of the head", "token numbers", "softmax of logits", "labels")
    in_layers = [x.size for x in e.lines if x.part == "activations" and x.what not in above]
    assert forward[-1] == sum(in_layers) < loss == e.activations
    assert backward == sorted(backward, reverse=True) and at[-1] == 0
    input_bytes = 512 * 2048 * (4 if method == "qlora" else 2)  # of a layer
    assert (min(steps) == input_bytes) == checkpointing


def test_recomputation_makes_a_spike_for_every_layer():
    """Between two layers what is left of a spike is one gradient, in the residual stream."""
    moments = timeline("llama-7b", "qlora", sequence_length=512)
    spikes = [m for m in moments if m.name.endswith("backward") and "after" not in m.name]
    lows = [m for m in moments if m.name.startswith("after")]
    assert len(spikes) == 32 and len(lows) == 31
    stream = 512 * 4096 * 4
    for low, above, below in zip(lows, spikes, spikes[1:], strict=False):
        assert low.total < min(above.total, below.total)
        assert low.parts["activations"] == above.parts["activations"] - stream
        assert low.groups["a layer at work"] == stream < above.groups["a layer at work"] / 5


def test_states_are_made_by_the_first_update():
    options = {"optimizer": "paged_adamw", "rank": 64, "targets": "all-linear"}
    first = timeline("llama-7b", "qlora", first_step=True, **options)
    later = timeline("llama-7b", "qlora", **options)
    states = estimate("llama-7b", "qlora", **options).paged
    assert {
        later_.total - first_.total for first_, later_ in zip(first[:-1], later, strict=False)
    } == {states}
    assert first[-1] == later[-1] and first[-1].paged == states
    assert {m.paged for m in first[:-1]} == {0} and {m.paged for m in later} == {states}


def test_the_master_copy_is_there_from_the_start():
    first = timeline("smollm2-135m", "full", recipe="mixed", first_step=True)
    assert first[0].parts["optimizer"] == 4 * 134_515_008
    assert first[-1].parts["optimizer"] == 12 * 134_515_008


@pytest.mark.parametrize("preset", PRESETS)
def test_trainable_tensors_are_all_parameters(preset):
    shape = ModelShape.preset(preset)
    tensors = trainable_tensors(Plan(shape, estimate(shape).settings))
    assert sum(t.elements * t.count for t in tensors) == shape.parameters
    in_layers = [t.count for t in tensors if t.in_layers]
    assert all(count % shape.layers == 0 for count in in_layers)


def test_a_bare_number_has_no_timeline():
    with pytest.raises(ValueError, match="7b is a bare number of parameters: its layers are not"):
        timeline("7b")
    with pytest.raises(ValueError, match="attention must be one of sdpa, eager"):
        timeline("llama-7b", attention="flash")


# --- the package ---

WITHOUT_LIBRARIES = """
import sys

class OnlyTheStandardLibrary:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"course_utils"}:
            raise ImportError(f"{name} is not part of the standard library")

sys.meta_path.insert(0, OnlyTheStandardLibrary())
import course_utils
before = set(sys.modules)
from course_utils.memory import estimate, largest
print(estimate("7b").total, largest("model", "T4", method="qlora"))
print(*sorted(name for name in set(sys.modules) - before if name.startswith("course_utils.")))
"""


def test_the_calculator_runs_in_a_python_without_any_library():
    command = [sys.executable, "-c", WITHOUT_LIBRARIES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers, modules = done.stdout.splitlines()
    assert answers == "112000000000 llama-13b"
    others = [name for name in modules.split() if not name.startswith("course_utils.memory")]
    assert others == ["course_utils.units", "course_utils.validation"]


# --- what fits ---


@pytest.mark.parametrize("what", ["batch_size", "sequence_length", "rank"])
def test_the_largest_number_fits_and_the_next_does_not(what):
    options = {"targets": "all-linear"}
    best = largest(what, "T4", "smollm2-1.7b", "qlora", **options)
    assert best > 1
    assert estimate("smollm2-1.7b", "qlora", **options | {what: best}).fits("T4")
    assert not estimate("smollm2-1.7b", "qlora", **options | {what: best + 1}).fits("T4")


def test_the_largest_model():
    assert largest("model", "T4", method="full") == "qwen2.5-0.5b"
    best = largest("model", "T4", method="qlora", double_quant=True)
    assert ModelShape.preset(best).parameters > 6e9
    assert largest("model", 10**9, method="full") is None


def test_the_largest_model_with_layers_of_that_name():
    targets = ("attn.c_attn",)
    assert largest("model", "T4", method="lora", targets=targets) == "gpt2"
    with pytest.raises(ValueError, match="has no linear layer 'x'; it has"):
        largest("model", "T4", method="lora", targets=("x",))


def test_a_sequence_is_not_longer_than_the_table_of_positions():
    assert largest("sequence_length", "T4", "gpt2") == 1024
    for call in (estimate, kv_cache_bytes):
        with pytest.raises(ValueError, match="gpt2 has a table of 1,024 positions: .* be 1,025"):
            call("gpt2", sequence_length=1025)


def test_nothing_fits_a_full_card():
    assert largest("batch_size", "T4", "llama-65b", "full") == 0


def test_gpus_keep_a_reserve():
    assert usable_bytes("T4") < GPUS["T4"] < 16 * GB
    assert usable_bytes(GPUS["T4"]) == usable_bytes("T4")
    assert usable_bytes(1) == 0


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dora"}, "method must be one of full, lora, qlora; got 'dora'"),
        ({"recipe": "int8"}, "recipe must be one of fp32, mixed, autocast, bf16, qlora-paper"),
        ({"optimizer": "lion"}, "optimizer must be one of adamw"),
        ({"compute_dtype": "int8"}, "compute_dtype must be one of float32, bfloat16, float16"),
        ({"attention": "flash"}, "attention must be one of sdpa, eager"),
        ({"block_size": 48}, "block_size must be one of 32, 64"),
        ({"sharding": "zero4"}, "sharding must be one of None, zero1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"sequence_length": 2.5}, "sequence_length must be a whole number"),
        ({"gpus": -1}, "gpus must be a whole number"),
        ({"seq_len": 5}, "'seq_len'; options are method, batch_size"),
        ({"upcast": "false"}, "upcast must be True or False, got 'false'"),
        ({"double_quant": []}, r"double_quant must be True or False, got \[\]"),
        ({"batch_size": np.float64(2)}, "batch_size must be a whole number"),
        ({"targets": None}, "targets must be a name of a layer or a list of names, got None"),
        ({"unquantized": 5}, "unquantized must be a name of a layer or a list of names, got 5"),
        ({"recipe": "autocast", "compute_dtype": "float32"}, "autocast computes in float16 or"),
        ({"method": "lora", "targets": ("qproj",)}, "no linear layer 'qproj'; it has q_proj"),
        ({"method": "qlora", "unquantized": ("x",)}, "no linear layer 'x'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        estimate("llama-7b", **options)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_bare_number_has_no_adapters(method):
    with pytest.raises(ValueError, match="bare number of parameters"):
        estimate("7b", method)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("batch_size", "P100", "7b"), "unknown GPU 'P100'; choose one of T4"),
        (("width", "T4", "7b"), "what must be batch_size, sequence_length, rank or model"),
        (("batch_size", "T4"), "needs a model"),
        (("batch_size", True, "llama-7b"), "the bytes of a GPU must be a whole number"),
        (("batch_size", -1, "llama-7b"), "the bytes of a GPU must be a whole number"),
        (("batch_size", "T4", "7b"), "batch_size doesn't change what full fine-tuning of 7b takes"),
        (("rank", "T4", "llama-7b"), "rank doesn't change what full"),
        (("model", "T4", "qlora"), "got 'qlora' as a model too"),
    ],
)
def test_largest_refuses_what_it_does_not_know(arguments, message):
    with pytest.raises(ValueError, match=message):
        largest(*arguments)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="unknown preset 'llama-9b'; choose one of 7b, .* the hub"):
        estimate("llama-9b")
    with pytest.raises(ValueError, match="no config at 'no/such/config.json'"):
        estimate("no/such/config.json")
    with pytest.raises(ValueError, match="got None"):
        estimate(None)


@pytest.mark.parametrize("size", [0, -5, 1.5])
def test_nf4_needs_a_size(size):
    with pytest.raises(ValueError, match="parameters must be a whole number"):
        nf4_bytes(size)


def test_every_optimizer_gives_an_estimate():
    totals = {name: estimate("7b", optimizer=name).total for name in OPTIMIZERS}
    assert totals["sgd"] < totals["adamw8bit"] < totals["sgd_momentum"] < totals["adamw"]
    assert totals["paged_adamw"] == totals["adamw"]
