"""Estimate fine-tuning memory with fitcheck and accelerate, in bytes: JSON in, JSON out.

    HF_ENDPOINT=http://… python workshop/benchmarks/peers.py < questions.json

The input is {"fitcheck": [[model, options of TrainingConfig], …], "accelerate": [model, …]}. The
last line of the output contains the answers in the same order. `calculators.py` runs this program
in a separate process with a local replacement of the Hugging Face hub, because fitcheck and
accelerate read a model's config from the hub, and huggingface_hub reads HF_ENDPOINT only when it is
imported.
"""

from __future__ import annotations

import json
import sys

from accelerate.commands.estimate import estimate_command_parser, gather_data

from course_utils.machine.units import MiB


def ask_fitcheck(model: str, options: dict) -> dict[str, float]:
    """Return the bytes (B) that fitcheck reports for the weights and for all tensors.

    The tensors are fitcheck's total without its overhead. The overhead estimates the CUDA context
    and the memory that PyTorch reserves but doesn't use, which torch.cuda.max_memory_allocated
    doesn't count.
    """
    from fitcheck import TrainingConfig, estimate, fetch_model_config, get_gpu

    report = estimate(fetch_model_config(model), TrainingConfig(**options), get_gpu("t4"))
    return {
        "weights": report.weight_mib * MiB,
        "tensors": (report.total_mib - report.overhead_mib) * MiB,
    }


def ask_accelerate(model: str) -> dict[str, dict[str, float | None]]:
    """Return the bytes (B) that `accelerate estimate-memory` shows for each dtype.

    "weights" are the bytes of the weights, and "training" are the bytes of training with Adam. A
    value is None if accelerate shows N/A, for example for training in 8 or 4 bits.
    """
    rows = gather_data(estimate_command_parser().parse_args([model]))
    return {
        dtype: {"weights": weights, "training": shown(max(training.values()))}
        for dtype, _, weights, training in rows
    }


def shown(size: float) -> float | None:
    """Return a size of accelerate; None for -1, which means that accelerate doesn't know it."""
    return None if size == -1 else size


if __name__ == "__main__":
    questions = json.load(sys.stdin)
    answers = {
        "fitcheck": [ask_fitcheck(model, options) for model, options in questions["fitcheck"]],
        "accelerate": [ask_accelerate(model) for model in questions["accelerate"]],
    }
    print(json.dumps(answers))
