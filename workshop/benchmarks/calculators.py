"""Compare three memory calculators with measured bytes: this course's, fitcheck and accelerate's.

The peaks of QLoRA on a Tesla T4 were measured earlier (course_utils/data/t4_measured_peaks.csv).
The benchmark itself measures SmolLM2-135M on the CPU: the weights, and the peak of a training step.
It needs no network, because fitcheck and accelerate get the models' configs from this module.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product
from statistics import mean
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from course_utils.machine.measure import TensorMeter, optimizer_bytes
from course_utils.machine.units import MiB
from course_utils.memory import PRESETS, ModelShape, estimate
from course_utils.models import fetch_base, load_base, model_bytes
from course_utils.training import Recipe, attach_adapters, set_checkpointing
from workshop.benchmarks.runner import ROOT, Benchmark, Report, measured_here, table

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

T4_PEAKS = ROOT / "course_utils" / "data" / "t4_measured_peaks.csv"

SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PRESET_OF = {
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "tinyllama-1.1b",
    "HuggingFaceTB/SmolLM2-1.7B": "smollm2-1.7b",
    "Qwen/Qwen2.5-1.5B-Instruct": "qwen2.5-1.5b",
}
CALCULATORS = ("this course", "fitcheck", "accelerate")
# The maximum relative error that is allowed for this course's calculator, by table.
WORST = {"t4": 0.015, "weights": 0.0, "peaks": 0.01}
# Lengths of the sequences, in tokens.
LENGTHS = (64, 256)
SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

# Options of `estimate`.
Options = dict[str, Any]
# A loop of one's own, which computes all logits and keeps the model's output.
LOOP: Options = {"trainer": None, "keep_output": True}
ON_CPU: Options = LOOP | {"compute_dtype": "bfloat16", "device": "cpu", "double_quant": False}
ADAPTERS = ON_CPU | {"rank": 8, "targets": "all-linear"}
DOUBLE = ADAPTERS | {"double_quant": True}
# fitcheck's loop on a T4, with peft's upcast.
ON_T4: Options = LOOP | {
    "compute_dtype": "float16",
    "targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "double_quant": False,
    "upcast": True,
}
# Settings of training steps: a method and the options of `estimate`, by name.
SETTINGS: dict[str, tuple[str, Options]] = {
    "full, float32": ("full", LOOP | {"recipe": "fp32", "device": "cpu"}),
    "LoRA, bfloat16": ("lora", ADAPTERS),
    "QLoRA, 16-bit rest": ("qlora", DOUBLE | {"upcast": False}),
    "QLoRA, peft's upcast": ("qlora", DOUBLE | {"upcast": True}),
}


# --- the cases ------------------------------------------------------------------------------------


def t4_cases() -> Iterator[dict]:
    """Yield a case for each row of the file with the peaks that were measured on a T4."""
    lines = T4_PEAKS.read_text(encoding="utf-8").splitlines()
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        batch, length = int(row["batch_size"]), int(row["sequence_length"])
        options = ON_T4 | {"rank": int(row["lora_rank"]), "attention": row["attention"]}
        yield {
            "case": f"{row['model'].split('/')[1]}, {row['attention']}, {batch} × {length}",
            "model": row["model"],
            "method": "qlora",
            "options": options | {"batch_size": batch, "sequence_length": length},
            "measured": int(row["peak_allocated_mib"]) * MiB,
        }


def weight_cases() -> Iterator[dict]:
    """Load SmolLM2-135M in each format, and yield the bytes of its weights before training."""
    for case, method, options in (
        ("float32", "full", {"recipe": "fp32", "device": "cpu"}),
        ("bfloat16", "lora", ON_CPU),
        ("NF4", "qlora", ON_CPU | {"upcast": False}),
        ("NF4, double quantization", "qlora", ON_CPU | {"upcast": False, "double_quant": True}),
        ("NF4, peft's upcast", "qlora", ON_CPU | {"upcast": True}),
        (
            "NF4, double quantization, peft's upcast",
            "qlora",
            ON_CPU | {"double_quant": True, "upcast": True},
        ),
    ):
        size = model_bytes(load(method, options))
        setting = {"model": SMALL, "method": method, "options": options}
        yield {"case": case, **setting, "measured": size}


def step_cases() -> Iterator[dict]:
    """Measure training steps of SmolLM2-135M, and yield a case for each step."""
    for name, (method, options) in SETTINGS.items():
        model = load(method, options)
        if method != "full":
            model = attach_adapters(model, Recipe(rank=options["rank"]))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, fused=True)
        # The first step creates the optimizer's states.
        step(model.train(), optimizer, 8)
        for checkpointing, length in product((False, True), LENGTHS):
            set_checkpointing(model, checkpointing)
            how = "checkpointing" if checkpointing else "all stored"
            more = {"sequence_length": length, "gradient_checkpointing": checkpointing}
            yield {
                "case": f"{name}, {length} tokens, {how}",
                "model": SMALL,
                "method": method,
                "options": options | more,
                "measured": peak_bytes(model, optimizer, length),
            }


# --- measuring ------------------------------------------------------------------------------------


def load(method: str, options: Options) -> PreTrainedModel:
    """Load SmolLM2-135M on the CPU, in the format that the options of `estimate` describe."""
    from peft import prepare_model_for_kbit_training

    model, _ = load_base(
        "smollm2-135m",
        quantization="nf4" if method == "qlora" else None,
        double_quant=options.get("double_quant", False),
        compute_dtype=torch.bfloat16,
        device="cpu",
    )
    if method == "qlora" and options.get("upcast", False):
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model.float() if method == "full" else model


def step(
    model: PreTrainedModel | PeftModel,
    optimizer: torch.optim.Optimizer,
    length: int,
    batch_size: int = 1,
) -> None:
    """Run one optimizer step. As in a training loop, the output is kept until the step ends.

    The sequences consist of random tokens, because memory doesn't depend on their values.
    """
    vocabulary, device = model.config.vocab_size, model.device
    tokens = torch.randint(0, vocabulary, (batch_size, length), device=device)
    output = model(input_ids=tokens, labels=tokens, use_cache=False)
    output.loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def peak_bytes(
    model: PreTrainedModel | PeftModel, optimizer: torch.optim.Optimizer, length: int
) -> int:
    """Return the bytes of all tensors at the peak of a step.

    These bytes include the model and the optimizer's states, which exist before the step.
    """
    before = model_bytes(model) + optimizer_bytes(optimizer)
    with TensorMeter() as meter:
        step(model, optimizer, length)
    return before + meter.peak


# --- the other calculators ------------------------------------------------------------------------


def ask_accelerate(config: dict) -> dict[str, dict[str, float]]:
    """Return the bytes (B) that `accelerate estimate-memory` shows for each dtype.

    "weights" are the bytes of the weights, and "training" are the bytes of training with Adam.
    """
    from accelerate.commands import estimate as command
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(**config), dtype=torch.float32)
    # accelerate would get the config from the hub.
    with patch.object(command, "create_empty_model", lambda *_, **__: model):
        rows = command.gather_data(command.estimate_command_parser().parse_args(["the model"]))
    return {
        dtype: {"weights": weights, "training": max(training.values())}
        for dtype, _, weights, training in rows
    }


def ask_fitcheck(config: dict, case: dict) -> dict[str, float]:
    """Return the bytes (B) that fitcheck reports for the weights and for all tensors.

    The tensors are fitcheck's total without its overhead. The overhead estimates the CUDA context
    and the memory that PyTorch reserves but doesn't use, which torch.cuda.max_memory_allocated
    doesn't count.
    """
    import fitcheck

    shape = ModelShape.from_config(config)
    model = fitcheck.ModelConfig(
        name=case["model"],
        num_params=shape.parameters,
        hidden_size=shape.hidden,
        num_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
    )
    settings = fitcheck.TrainingConfig(**fitcheck_options(case))
    report = fitcheck.estimate(model, settings, fitcheck.get_gpu("t4"))
    tensors = (report.total_mib - report.overhead_mib) * MiB
    return {"weights": report.weight_mib * MiB, "total": tensors}


def fitcheck_options(case: dict) -> dict:
    """Return the settings of a case as options of fitcheck's TrainingConfig."""
    options, full = case["options"], case["method"] == "full"
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    if options.get("targets") == "all-linear":
        targets += ["gate_proj", "up_proj", "down_proj"]
    return {
        "precision": "fp32" if full else SHORT[options.get("compute_dtype", "float16")],
        "quantization": "nf4" if case["method"] == "qlora" else "none",
        "double_quant": options.get("double_quant", False),
        "batch_size": options.get("batch_size", 1),
        "seq_len": options.get("sequence_length", 1024),
        "lora_rank": None if full else options.get("rank", 16),
        "lora_targets": targets,
        "grad_checkpoint": options.get("gradient_checkpointing", True),
        "flash_attn": options.get("attention", "sdpa") == "sdpa",
    }


