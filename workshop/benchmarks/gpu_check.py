"""Measure this machine's CUDA card and compare it with the calculator: `make gpu-check`.

    make gpu-check                               measure with this machine's model
    make gpu-check ARGS="--model smollm2-135m"   measure with the small model

    card         the card, its 16-bit format (bfloat16 or float16), and cuBLAS's workspace
    weights      bytes of the model in NF4 with double quantization, measured and estimated
    steps        peak of the second QLoRA step, when the optimizer's states exist, and tokens/s
    optimizers   updated weights of paged AdamW and of unpaged AdamW, and which states are paged

If a measurement fails, the report says so and the other measurements continue. The exit status is
1 if a measurement failed, if the estimate of the weights isn't exact, if the estimate of a peak is
off by more than 1%, if paging changes an update, or if other states are paged than expected.
Without CUDA nothing is measured, and the exit status is 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import collect_env

from course_utils.machine import environment, runtime
from course_utils.machine.units import MiB, format_bytes
from course_utils.machine.validation import CourseError
from course_utils.memory import (
    CUBLAS_WORKSPACE,
    SMALLEST_8BIT,
    SMALLEST_PAGED,
    Estimate,
    ModelShape,
    estimate,
)
from course_utils.models import (
    BASE_MODELS,
    SMALL_MODEL,
    fetch_base,
    load_base,
    model_bytes,
)
from course_utils.training import (
    Recipe,
    attach_adapters,
    set_checkpointing,
    trainable_parameters,
)
from workshop.benchmarks.calculators import size_cell, step
from workshop.benchmarks.runner import Benchmark, NothingToMeasure, Report, measured_here, table

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# This model uses more of a card than the small model, so that errors of the estimates show.
LARGER_MODEL = "smollm2-1.7b"
RANK = 16
# Sequences and tokens per sequence of the training steps.
BATCHES = ((1, 512), (4, 512), (1, 2048))
# Number of timed steps, of which the median is reported, and of updates that are compared.
REPEATS = 5
WORKSPACE = "cuBLAS workspace of a thread (B)"
# Maximum relative error of an estimated peak.
TOLERANCE = 0.01

# Sizes of parameters: just below and exactly the smallest size for which bitsandbytes uses 8-bit
# states, the same two sizes for paged states, and a matrix.
SIZES = (SMALLEST_8BIT - 1, SMALLEST_8BIT, SMALLEST_PAGED - 1, SMALLEST_PAGED, 1024 * 2048)
BITS = (8, 32)


def attempt(what: str, measure: Callable[..., dict], *arguments: Any) -> dict:
    """Free unused memory, run a measurement, and return its result.

    Returns:
        The result of `measure`, or {"failed": the reason} if it raised an exception.
    """
    print(f"measuring: {what}", flush=True)
    try:
        runtime.release_memory()
        return measure(*arguments)
    except Exception as error:
        reason = (str(error).strip() or "no message").splitlines()[0]
        return {"failed": f"{type(error).__name__}: {reason}"}


# --- the card -------------------------------------------------------------------------------------


def card(device: torch.device) -> dict:
    """Return the card's properties, driver, 16-bit format, and cuBLAS workspace."""
    free, total = torch.cuda.mem_get_info(device)
    found = {row.what: row.found for row in environment.check_environment().rows}
    return {
        "compute capability": "{}.{}".format(*torch.cuda.get_device_capability(device)),
        "memory": format_bytes(total),
        "free at the start": format_bytes(free),
        "driver": collect_env.get_nvidia_driver_version(collect_env.run) or "unknown",
        "CUDA": torch.version.cuda or "unknown",
        "the course computes in": found["compute dtype"],
        "torch.cuda.is_bf16_supported()": str(torch.cuda.is_bf16_supported()),
        WORKSPACE: cublas_workspace(device),
    }


