"""Define `Recipe`, a frozen object with all settings of a fine-tuning run."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from course_utils.machine.validation import positive
from course_utils.models.fetch import BASE_MODELS, SMALL_MODEL

if TYPE_CHECKING:
    import torch

COUNTS = ("rank", "alpha", "micro_batch_size", "accumulation", "epochs")
OPTIONAL_COUNTS = ("max_steps", "validate_every", "save_every")
# These settings do not change the weights, so a run may be resumed with other values.
CADENCE = ("validate_every", "save_every")


def _setting(default: Any, help: str) -> Any:
    """Return a field for `Recipe`. Its docstring shows `help`."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """All settings of a fine-tuning run, with defaults for SmolLM2-135M and the news briefs.

    Raises:
        ValueError: A value is outside its allowed range.
    """

    rank: int = _setting(8, "Rank r of the adapters.")
    alpha: int = _setting(16, "Each adapter adds (alpha / rank) · B A to its frozen weight.")
    dropout: float = _setting(0.0, "Share of an adapter's inputs that dropout sets to zero.")
    targets: str | tuple[str, ...] = _setting("all-linear", "Names of the layers to adapt.")
    learning_rate: float = _setting(
        BASE_MODELS[SMALL_MODEL].learning_rate, "Peak learning rate, which then decays as a cosine."
    )
    warmup: float = _setting(0.1, "Share of all steps during which the learning rate rises.")
    weight_decay: float = _setting(0.0, "Weight decay of AdamW.")
    max_grad_norm: float = _setting(1.0, "Gradients with a larger norm are scaled to this norm.")
    micro_batch_size: int = _setting(8, "Number of examples per forward pass.")
    accumulation: int = _setting(1, "Number of micro-batches per step.")
    epochs: int = _setting(1, "Number of passes over the training examples.")
    max_steps: int | None = _setting(
        None, "Number of optimizer steps. If given, epochs is ignored."
    )
    gradient_checkpointing: bool = _setting(
        True, "Recompute each layer's activations in the backward pass instead of storing them."
    )
    seed: int = _setting(0, "Random seed of the adapters, the order of examples and dropout.")
    # ruff does not see that `_setting` returns a field, so it suspects a shared mutable default.
    compute_dtype: torch.dtype | None = _setting(  # noqa: RUF009
        None,
        "Dtype of autocast. By default it is the compute dtype of the 4-bit layers, or the best "
        "dtype of the device if there are no 4-bit layers.",
    )
    fast: bool | None = _setting(
        None,
        "Whether to train with `by_hand`, which uses no autograd and less padding, and changes "
        "results only by rounding. By default it is used if `by_hand` supports the model, "
        "compute_dtype is not given, and weights without quantization have the dtype in which "
        "autocast would compute.",
    )
    validate_every: int | None = _setting(
        None,
        "Number of steps from one validation to the next. By default the model is validated only "
        "after the last step.",
    )
    save_every: int | None = _setting(
        None,
        "Number of steps from one checkpoint to the next. By default a checkpoint is saved only "
        "after the last step.",
    )

    def __post_init__(self) -> None:
        optional = [name for name in OPTIONAL_COUNTS if getattr(self, name) is not None]
        for name in (*COUNTS, *optional):
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

    def steps_per_epoch(self, examples: int) -> int:
        """Return the number of optimizer steps in one pass over the training examples."""
        return math.ceil(examples / (self.micro_batch_size * self.accumulation))

    def steps(self, examples: int) -> int:
        """Return the number of optimizer steps of the whole run."""
        return self.max_steps or self.epochs * self.steps_per_epoch(examples)

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that a run's weights depend on, as values that JSON can store."""
        settings = {name: value for name, value in asdict(self).items() if name not in CADENCE}
        return json.loads(json.dumps(settings, default=str))


# The help of each field is written once. `Recipe?` and the website show this help.
_HELP = "".join(f"    {field.name}: {field.metadata['help']}\n" for field in fields(Recipe))
Recipe.__doc__ = f"{inspect.getdoc(Recipe)}\n\nAttributes:\n{_HELP}"
