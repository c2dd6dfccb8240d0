"""`Recipe`: every choice of a fine-tuning run in one frozen object."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from course_utils.validation import positive

if TYPE_CHECKING:
    import torch

COUNTS = ("rank", "alpha", "micro_batch_size", "accumulation", "epochs")
OPTIONAL_COUNTS = ("max_steps", "validate_every", "save_every")
# These choices change no weight, so an interrupted run may be resumed with other ones.
CADENCE = ("validate_every", "save_every")


def _choice(default: Any, help: str) -> Any:
    """A field of `Recipe`. Its help is a line of `Recipe`'s docstring and of `command`'s --help."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """Every choice of a fine-tuning run, with defaults for SmolLM2-135M and the news briefs.

    Raises:
        ValueError: A value is outside its range.
    """

    rank: int = _choice(8, "Rank r of the adapters.")
    alpha: int = _choice(16, "An adapter adds (alpha / rank) · B A to its frozen weight.")
    dropout: float = _choice(0.0, "Share of an adapter's inputs that dropout sets to zero.")
    targets: str | tuple[str, ...] = _choice("all-linear", "Names of the layers to adapt.")
    learning_rate: float = _choice(4e-3, "Peak of the learning rate, which then falls as a cosine.")
    warmup: float = _choice(0.1, "Share of all steps in which the learning rate rises from 0.")
    weight_decay: float = _choice(0.0, "Weight decay of AdamW.")
    max_grad_norm: float = _choice(1.0, "Larger gradients are scaled down to this norm.")
    micro_batch_size: int = _choice(8, "Examples in one forward pass of each process.")
    accumulation: int = _choice(1, "Micro-batches in one optimizer step of each process.")
    epochs: int = _choice(1, "Passes over the training examples.")
    max_steps: int | None = _choice(None, "Number of optimizer steps, which replaces epochs.")
    gradient_checkpointing: bool = _choice(
        True, "Recompute each layer's activations in the backward pass instead of storing them."
    )
    seed: int = _choice(0, "Seed of the adapters, of the examples' order and of dropout.")
    compute_dtype: torch.dtype | None = _choice(
        None, "Dtype of autocast. By default that of the 4-bit layers, or the best of the device."
    )
    fast: bool | None = _choice(
        None,
        "Train with `fast_step`, without autocast and padding; only rounding differs. By default "
        "where `fast_step` supports the model and compute_dtype is not given.",
    )
    validate_every: int | None = _choice(
        None, "Steps from one validation to the next. By default only the last step is validated."
    )
    save_every: int | None = _choice(
        None, "Steps from one checkpoint to the next. By default only the last step is saved."
    )

    def __post_init__(self) -> None:
        given = [name for name in OPTIONAL_COUNTS if getattr(self, name) is not None]
        for name in (*COUNTS, *given):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}")
        for name in ("warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is a share: it must be at least 0 and below 1, "
                    f"got {getattr(self, name)!r}"
                )

    def steps_per_epoch(self, examples: int, processes: int = 1) -> int:
        """Optimizer steps in one pass over this many training examples."""
        return math.ceil(examples / (self.micro_batch_size * self.accumulation * processes))

    def steps(self, examples: int, processes: int = 1) -> int:
        """Optimizer steps of the whole run over this many training examples."""
        return self.max_steps or self.epochs * self.steps_per_epoch(examples, processes)

    def fingerprint(self) -> dict[str, Any]:
        """The choices that a run's weights depend on, as JSON has them."""
        choices = {name: value for name, value in asdict(self).items() if name not in CADENCE}
        return json.loads(json.dumps(choices, default=str))


# `Recipe?`, the website and --help all show the help of the fields, which is written once.
_HELP = "".join(f"    {field.name}: {field.metadata['help']}\n" for field in fields(Recipe))
Recipe.__doc__ = f"{inspect.getdoc(Recipe)}\n\nAttributes:\n{_HELP}"