# --- the report -----------------------------------------------------------------------------------


def measure() -> Iterator[Report]:
    """Yield the rows of each table, with measured and estimated bytes."""
    own = json.loads((fetch_base("smollm2-135m") / "config.json").read_text(encoding="utf-8"))
    accelerate = ask_accelerate(own)

    def row(case: dict, part: str) -> dict:
        config = own if case["model"] == SMALL else PRESETS[PRESET_OF[case["model"]]]
        # accelerate only models full training of float32 weights with Adam, without adapters. It
        # estimates int4 as an eighth of float32, whichever weights are quantized.
        of_accelerate = accelerate["float32"]["training"] if case["method"] == "full" else None
        if part == "weights":
            dtype = {"full": "float32", "lora": "float16", "qlora": "int4"}[case["method"]]
            of_accelerate = accelerate[dtype]["weights"]
        # fitcheck assumes that the embedding and the normalization layers are in float32, so it
        # doesn't model NF4 with these layers in 16 bits.
        modelled = case["options"].get("upcast", True)
        return case | {
            "this course": getattr(estimate(config, case["method"], **case["options"]), part),
            "fitcheck": ask_fitcheck(config, case)[part] if modelled else None,
            "accelerate": of_accelerate,
        }

    yield {
        **measured_here("fitcheck-llm"),
        "t4": [row(case, "total") for case in t4_cases()],
        "weights": [row(case, "weights") for case in weight_cases()],
        "peaks": [row(case, "total") for case in step_cases()],
    }


