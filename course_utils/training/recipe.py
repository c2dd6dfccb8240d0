"""Define `Recipe`, a frozen object with all settings of a fine-tuning run."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from course_utils.machine.validation import one_of, positive
from course_utils.models.fetch import BASE_MODELS, SMALL_MODEL

if TYPE_CHECKING:
    import torch

COUNTS = ("rank", "alpha", "micro_batch_size", "accumulation", "epochs")
OPTIONAL_COUNTS = ("max_steps", "validate_every", "save_every")
# These settings do not change the weights, so a run may be resumed with other values.
HARMLESS = ("validate_every", "save_every", "gradient_checkpointing")


@dataclass(frozen=True)
class Recipe:
    """All settings of a fine-tuning run, with defaults for SmolLM2-135M and the news briefs.

    Attributes:
        alpha: Each adapter adds (alpha / rank) · B A to its frozen weight.
        dropout: Share of an adapter's inputs that dropout sets to zero.
        learning_rate: Peak learning rate, which then decays as a cosine.
        warmup: Share of all steps during which the learning rate rises.
        max_grad_norm: Gradients with a larger norm are scaled to this norm.
        micro_batch_size: Number of examples per forward pass.
        accumulation: Number of micro-batches per step.
        max_steps: Number of optimizer steps. If given, epochs is ignored.
        gradient_checkpointing: Whether each layer's activations are recomputed in the backward pass
            instead of stored. With "some", `by_hand` stores the outputs of q, k, v, gate and up in
            16 bits, because these take longest to recompute. In float32, and with autograd, "some"
            has the same effect as True.
        seed: Random seed of the adapters, the order of examples and dropout.
        compute_dtype: Dtype of autocast. By default it is the compute dtype of the 4-bit layers, or
            the best dtype of the device if there are no 4-bit layers.
        fast: Whether to train with `by_hand`, which uses no autograd and less padding, and changes
            results only by rounding. By default it is used under three conditions: `by_hand`
            supports the model, compute_dtype is not given, and all unquantized weights have the
            dtype in which autocast would compute.
        validate_every: Number of steps from one validation to the next. By default the model is
            validated only after the last step.
        save_every: Number of steps from one checkpoint to the next. By default a checkpoint is
            saved only after the last step.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    learning_rate: float = BASE_MODELS[SMALL_MODEL].learning_rate
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    micro_batch_size: int = 8
    accumulation: int = 1
    epochs: int = 1
    max_steps: int | None = None
    gradient_checkpointing: bool | Literal["some"] = "some"
    seed: int = 0
    compute_dtype: torch.dtype | None = None
    fast: bool | None = None
    validate_every: int | None = None
    save_every: int | None = None

    def __post_init__(self) -> None:
        optional = [name for name in OPTIONAL_COUNTS if getattr(self, name) is not None]
        for name in (*COUNTS, *optional):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        one_of("gradient_checkpointing", self.gradient_checkpointing, (True, "some", False))
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}")
        for name in ("warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is a share: it must be at least 0 and below 1, "
                    f"got {getattr(self, name)!r}"
                )

    def steps_per_epoch(self, examples: int) -> int:
        """Return the number of optimizer steps in one pass over the training examples."""
        return math.ceil(examples / (self.micro_batch_size * self.accumulation))

    def steps(self, examples: int) -> int:
        """Return the number of optimizer steps of the whole run."""
        return self.max_steps or self.epochs * self.steps_per_epoch(examples)

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that a run's weights depend on, as values that JSON can store."""
        settings = {name: value for name, value in asdict(self).items() if name not in HARMLESS}
        return json.loads(json.dumps(settings, default=str))
