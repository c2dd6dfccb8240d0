"""Compare the course's NF4 codec with bitsandbytes for 10^7 weights on a CPU: bytes, bits, time.

The codecs run alternately, so that a busy machine slows down both. Each time is a median over all
rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from bitsandbytes import functional as bnb

from benchmarks.runner import Benchmark, Report, measured_here
from course_utils.quantization import quantize_nf4

# 10^7 weights. Each row consists of complete blocks, as bitsandbytes' kernels require.
SHAPE = (15_625, 640)
ROUNDS = 15
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Minimum speed of the course's codec, as a share of bitsandbytes' speed.
TARGET = 0.5
NAMES = ("ours", "bitsandbytes")


def case(
    dtype: torch.dtype,
    double_quant: bool,
    shape: tuple[int, int] = SHAPE,
    rounds: int = ROUNDS,
) -> dict:
    """Return the seconds of both codecs, their bytes, and whether all bits are equal."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    options = {"quant_type": "nf4", "compress_statistics": double_quant}
    packed, state = bnb.quantize_4bit(x, **options)
    ours = quantize_nf4(x, double_quant=double_quant)
    seconds = {
        "quantize": time_alternately(
            lambda: quantize_nf4(x, double_quant=double_quant),
            lambda: bnb.quantize_4bit(x, **options),
            rounds,
        ),
        "dequantize": time_alternately(
            ours.dequantize, lambda: bnb.dequantize_4bit(packed, state), rounds
        ),
    }
    theirs = [packed, state.code, state.absmax]
    theirs += [state.state2.absmax, state.state2.code, state.offset] if double_quant else []
    same = torch.equal(ours.packed, packed.view(-1))
    same &= torch.equal(ours.dequantize(), bnb.dequantize_4bit(packed, state))
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "double_quant": double_quant,
        "seconds": seconds,
        "bytes": ours.nbytes,
        "bitsandbytes bytes": sum(tensor.nbytes for tensor in theirs),
        "bit-identical": same,
    }


def time_alternately(ours: Callable, theirs: Callable, rounds: int) -> dict[str, float]:
    """Run both functions alternately; return their median seconds, without a warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(rounds + 1):
        for name, work in zip(NAMES, (ours, theirs), strict=True):
            begun = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begun)
    return {name: median(each[1:]) for name, each in times.items()}


def measure() -> Iterator[Report]:
    """Time both codecs on every dtype, with and without double quantization."""
    yield {
        **measured_here(),
        "threads": torch.get_num_threads(),
        "shape": SHAPE,
        "rounds": ROUNDS,
        "cases": [case(dtype, double) for dtype in DTYPES for double in (False, True)],
    }


def speed(seconds: dict[str, float]) -> float:
    """Return our speed as a share of bitsandbytes' speed: 0.5 means half as fast."""
    return seconds["bitsandbytes"] / seconds["ours"]


def case_name(entry: dict) -> str:
    """Return a case in words, such as "float16, double quantization on"."""
    return f"{entry['dtype']}, double quantization {'on' if entry['double_quant'] else 'off'}"


def round_trip_speed(entry: dict) -> float:
    """Return our share of bitsandbytes' speed for quantizing and then dequantizing."""
    return speed({name: sum(times[name] for times in entry["seconds"].values()) for name in NAMES})


def table(report: Report) -> str:
    """Return a table with a row for each case; cells show our value / bitsandbytes' value."""
    heads = "weights in | double quantization | quantize (ms) | speed | dequantize (ms) | speed"
    heads += " | both: speed | bytes | bit-identical"
    lines = [f"| {heads} |", "|---|---" + "|--:" * 6 + "|---|"]
    for entry in report["cases"]:
        cells = [entry["dtype"], "yes" if entry["double_quant"] else "no"]
        for way in ("quantize", "dequantize"):
            times = entry["seconds"][way]
            cells.append(f"{1e3 * times['ours']:.1f} / {1e3 * times['bitsandbytes']:.1f}")
            cells.append(f"{speed(times):.2f}")
        cells.append(f"{round_trip_speed(entry):.2f}")
        cells.append(f"{entry['bytes']:,} / {entry['bitsandbytes bytes']:,}")
        cells.append("yes" if entry["bit-identical"] else "**no**")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def conditions(report: Report) -> str:
    """Return a sentence on the number of weights, rounds and threads."""
    return (
        f"{report['shape'][0] * report['shape'][1]:,} weights, block size 64. Times are medians of "
        f"{report['rounds']} rounds with {report['threads']} threads; the codecs alternate."
    )


def problems(report: Report) -> list[str]:
    """Return one sentence for each case that is too slow or differs from bitsandbytes.

    A case is too slow if its speed is below TARGET. It differs if its bits or bytes differ.
    """
    found = []
    for entry in report["cases"]:
        if not entry["bit-identical"] or entry["bytes"] != entry["bitsandbytes bytes"]:
            found.append(f"{case_name(entry)}: bits or bytes differ from bitsandbytes'")
        if round_trip_speed(entry) < TARGET:
            found.append(f"{case_name(entry)}: slower than {TARGET} times bitsandbytes' speed")
    return found


BENCHMARK = Benchmark(measure, {"table": table}, conditions=conditions, problems=problems)