# --- the texts ------------------------------------------------------------------------------------


def errors(rows: Iterable[dict], calculator: str) -> list[float]:
    """Return the relative errors of the rows that a calculator models; 0.01 means 1% too high."""
    known = [entry for entry in rows if entry[calculator] is not None]
    return [entry[calculator] / entry["measured"] - 1 for entry in known]


def sizes(report: Report, name: str) -> str:
    """Return one table in MiB and errors in percent, with mean and worst error; name: of WORST."""
    rows = [
        (
            entry["case"],
            f"{entry['measured'] / MiB:,.1f}",
            *(size_cell(entry[calculator], entry["measured"]) for calculator in CALCULATORS),
        )
        for entry in report[name]
    ]
    for word, summary in (("mean", mean), ("worst", max)):
        found = [[abs(error) for error in errors(report[name], who)] for who in CALCULATORS]
        cells = [f"**{summary(each):.2%}**" if each else "–" for each in found]
        rows.append((f"**{word} error**", "", *cells))
    return table(("", "measured", *CALCULATORS), rows)


def size_cell(estimated: float | None, measured: int) -> str:
    """Return a table cell with the estimate in MiB and its error."""
    if estimated is None:
        return "not modelled"
    error = round(estimated / measured - 1, 4)
    return f"{estimated / MiB:,.1f} ({f'{error:+.2%}' if error else '0.00%'})"


def problems(report: Report) -> list[str]:
    """Return the tables in which an error of this course's calculator exceeds WORST."""
    found = []
    for name, most in WORST.items():
        ours = max(map(abs, errors(report[name], "this course")))
        if ours > most:
            found.append(f"{name}: off by {ours:.2%}, more than {most:.2%}")
    return found


BENCHMARK = Benchmark(
    measure,
    {name: partial(sizes, name=name) for name in WORST},
    conditions=lambda _: "Sizes are in MiB (2²⁰ B); the relative error is in brackets.",
    problems=problems,
)