def cublas_workspace(device: torch.device) -> int:
    """Return the bytes (B) of cuBLAS's workspace, which PyTorch allocates once in each thread.

    A thread allocates its workspace when it first multiplies matrices. The calculator counts the
    default of cards before Hopper, 8.5 MB; a Hopper card gets 33.6 MB.
    """
    matrix = torch.ones(64, 64, device=device)
    product = torch.empty_like(matrix)
    before = torch.cuda.memory_allocated(device)
    torch.mm(matrix, matrix, out=product)
    return torch.cuda.memory_allocated(device) - before


# --- the model ------------------------------------------------------------------------------------


def settings(device: torch.device) -> dict:
    """Return the options of `estimate` for a model from `load_base` and `attach_adapters`.

    The benchmark trains in a plain loop, which keeps the model's output, including all logits.
    """
    return {
        "trainer": None,
        "keep_output": True,
        "rank": RANK,
        "targets": "all-linear",
        "compute_dtype": str(runtime.compute_dtype(device)).removeprefix("torch."),
        "double_quant": True,
        "upcast": False,
        "device": device.type,
    }


def shape_of(model: PreTrainedModel) -> ModelShape:
    """Return the model's shape without quantization."""
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    return ModelShape.from_config(config)


def load(name: str, device: torch.device) -> dict:
    """Load the model in NF4 with double quantization."""
    return {"model": load_base(name, quantization="nf4", double_quant=True, device=device)[0]}


def weights(model: PreTrainedModel, device: torch.device) -> dict:
    """Return the model's bytes: measured and estimated."""
    predicted = estimate(shape_of(model), "qlora", **settings(device)).weights
    return {"measured": model_bytes(model), "predicted": predicted}


def prepare(model: PreTrainedModel, device: torch.device) -> dict:
    """Attach adapters to all linear layers; return the model and the steps that fit the card."""
    room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    steps = fitting(shape_of(model), room, settings(device))
    return {"model": attach_adapters(model, Recipe(rank=RANK)).train(), "steps": steps}


def fitting(shape: ModelShape, room: int, options: dict) -> list[Estimate]:
    """Return the steps of BATCHES, with and without checkpointing, that fit into `room` bytes.

    Raises:
        CourseError: no step fits.
    """
    estimates = [
        estimate(
            shape,
            "qlora",
            batch_size=batch_size,
            sequence_length=length,
            gradient_checkpointing=checkpointing,
            **options,
        )
        for (batch_size, length), checkpointing in product(BATCHES, (True, False))
    ]
    steps = [predicted for predicted in estimates if predicted.fits(room)]
    if not steps:
        least = min(predicted.total for predicted in estimates)
        raise CourseError(
            f"no training step fits: the smallest needs {format_bytes(least)}, and the card has "
            f"{format_bytes(room)}; try --model {SMALL_MODEL}"
        )
    return steps


def training(model: PeftModel, predicted: Estimate, device: torch.device) -> dict:
    """Return the peak of the second step, the estimated peak, and the tokens/s of later steps."""
    run = predicted.settings
    set_checkpointing(model, bool(run.gradient_checkpointing))
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), fused=True)
    one = partial(step, model, optimizer, run.sequence_length, run.batch_size)
    one()
    torch.cuda.reset_peak_memory_stats(device)
    one()
    peak = torch.cuda.max_memory_allocated(device)
    durations = []
    for _ in range(REPEATS):
        torch.cuda.synchronize(device)
        begun = time.perf_counter()
        one()
        torch.cuda.synchronize(device)
        durations.append(time.perf_counter() - begun)
    speed = run.tokens / median(durations)
    return {"measured": peak, "predicted": predicted.total, "tokens/s": speed}


# --- paged optimizers -----------------------------------------------------------------------------


