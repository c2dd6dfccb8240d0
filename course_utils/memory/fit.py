"""Answer whether a training step fits a GPU, for any causal model.

    model ─► does the formula know it? ─┬─ yes ─► memory.estimate ─┬─► Answer
                                        └─ no ──► memory.trace ────┘

A trace imports PyTorch and runs the model's code from transformers, so it takes some seconds.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from course_utils.machine.units import counted, format_bytes
from course_utils.memory.estimates import Estimate, estimate
from course_utils.memory.families import FAMILIES, PRESETS, BadField
from course_utils.memory.gpus import USABLE, usable_bytes
from course_utils.memory.settings import Settings
from course_utils.memory.shapes import ModelShape, is_name, read_config


def predict(
    model: ModelShape | str | Path | Mapping[str, Any],
    method: str = "full",
    *,
    tracing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    **options: Any,
) -> Estimate:
    """Return `memory.estimate` of a model, or a trace if the formulas don't know the model.

    `tracing` returns a context manager in which the trace runs, for example one that shows a
    progress line. The other arguments and the errors are the same as in `estimate`. If the model is
    on the hub, only its config is downloaded.
    """
    Settings.of(method, options)
    if is_name(model):
        traceable = family_known = model.strip().lower() in PRESETS
    elif traceable := not isinstance(model, ModelShape):
        # If the config can't be read, this raises an error before PyTorch is imported.
        family_known = str(read_config(model)[0].get("model_type")) in FAMILIES
    try:
        return estimate(model, method, **options)
    except ValueError as error:
        # transformers would fill in its own values for wrong or missing fields.
        if not traceable or isinstance(error, BadField):
            raise
        refused = error
    try:
        with tracing():
            from course_utils.memory.trace import trace

            return trace(cast(Any, model), method, **options)
    except ValueError as error:
        raise (refused if family_known else error) from None


@dataclass(frozen=True)
class Answer:
    """The memory of a training step, compared with the memory of a GPU.

    Attributes:
        gpu: The GPU's name or size, None if there is no GPU to compare with.
        memory: The size of the GPU's memory in bytes.
    """

    estimate: Estimate
    gpu: str | None = None
    memory: int = 0

    @property
    def fits(self) -> bool | None:
        """Whether the step fits the GPU, or None if no GPU is given."""
        return None if self.gpu is None else self.estimate.fits(self.memory)

    @property
    def traced(self) -> bool:
        """Whether the bytes were found by a trace of the model's own code, not by a formula."""
        return self.estimate.terms[0].formula == "traced"

    def __str__(self) -> str:
        by = "tracing the model's own code" if self.traced else "the course's formula"
        assumed = f"{self.assumed()}\nThe bytes were found by {by}."
        return f"{self.sentence()}\n\n{self.estimate}\n\n{assumed}"

    def sentence(self) -> str:
        """Return a short answer.

        If no GPU is given, the answer names the GPUs that are large enough.
        """
        found = self.estimate
        needs = f"{found.shape.name} needs {format_bytes(found.total)}"
        if self.gpu is not None:
            usable = usable_bytes(self.memory)
            rest, of_it = format_bytes(abs(usable - found.total)), f"this GPU ({self.gpu})"
            of_it = f"{format_bytes(usable)} of {of_it}"
            if self.fits:
                return f"Yes, it fits: {needs}, and tensors can use {of_it}, so {rest} stay free."
            return f"No: {needs}, but tensors can use only {of_it}, so {rest} are missing."
        if found.settings.device == "cpu":
            return f"{needs} for tensors on a CPU."
        names = [gpu for gpu in USABLE if found.fits(gpu)]
        return f"{needs}. It fits on {', '.join(names) if names else 'no GPU that is known here'}."

    def assumed(self) -> str:
        """Return a sentence with the settings that the estimate assumes."""
        s = self.estimate.settings
        words = [f"{counted(s.batch_size, 'text')} of {s.sequence_length:,} tokens"]
        if not s.trains_weights:
            targets = s.targets if isinstance(s.targets, str) else " and ".join(s.targets)
            words.append(f"rank {s.rank} on {targets}")
        words += [s.compute_dtype, s.attention, s.optimizer, f"loss {s.loss}"]
        words.append(f"{'' if s.gradient_checkpointing else 'no '}gradient checkpointing")
        return f"Assumed: {', '.join([*words, f'trainer {s.trainer}'] if s.trainer else words)}."

    def warnings(self) -> Iterator[str]:
        """Yield sentences about what the estimate doesn't count, or counts in an unexpected way."""
        shape, terms = self.estimate.shape, self.estimate.terms
        if experts := sum(term.size for term in terms if term.name == "experts, not quantized"):
            yield (
                f"experts, not quantized: {format_bytes(experts)}. bitsandbytes leaves fused "
                "experts in 16 bits."
            )
        if not (shape.known or self.traced):
            yield f"only the number of parameters of {shape.name} is known: no activations counted."
        if shape.dropout:
            yield f"dropout is assumed to be off; the config has {shape.dropout:g}."

    def as_json(self) -> dict[str, Any]:
        """Return the answer as a dict that can be written as JSON; sizes are in bytes (B)."""
        return {
            "model": self.estimate.shape.name,
            "total": self.estimate.total,
            "phase": self.estimate.peak,
            "parts": {name: size for name, size in self.estimate.groups.items() if size},
            "fits": self.fits,
            "gpu": self.gpu,
            "usable": usable_bytes(self.memory) if self.gpu else None,
            "source": "trace" if self.traced else "formula",
            "settings": vars(self.estimate.settings),
        }


def own_gpu() -> tuple[str, int] | None:
    """Return the name of this machine's GPU and its memory in bytes, or None if there is no GPU."""
    # Importing PyTorch takes seconds. On a machine without NVIDIA's driver, it's not needed.
    if "torch" not in sys.modules and not shutil.which("nvidia-smi"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    gpu = torch.cuda.get_device_properties(0)
    return gpu.name, gpu.total_memory
