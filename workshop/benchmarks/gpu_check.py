"""Measure this machine's CUDA card and compare it with the calculator: `make gpu-check`.

    make gpu-check                               measure with this machine's model
    make gpu-check ARGS="--model smollm2-135m"   measure with the small model

    card         the card, its 16-bit format (bfloat16 or float16), and cuBLAS's workspace
    weights      bytes of the model in NF4 with double quantization, measured and estimated
    steps        peak of the second QLoRA step, when the optimizer's states exist, and tokens/s
    optimizers   memory, seconds and updated weights of paged AdamW and of unpaged AdamW

If a measurement fails, the report says so and the other measurements continue. The exit status is
1 if a measurement failed, if the estimate of the weights isn't exact, if the estimate of a peak is
off by more than 1%, or if paging changes an update. Without CUDA nothing is measured, and the exit
status is 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import collect_env

from course_utils.machine import environment, runtime
from course_utils.machine.measure import optimizer_bytes
from course_utils.machine.units import MB, MiB, format_bytes
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
# Number of times that a step or an update is timed; the median is reported.
REPEATS = 5
# Maximum relative error of an estimated peak.
TOLERANCE = 0.01

# Sizes of parameters: just below and exactly the smallest size for which bitsandbytes uses 8-bit
# states, the same two sizes for paged states, and a matrix that is large enough for timing.
SIZES = (SMALLEST_8BIT - 1, SMALLEST_8BIT, SMALLEST_PAGED - 1, SMALLEST_PAGED, 1024 * 2048)
BITS = (8, 32)
# Maximum managed memory, as a share of the card's free memory and in bytes (B).
MANAGED_SHARE, MANAGED_MOST = 0.01, 256 * MB


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
        "capability": list(torch.cuda.get_device_capability(device)),
        "total": total,
        "free": free,
        "driver": collect_env.get_nvidia_driver_version(collect_env.run),
        "cuda": torch.version.cuda,
        "compute dtype": found["compute dtype"],
        "is_bf16_supported": torch.cuda.is_bf16_supported(),
        "workspace": cublas_workspace(device),
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
    """Return the options of `estimate` for a model from `load_base` and `attach_adapters`."""
    return {
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
    """Load the model in NF4 with double quantization.

    Returns:
        The model, and the growth of torch's allocations in bytes (B).
    """
    before = torch.cuda.memory_allocated(device)
    model, _ = load_base(name, quantization="nf4", double_quant=True, device=device)
    runtime.release_memory()
    return {"model": model, "grown": torch.cuda.memory_allocated(device) - before}


def weights(model: PreTrainedModel, grown: int, device: torch.device) -> dict:
    """Return the model's bytes: measured, estimated, and allocated by torch."""
    predicted = estimate(shape_of(model), "qlora", **settings(device)).weights
    return {"measured": model_bytes(model), "predicted": predicted, "grown": grown}


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
    set_checkpointing(model, run.gradient_checkpointing)
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), fused=True)
    one = partial(step, model, optimizer, run.sequence_length, run.batch_size)
    one()
    torch.cuda.reset_peak_memory_stats(device)
    one()
    peak = torch.cuda.max_memory_allocated(device)
    speed = run.tokens / median_seconds(one, device)
    return {"measured": peak, "predicted": predicted.total, "tokens/s": speed}


def median_seconds(action: Callable[[], Any], device: torch.device) -> float:
    """Return the median seconds of an action, including its work on the device."""
    durations = []
    for _ in range(REPEATS):
        synchronize(device)
        begun = time.perf_counter()
        action()
        synchronize(device)
        durations.append(time.perf_counter() - begun)
    return median(durations)


def synchronize(device: torch.device) -> None:
    """Wait until a card has finished its work; operations on a CPU have already finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- paged optimizers -----------------------------------------------------------------------------


def managed_bytes() -> int:
    """Return the bytes (B) of managed memory for all paged optimizers of this benchmark.

    Each optimizer has two states. bitsandbytes never frees managed memory, so this memory is freed
    only when this process ends.
    """
    paged = sum(size for size in SIZES if size >= SMALLEST_PAGED)
    return sum(2 * paged * bits // 8 for bits in BITS)


def check_managed(needed: int, free: int) -> None:
    """Raise CourseError unless `needed` bytes are a small share of a card's `free` bytes."""
    allowed = min(int(MANAGED_SHARE * free), MANAGED_MOST)
    if needed > allowed:
        raise CourseError(
            f"paged optimizers are not measured: they need {format_bytes(needed)} of managed "
            f"memory, and with {format_bytes(free)} free on the card at most "
            f"{format_bytes(allowed)} are allowed"
        )


def paging(bits: int, device: torch.device) -> dict:
    """Compare unpaged and paged AdamW with states of 8 or 32 bits over the same updates.

    Returns:
        The measurements of `updates` for the unpaged and the paged optimizer, and the maximum
        difference between the updated weights. A difference of 0 means that all weights are equal.
    """
    from bitsandbytes import optim

    check_managed(managed_bytes(), torch.cuda.mem_get_info(device)[0])
    unpaged, unpaged_weights = updates(getattr(optim, f"AdamW{bits}bit"), device)
    paged, paged_weights = updates(getattr(optim, f"PagedAdamW{bits}bit"), device)
    pairs = zip(unpaged_weights, paged_weights, strict=True)
    differences = torch.stack([(one - other).abs().max() for one, other in pairs])
    return {"unpaged": unpaged, "paged": paged, "difference": differences.max().item()}