def paging(bits: int, device: torch.device) -> dict:
    """Compare unpaged and paged AdamW with states of 8 or 32 bits over the same updates.

    bitsandbytes never frees the managed memory of paged states, so it is freed only when this
    process ends. The states of all calls need 21 MB of it.

    Returns:
        "paged", the number of elements of each paged state, and "difference", the maximum
        difference between the updated weights. A difference of 0 means that all weights are equal.
    """
    from bitsandbytes import optim

    updated = []
    for name in (f"AdamW{bits}bit", f"PagedAdamW{bits}bit"):
        parameters = list(seeded(device))
        optimizer = getattr(optim, name)(parameters, lr=1e-3)
        for _ in range(REPEATS):
            optimizer.step()
        updated.append(parameters)
    states = [optimizer.state[parameter]["state1"] for parameter in parameters]
    differences = [(one - other).detach().abs().max() for one, other in zip(*updated, strict=True)]
    return {
        "paged": [state.numel() for state in states if getattr(state, "is_paged", False)],
        "difference": torch.stack(differences).max().item(),
    }


def seeded(device: torch.device) -> Iterator[nn.Parameter]:
    """Yield parameters of SIZES with gradients; each call yields the same values."""
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        parameter = nn.Parameter(torch.randn(size, generator=generator).to(device))
        parameter.grad = torch.randn(size, generator=generator).to(device)
        yield parameter


# --- the report -----------------------------------------------------------------------------------


def optimizers(device: torch.device) -> list[dict]:
    """Compare paged and unpaged optimizers for each number of bits; return a row for each."""
    cases = {f"{bits}-bit AdamW": bits for bits in BITS}
    return [{"case": case} | attempt(case, paging, bits, device) for case, bits in cases.items()]


def with_model(name: str, device: torch.device) -> dict:
    """Measure the model's weights, and its training steps if the model can be loaded."""
    loaded = attempt(f"loading {name}", load, name, device)
    if "failed" in loaded:
        return {"weights": loaded, "steps": []}
    sizes = attempt("weights", weights, loaded["model"], device)
    ready = attempt("adapters", prepare, loaded["model"], device)
    if "failed" in ready:
        return {"weights": sizes, "steps": [{"case": "adapters"} | ready]}
    steps = []
    for predicted in ready["steps"]:
        case = step_name(predicted)
        result = attempt(case, training, ready["model"], predicted, device)
        steps.append({"case": case} | result)
    return {"weights": sizes, "steps": steps}


def step_name(predicted: Estimate) -> str:
    """Return the settings of a step in words."""
    run = predicted.settings
    how = "checkpointing" if run.gradient_checkpointing else "all stored"
    return f"{run.batch_size} × {run.sequence_length} tokens, {how}"


def extra_workspace(report: dict) -> int:
    """Return how many bytes (B) larger two cuBLAS workspaces are than the calculator assumes."""
    return 2 * (report["card"].get(WORKSPACE, CUBLAS_WORKSPACE) - CUBLAS_WORKSPACE)


def problems(report: dict) -> list[str]:
    """Return the failures and the differences from the estimates, one sentence each."""
    parts = [{"case": "the card"} | report["card"], {"case": "weights"} | report["weights"]]
    parts += [*report["steps"], *report["optimizers"]]
    found = [f"{part['case']}: failed ({part['failed']})" for part in parts if "failed" in part]
    sizes = report["weights"]
    if "failed" not in sizes and sizes["measured"] != sizes["predicted"]:
        found.append(f"weights: off by {sizes['predicted'] - sizes['measured']:+,} B")
    for row in succeeded(report["steps"]):
        error = (row["predicted"] + extra_workspace(report)) / row["measured"] - 1
        if abs(error) > TOLERANCE:
            found.append(f"{row['case']}: the peak is off by {error:+.2%}")
    for row in succeeded(report["optimizers"]):
        # A difference that is not a number (NaN) is unequal to 0, too.
        if row["difference"] != 0:
            found.append(f"{row['case']}: paging changes weights by up to {row['difference']:g}")
        expected = [size for size in SIZES if size >= SMALLEST_PAGED]
        if row["paged"] != expected:
            found.append(
                f"{row['case']}: the paged states have {row['paged']} elements, not {expected}"
            )
    return found


def succeeded(rows: list[dict]) -> list[dict]:
    """Return the rows of measurements that did not fail."""
    return [row for row in rows if "failed" not in row]


