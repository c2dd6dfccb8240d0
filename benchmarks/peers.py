"""What two other calculators say about fine-tuning memory, in bytes: JSON in, JSON out.

    HF_ENDPOINT=http://… python benchmarks/peers.py < questions.json

Both read a model's config from the hub, and huggingface_hub reads HF_ENDPOINT when it is imported,
so `calculators.py` runs this in a process of its own, with a local hub. Of the questions
{"fitcheck": [[model, options of its TrainingConfig], …], "accelerate": [model, …]} the last line of
the output is the answers, in the same order.
"""

from __future__ import annotations

import json
import sys

from accelerate.commands.estimate import estimate_command_parser, gather_data

from course_utils.units import MiB


def ask_fitcheck(model: str, options: dict) -> dict[str, float]:
    """Bytes of fitcheck's report: weights, and tensors (its total without its overhead).

    The overhead stands for the CUDA context and for memory that PyTorch reserves but doesn't use;
    torch.cuda.max_memory_allocated counts neither.
    """
    from fitcheck import TrainingConfig, estimate, fetch_model_config, get_gpu

    report = estimate(fetch_model_config(model), TrainingConfig(**options), get_gpu("t4"))
    return {
        "weights": report.weight_mib * MiB,
        "tensors": (report.total_mib - report.overhead_mib) * MiB,
    }


def ask_accelerate(model: str) -> dict[str, dict[str, float | None]]:
    """Bytes that `accelerate estimate-memory` shows, by dtype: weights, and training using Adam.

    None where it shows N/A, as for training in 8 or 4 bits.
    """
    rows = gather_data(estimate_command_parser().parse_args([model]))
    return {
        dtype: {"weights": weights, "training": shown(max(training.values()))}
        for dtype, _, weights, training in rows
    }


def shown(size: float) -> float | None:
    """accelerate writes -1 for what it doesn't know."""
    return None if size == -1 else size


if __name__ == "__main__":
    questions = json.load(sys.stdin)
    answers = {
        "fitcheck": [ask_fitcheck(model, options) for model, options in questions["fitcheck"]],
        "accelerate": [ask_accelerate(model) for model in questions["accelerate"]],
    }
    print(json.dumps(answers))
