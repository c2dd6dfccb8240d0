"""Read saved LoRA adapters, and find their base model without loading it.

peft saves the matrices A and B of an adapter as tensors. Their names contain the name of the
adapted linear layer:

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight    (r, in)
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight    (out, r)

The file adapter_config.json contains r, α, and either the base model's name or the path of its
folder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from torch import Tensor

from course_utils.machine.files import written_aside
from course_utils.machine.validation import CourseError, first_line
from course_utils.models.fetch import (
    BASE_MODELS,
    cached_repository,
    check_adapter_files,
    fetch_base,
    hub_name,
    is_model,
    is_repository,
)
from course_utils.models.llama import Adapter

if TYPE_CHECKING:
    from peft import LoraConfig

PREFIX = "base_model.model."
# Only adapters with these settings can be exported. If one of the settings has another value, peft
# computes something other than W + (α/r) B A, or trains parameters besides the matrices A and B of
# linear layers.
PLAIN = {
    "use_dora": False,
    "bias": "none",
    "lora_bias": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "trainable_token_indices": None,
    "layer_replication": None,
    "target_parameters": None,
}


@dataclass(frozen=True)
class SavedAdapters:
    """LoRA adapters that were read from a folder in peft's format.

    Attributes:
        layers: a dict from the name of each adapted layer, such as "model.layers.0.mlp.gate_proj",
            to the matrices A (r, in) and B (out, r) of its adapter and the scale of the update.
    """

    folder: Path
    config: LoraConfig
    layers: dict[str, Adapter]

    def update(self, layer: str) -> Tensor:
        """Compute the update of an adapted layer: its scale times B A, as float32 (out, in)."""
        A, B, scale = self.layers[layer]
        return scale * (B.float() @ A.float())

    def base_folder(self, base: str | Path | None = None) -> Path:
        """Return the folder of the base model.

        If the model is in BASE_MODELS but not on this machine, it is downloaded first. No other
        model is downloaded. If another model is given by its name on the hub, it must be in the
        Hugging Face cache.
        """
        named = str(base or self.config.base_model_name_or_path or "")
        if is_model(Path(named).expanduser()):
            return Path(named).expanduser()
        for name, model in BASE_MODELS.items():
            if named in (name, model.hub):
                return fetch_base(name)
        if is_repository(named) and (folder := cached_repository(named)):
            return folder
        raise CourseError(
            f"the base model {named!r} of the adapters in {self.folder} is not on this machine: "
            "pass its folder as base"
        )


def read_adapters(folder: str | Path) -> SavedAdapters:
    """Read the LoRA adapters that peft has saved in a folder."""
    from peft import PeftConfig, load_peft_weights

    folder = Path(folder).expanduser()
    check_adapter_files(folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CourseError(f"the adapters in {folder} can't be read: {first_line(error)}") from error
    if reason := _not_plain(config, weights):
        raise CourseError(f"the adapters in {folder} can't be exported: {reason}")
    names = sorted({key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in weights})
    layers = {}
    for name in names:
        A, B = (weights[f"{PREFIX}{name}.lora_{matrix}.weight"] for matrix in "AB")
        layers[name] = Adapter(A, B, _scale(config, name, len(A)))
    return SavedAdapters(folder, config, layers)


def _not_plain(config: Any, weights: dict[str, Tensor]) -> str | None:
    """Return the reason why adapters can't be exported, or None if they are plain LoRA adapters."""
    if config.peft_type != "LORA":
        return f"they are {config.peft_type.value} adapters, but only LoRA adapters can be exported"
    for setting, value in PLAIN.items():
        if (getattr(config, setting, value) or None) != (value or None):
            return (
                f"they were trained with {setting}={getattr(config, setting)!r}, but only plain "
                "LoRA, whose update is (α/r) B A, can be exported"
            )
    ends = (".lora_A.weight", ".lora_B.weight")
    if others := sorted(key for key in weights if not key.endswith(ends)):
        return f"they contain {others[0]}, which is neither A nor B of a linear layer"
    for key in weights:
        if key.replace(".lora_A.", ".lora_B.") not in weights or (
            key.replace(".lora_B.", ".lora_A.") not in weights
        ):
            return f"they contain {key}, but not the other matrix of this layer"
    return None if weights else "they contain no weights"


def _scale(config: LoraConfig, name: str, rank: int) -> float:
    """Return the scale of an adapter's update B A: α/r, or α/√r with rsLoRA."""
    from peft.utils.other import get_pattern_key

    alpha = config.alpha_pattern.get(
        get_pattern_key(config.alpha_pattern.keys(), name), config.lora_alpha
    )
    return alpha / (math.sqrt(rank) if config.use_rslora else rank)


def save_adapters(adapters: str | Path, folder: str | Path) -> Path:
    """Copy adapters into a folder that can be published.

    Training saves the path of the base model's folder in adapter_config.json. If the base model is
    in the Hugging Face cache or in the course's cache, the copy contains the model's name on the
    hub, "owner/name", instead of the path.
    """
    from safetensors.torch import save_file

    saved = read_adapters(adapters)
    named = saved.config.base_model_name_or_path
    saved.config.base_model_name_or_path = hub_name(named) or named
    tensors = {
        f"{PREFIX}{name}.lora_{matrix}.weight": tensor.contiguous()
        for name, adapter in saved.layers.items()
        for matrix, tensor in zip("AB", adapter[:2], strict=True)
    }
    with written_aside(Path(folder)) as new:
        new.mkdir()
        saved.config.save_pretrained(str(new))
        save_file(tensors, new / "adapter_model.safetensors", metadata={"format": "pt"})
    return Path(folder)