# --- the text -------------------------------------------------------------------------------------


def verdict(report: Report) -> str:
    """Return the card's name, and whether all measurements are as predicted."""
    result = "all measurements succeeded and agree with the predictions."
    if problems(report):
        result = "the problems are listed at the end."
    return f"{report['name']}: {result}"


def card_table(report: Report) -> str:
    """Return a table of the card's properties and of the model's bytes in NF4."""
    of_card, sizes = report["card"], report["weights"]
    rows = [(what, str(found)) for what, found in of_card.items()]
    model = f"{report['model']} in NF4 with double quantization"
    if "failed" in sizes:
        return table(("", ""), [*rows, (model, "failed")])
    rows += [
        (f"{model}: all its tensors", f"{sizes['measured']:,} B"),
        (f"{model}: calculator", f"{sizes['predicted']:,} B"),
    ]
    return table(("", ""), rows)


def step_table(report: Report) -> str:
    """Return a table of the peak and the speed of each training step."""
    extra = extra_workspace(report)
    rows: list[tuple[str, ...]] = []
    for row in report["steps"]:
        cells: tuple[str, ...] = ("failed", "", "")
        if "failed" not in row:
            predicted = size_cell(row["predicted"] + extra, row["measured"])
            cells = (f"{row['measured'] / MiB:,.1f}", predicted, f"{row['tokens/s']:,.0f}")
        rows.append((row["case"], *cells))
    return f"""QLoRA, rank {RANK}, adapters on all linear layers, fused AdamW with float32
states. The peak is that of the second step, by torch.cuda.max_memory_allocated; tokens/s are the
median of {REPEATS} steps.

{table(("", "peak, MiB", "calculator, MiB", "tokens/s"), rows)}

The calculator counts a cuBLAS workspace of {CUBLAS_WORKSPACE:,} B in each of two threads. On
this card the two workspaces together are {extra:,} B larger than that, and the column *calculator*
includes these additional bytes."""


def paging_table(report: Report) -> str:
    """Return a table that compares the weights after paged and after unpaged AdamW."""
    rows = [
        (row["case"], ", ".join(map(str, row["paged"])), f"{row['difference']:g}")
        for row in succeeded(report["optimizers"])
    ]
    return table(("", "paged states (elements)", "difference of the weights"), rows)


def find_card() -> torch.device | None:
    """Return the CUDA card that torch uses, or None."""
    return runtime.device() if torch.cuda.is_available() else None


def available() -> str:
    """Return LARGER_MODEL, or the name of the small model if the larger one can't be fetched."""
    try:
        fetch_base(LARGER_MODEL)
    except CourseError as error:
        print(f"Measured with {SMALL_MODEL}: {error}")
        return SMALL_MODEL
    return LARGER_MODEL


def measure(model: str | None) -> Iterator[Report]:
    """Measure everything that the card allows, and yield the report.

    The report is also yielded before paged optimizers are measured, because bitsandbytes ends the
    process if it can't allocate managed memory.

    Raises:
        NothingToMeasure: there is no CUDA card.
    """
    device = find_card()
    if device is None:
        raise NothingToMeasure(
            "torch sees no CUDA card, so there is nothing to measure (see `course check`)."
        )
    name = model or available()
    report: Report = measured_here() | {
        "name": torch.cuda.get_device_name(device),
        "model": name,
        "card": attempt("the card", card, device),
    }
    report |= with_model(name, device)
    ended = {"failed": "the process ended before this measurement"}
    yield report | {"optimizers": [{"case": "paged optimizers", **ended}]}
    yield report | {"optimizers": optimizers(device)}


BENCHMARK = Benchmark(
    measure,
    {
        "verdict": verdict,
        "card": card_table,
        "training steps": step_table,
        "paged optimizers": paging_table,
    },
    problems=problems,
    add_options=lambda parser: parser.add_argument(
        "--model", choices=BASE_MODELS, help="default: this machine's model"
    ),
)