def updates(
    make: Callable[..., torch.optim.Optimizer], device: torch.device
) -> tuple[dict, list[Tensor]]:
    """Update parameters of SIZES, and measure the memory of the states and the time.

    Returns:
        The measurements and the updated parameters. In the measurements, "states" is the size of
        all states, "paged" the size of the states that may move to CPU memory, "allocated" the
        growth of torch's allocations, and "free" the loss of free memory on the card, all in bytes
        (B). "paged sizes" lists the number of elements of each paged state, and "seconds" is the
        median time of an update.
    """
    parameters = list(seeded(device))
    optimizer = make(parameters, lr=1e-3)
    runtime.release_memory()
    allocated = torch.cuda.memory_allocated(device)
    free, _ = torch.cuda.mem_get_info(device)
    # The first step creates the states.
    optimizer.step()
    synchronize(device)
    grown = torch.cuda.memory_allocated(device) - allocated
    lost = free - torch.cuda.mem_get_info(device)[0]
    states = [optimizer.state[parameter] for parameter in parameters]
    moving = [state for state in states if getattr(state["state1"], "is_paged", False)]
    figures = {
        "states": optimizer_bytes(optimizer),
        "paged": sum(state[key].nbytes for state in moving for key in ("state1", "state2")),
        "paged sizes": [state["state1"].numel() for state in moving],
        "allocated": grown,
        "free": lost,
        "seconds": median_seconds(optimizer.step, device),
    }
    return figures, [parameter.detach() for parameter in parameters]


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
    sizes = attempt("weights", weights, loaded["model"], loaded["grown"], device)
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
    counted = report["settings"]["workspace"]
    return 2 * (report["card"].get("workspace", counted) - counted)


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
        sizes = row["paged"]["paged sizes"]
        if sizes != report["settings"]["paging"]:
            found.append(
                f"{row['case']}: the paged states have {sizes} elements, not "
                f"{report['settings']['paging']}"
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
    rows = [("the card", "failed")]
    if "failed" not in of_card:
        rows = [
            ("compute capability", "{}.{}".format(*of_card["capability"])),
            ("memory", format_bytes(of_card["total"])),
            ("free at the start", format_bytes(of_card["free"])),
            ("driver", of_card["driver"] or "unknown"),
            ("CUDA", of_card["cuda"] or "unknown"),
            ("the course computes in", of_card["compute dtype"]),
            ("torch.cuda.is_bf16_supported()", str(of_card["is_bf16_supported"])),
            ("cuBLAS workspace of a thread", f"{of_card['workspace']:,} B"),
        ]
    model = f"{report['model']} in NF4 with double quantization"
    if "failed" in sizes:
        return table(("", ""), [*rows, (model, "failed")])
    rows += [
        (f"{model}: all its tensors", f"{sizes['measured']:,} B"),
        (f"{model}: calculator", f"{sizes['predicted']:,} B"),
        ("growth of torch.cuda.memory_allocated", f"{sizes['grown']:,} B"),
    ]
    return table(("", ""), rows)


def step_table(report: Report) -> str:
    """Return a table of the peak and the speed of each training step."""
    of_run, extra = report["settings"], extra_workspace(report)
    rows: list[tuple[str, ...]] = []
    for row in report["steps"]:
        cells: tuple[str, ...] = ("failed", "", "")
        if "failed" not in row:
            predicted = size_cell(row["predicted"] + extra, row["measured"])
            cells = (f"{row['measured'] / MiB:,.1f}", predicted, f"{row['tokens/s']:,.0f}")
        rows.append((row["case"], *cells))
    return f"""QLoRA, rank {of_run["rank"]}, adapters on all linear layers, fused AdamW with float32
states. The peak is that of the second step, by torch.cuda.max_memory_allocated; tokens/s are the
median of {of_run["repeats"]} steps.

{table(("", "peak, MiB", "calculator, MiB", "tokens/s"), rows)}

The calculator counts a cuBLAS workspace of {of_run["workspace"]:,} B in each of two threads. On
this card the two workspaces together are {extra:,} B larger than that, and the column *calculator*
includes these additional bytes."""


def paging_table(report: Report) -> str:
    """Return a table that compares paged and unpaged AdamW."""
    head = (
        "",
        "states, MB",
        "of them paged, MB",
        "growth of memory_allocated, MB",
        "loss of free memory (mem_get_info), MB",
        "ms per update",
    )
    rows = []
    for row in succeeded(report["optimizers"]):
        for kind in ("unpaged", "paged"):
            of_kind = row[kind]
            sizes = [of_kind[part] for part in ("states", "paged", "allocated", "free")]
            cells = [*(f"{size / MB:,.2f}" for size in sizes), f"{1000 * of_kind['seconds']:.2f}"]
            rows.append((f"{row['case']}, {kind}", *cells))
    return table(head, rows)


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
        "settings": {
            "rank": RANK,
            "repeats": REPEATS,
            "workspace": CUBLAS_WORKSPACE,
            "paging": [size for size in SIZES if size >= SMALLEST_PAGED],
        },
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
