"""Attach LoRA adapters to a frozen base model, load saved adapters, and change their strength."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from course_utils.machine import runtime
from course_utils.models.fetch import check_adapter_files
from course_utils.training.recipe import Recipe

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def attach_adapters(
    model: PreTrainedModel | PeftModel, recipe: Recipe, name: str = "default"
) -> PeftModel:
    """Freeze the base model and add a LoRA adapter to every target module.

    Adapters are float32, so each trainable parameter needs 16 bytes with Adam: 4 bytes each for the
    weight, its gradient and Adam's two moments. peft's `prepare_model_for_kbit_training` is not
    called, because it would need additional memory to convert the embedding, the head and the norms
    to float32.

    Args:
        model: A transformers model, or a PeftModel, to which another adapter is added.
        recipe: The recipe whose rank, alpha, dropout, targets and seed are used.
        name: Name of the new adapter, which becomes the active and the only trainable adapter.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    _check_new(model, name)
    runtime.seed_everything(recipe.seed)
    targets = recipe.targets if isinstance(recipe.targets, str) else list(recipe.targets)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with _no_future_warnings():
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
            model.set_adapter(name)
        else:
            model = get_peft_model(model, config, adapter_name=name)
    others = [n for n in trainable_parameters(model) if name not in n.split(".")]
    assert not others, f"only the adapter {name!r} may be trainable, but so are {others[:3]}"
    return model


@contextmanager
def temporary_adapters(model: PreTrainedModel, recipe: Recipe) -> Iterator[PeftModel]:
    """Attach new adapters to a base model for training, and remove them after the with block."""
    tuned = attach_adapters(model, recipe).train()
    set_checkpointing(tuned, bool(recipe.gradient_checkpointing))
    try:
        yield tuned
    finally:
        set_checkpointing(tuned, False)
        # In new versions of transformers, checkpointing makes the embedding require gradients.
        if hasattr(model, "_require_grads_hook"):
            model.disable_input_require_grads()
        tuned.unload()
        model.eval()


def load_adapters(
    model: PreTrainedModel | PeftModel, path: str | Path, name: str = "default"
) -> PeftModel:
    """Load saved adapters into a base model, or add them to the adapters of a PeftModel.

    Args:
        name: Name that the loaded adapters get in the model, in which they become active.
    """
    from peft import PeftModel

    _check_new(model, name)
    check_adapter_files(Path(path))
    with _no_future_warnings():
        if isinstance(model, PeftModel):
            model.load_adapter(str(path), adapter_name=name)
            model.set_adapter(name)
            return model
        return PeftModel.from_pretrained(model, str(path), adapter_name=name)


def _check_new(model: PreTrainedModel | PeftModel, name: str) -> None:
    """Raise a ValueError if a model can't get a new adapter of this name."""
    from peft import PeftModel

    names = sorted(getattr(model, "peft_config", ()))
    if name in names:
        raise ValueError(
            f"the model already has an adapter {name!r}: choose a name that is not in {names}"
        )
    if not name or "." in name:
        raise ValueError(f"the name of an adapter must be text without a dot, got {name!r}")
    if names and not isinstance(model, PeftModel):
        raise ValueError(
            f"this base model is part of a PeftModel with the adapters {names}: pass the PeftModel"
        )


@contextmanager
def strength(model: PeftModel, factor: float) -> Iterator[None]:
    """Multiply the updates of all adapters of a model by a factor inside the with block.

    Inside the block, every adapted layer computes with W + factor · (α/r) B A. With the factor 0
    the model is the base model, and with 1 the tuned model. Afterwards, α/r has its previous value.
    What adapters contain in addition to A and B, as with DoRA, keeps its full strength.
    """
    from peft.helpers import rescale_adapter_scale
    from peft.tuners.lora import LoraLayer

    is_number = isinstance(factor, Real) and not isinstance(factor, bool)
    if not is_number or not 0 <= factor < math.inf:
        raise ValueError(f"factor must be a number of at least 0, got {factor!r}")
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers or any(layer.merged for layer in layers):
        raise ValueError(
            "the model has no adapters, or they are merged into its weights: load the base model "
            "and its adapters again"
        )
    with rescale_adapter_scale(model, float(factor)):
        yield


@contextmanager
def _no_future_warnings() -> Iterator[None]:
    """Hide FutureWarnings, with which students can do nothing, inside the with block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return a dict of the parameters that the optimizer will update, with names as keys."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def set_checkpointing(model: PreTrainedModel | PeftModel, on: bool) -> None:
    """Switch gradient checkpointing of a transformers model or a PeftModel on or off."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # Before version 5.24, the names of these methods in transformers began with "gradient".
    kind = "activation" if hasattr(base, "activation_checkpointing_enable") else "gradient"
    if on:
        # With use_reentrant=False, gradients reach the adapters although the embeddings are frozen.
        getattr(base, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(base, f"{kind}_checkpointing_disable")()
