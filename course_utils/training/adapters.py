"""LoRA adapters on a frozen base: attach new ones, load saved ones, and find what is trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from course_utils import runtime
from course_utils.training.recipe import Recipe
from course_utils.validation import CourseError


def attach_adapters(model, recipe: Recipe, name: str = "default"):
    """Freeze the base model and put a LoRA adapter beside every target module.

    Adapters are float32 whatever the dtype of the base, so each trainable parameter needs 16 B with
    Adam. peft's `prepare_model_for_kbit_training` is not called: it copies the embedding, the head
    and the norms to float32, which costs memory and which this loop does not need.

    Args:
        model: A transformers model, or a PeftModel, which gets one more adapter.
        recipe: Its rank, alpha, dropout, targets and seed.
        name: Name of the new adapter, which becomes the active one.

    Returns:
        The PeftModel.

    Raises:
        ValueError: The model already has an adapter of this name.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    runtime.seed_everything(recipe.seed)
    targets = recipe.targets if isinstance(recipe.targets, str) else list(recipe.targets)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    if name in getattr(model, "peft_config", ()):
        taken = sorted(model.peft_config)
        raise ValueError(f"the model already has an adapter {name!r}; its adapters are {taken}")
    with _no_future_warnings():
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
            model.set_adapter(name)
        else:
            model = get_peft_model(model, config, adapter_name=name)
    others = [n for n in trainable_parameters(model) if f".{name}." not in n]
    assert not others, f"only the adapter {name!r} may be trainable, but so are {others[:3]}"
    return model


def load_adapters(model, path: str | Path, name: str = "default"):
    """Put saved adapters on a fresh base model, or beside the adapters of a PeftModel.

    Returns:
        The PeftModel, with the loaded adapters active.

    Raises:
        CourseError: The folder `path` contains no adapters.
    """
    from peft import PeftModel

    if not (Path(path) / "adapter_config.json").is_file():
        raise CourseError(f"no adapters in {path}: a folder with adapter_config.json is expected")
    with _no_future_warnings():
        if isinstance(model, PeftModel):
            model.load_adapter(str(path), adapter_name=name)
            model.set_adapter(name)
            return model
        return PeftModel.from_pretrained(model, str(path), adapter_name=name)


@contextmanager
def _no_future_warnings() -> Iterator[None]:
    """Hide a warning that students can ignore: peft 0.21 reads a renamed attribute of a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter that the optimizer will update, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def set_checkpointing(model, on: bool) -> None:
    """Switch gradient checkpointing of a transformers model or a PeftModel on or off."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # transformers called it gradient checkpointing before 5.24.
    kind = "activation" if hasattr(base, "activation_checkpointing_enable") else "gradient"
    if on:
        # Without reentrance, frozen embeddings need no gradient of their own.
        getattr(base, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(base, f"{kind}_checkpointing_disable")()
