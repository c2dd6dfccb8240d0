"""Merge LoRA adapters into a model whose linear layers have 4-bit weights.

Every merge computes W + U in float32, where U = (α/r) B A is the update of the adapters. Two
options of `merge` decide which weights W are used, and how the sum is stored:

    into          weights W of the base model     stored_as   W + U is stored with
    dequantized   after NF4 has rounded them      nf4         the nearest of 16 levels
    original      before NF4 has rounded them     bfloat16    8 significant bits
                                                  float16     11 significant bits
                                                  float32     24 significant bits

Every dequantized weight is exactly one of 16 values: the levels times the constant of its block. So
NF4 rounds W + U back to W unless W + U is beyond the midpoint to the neighbouring value. Some
original weights are close to a midpoint. So even a small U moves some of them by a whole step, and
the average change over all weights is about U.

References: LoRA (Hu et al. 2021, section 4.1); QLoRA (Dettmers et al. 2023, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.machine import threads
from course_utils.machine.validation import CourseError, one_of
from course_utils.models import dequantized, linear4bit_layers, stored_weights
from course_utils.models.fetch import is_model

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit, Params4bit
    from peft import PeftModel
    from transformers import PreTrainedModel

BASES = ("dequantized", "original")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
FORMATS = ("nf4", *DTYPES)


@torch.no_grad()
@threads.sharing_cores()
def merge(
    model: PeftModel, into: str = "dequantized", stored_as: str = "bfloat16"
) -> PreTrainedModel:
    """Merge the active adapters of a model into the weights of its base model, which is in NF4.

    The function replaces the layers of `model` one after the other, so there is never a second
    model in memory. Afterwards `model` can't be used any more: use the model that is returned.

    Args:
        stored_as: "nf4" to store the linear layers in 4 bits, or the dtype of all weights of the
            result: "bfloat16", "float16" or "float32".
    """
    _check(model, into, stored_as)
    base = model.get_base_model()
    for name, layer, weight in _weights(base, into):
        # The sum overwrites W, because another float32 matrix would need as much memory as W.
        total = weight.add_(_update(base, name))
        if stored_as == "nf4":
            layer.weight = _quantized(total, layer)
        else:
            layer = _linear(total.to(DTYPES[stored_as]), layer.bias)
        base.set_submodule(name, layer)
    if stored_as != "nf4":
        # Without this call, transformers would still treat the model as quantized, and refuse to
        # convert it to another dtype.
        base.hf_quantizer.remove_quantization_config(base)
        base.to(DTYPES[stored_as])
    # This call merges the adapters on layers that were not in 4 bits, and removes what peft has
    # added to the model.
    return model.merge_and_unload()


@torch.no_grad()
@threads.sharing_cores()
def update_left(
    model: PeftModel,
    into: str = "dequantized",
    stored_as: str = "nf4",
    layer: str | None = None,
) -> float:
    """Measure what share of the adapters' update would remain after a merge.

    The model is not changed. Let R be the rounding to the format `stored_as`. Because of R, a merge
    changes the weights by R(W + U) - R(W) instead of by U. The function projects this change onto
    U, and divides the length of the projection by the length of U.

    Args:
        layer: the name of a layer, such as "model.layers.0.mlp.gate_proj". By default, all layers
            are measured together.
    """
    _check(model, into, stored_as, layer)
    base = model.get_base_model()
    left = total = 0.0
    for name, quantized, weight in _weights(base, into, layer):
        update = _update(base, name)
        change = _rounded(weight + update, quantized, stored_as)
        change -= _rounded(weight, quantized, stored_as)
        left += (change * update).sum().item()
        total += (update * update).sum().item()
    if total == 0:
        raise ValueError("the update of the 4-bit layers is zero: train their adapters first")
    return left / total


@dataclass(frozen=True)
class NumberLine:
    """The NF4 levels, constants and codes of a layer's weights, and the update of its adapters.

    A weight with the code i, in a block with the constant c, has the value levels[i] · c.

    Attributes:
        levels: the 16 levels of NF4, in ascending order from -1 to 1, of shape (16,).
        constants: for each weight, the constant c of its block, of shape (out, in).
        codes: for each weight, the index of its level in `levels`, of shape (out, in).
        update: the update U of the adapters, of shape (out, in).
    """

    levels: Tensor
    constants: Tensor
    codes: Tensor
    update: Tensor

    def reach(self) -> Tensor:
        """Return the size of U as a share of the distance from the weight to the next midpoint.

        The next midpoint is halfway between the weight and the neighbouring value on the side to
        which U points. NF4 rounds the sum W + U to a different level only if the share exceeds 1.
        If a weight is on an outermost level and U points outwards, there is no midpoint, and the
        share is 0.

        The function assumes that the constants of the blocks stay the same. In fact, if an update
        changes the largest absolute value in a block, the constant of the block changes, too.
        """
        beyond = torch.tensor([torch.inf])
        padded = torch.cat([-beyond, self.levels, beyond])
        neighbours = padded[self.codes + 1 + self.update.sign().int()]
        to_midpoint = (neighbours - self.levels[self.codes]).abs() * self.constants / 2
        # If U is zero, the distance above is zero, too, but the share must be 0 and not 0/0.
        return self.update.abs() / to_midpoint.where(self.update != 0, torch.inf)

    def typical(self) -> dict[str, Any]:
        """Return the weight whose reach is the median, as arguments for `figures.rounding_line`.

        Two kinds of weights are not considered: weights at zero, because the 16-bit numbers are
        much closer to each other there than elsewhere, and weights at an outermost level, because
        an outermost level has only one neighbour.

        Returns:
            A dict with the keys "levels" (the 16 levels times the constant of the weight's block),
            "weight" (the value of the weight) and "update" (the update of this weight).
        """
        inside = (self.codes > 0) & (self.codes < 15) & (self.levels[self.codes] != 0)
        reach = self.reach().where(inside, torch.nan)
        place = (reach - reach.nanmedian()).abs().nan_to_num(torch.inf).argmin()
        levels = self.levels * self.constants.flatten()[place]
        weight, update = levels[self.codes.flatten()[place]], self.update.flatten()[place]
        return {"levels": levels.tolist(), "weight": weight.item(), "update": update.item()}


@torch.no_grad()
def number_line(model: PeftModel, layer: str) -> NumberLine:
    """Return the NF4 levels, constants and codes of a layer, and the update of its adapters."""
    from bitsandbytes.functional import dequantize_blockwise

    _check(model, layer=layer)
    base = model.get_base_model()
    packed = _layers(base)[layer].weight
    state = packed.quant_state
    constants = state.absmax
    if state.nested:
        constants = dequantize_blockwise(constants, state.state2) + state.offset
    # Each byte contains two codes. The first code is in the four high bits.
    codes = torch.stack([packed.data >> 4, packed.data & 15], dim=-1)
    return NumberLine(
        levels=state.code.float().cpu(),
        constants=constants.float().repeat_interleave(state.blocksize).view(state.shape).cpu(),
        codes=codes.int().view(state.shape).cpu(),
        update=_update(base, layer).cpu(),
    )


# -- the parts of a merge --------------------------------------------------------------------------


def _layers(base: nn.Module) -> dict[str, Linear4bit]:
    """Return a dict from the names of the 4-bit layers to the layers.

    If a layer has an adapter, peft adds ".base_layer" to the layer's name. The dict contains the
    names without this addition, because the files of the base model contain these names.
    """
    return {name.removesuffix(".base_layer"): x for name, x in linear4bit_layers(base).items()}


def _check(
    model: PeftModel, into: str = "dequantized", stored_as: str = "nf4", layer: str | None = None
) -> None:
    """Raise a ValueError if the adapters of a model can't be merged with these options."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    one_of("into", into, BASES)
    one_of("stored_as", stored_as, FORMATS)
    if not isinstance(model, PeftModel):
        raise ValueError(f"model must be a PeftModel with adapters, got {type(model).__name__}")
    base = model.get_base_model()
    layers = _layers(base)
    if not layers:
        raise ValueError(
            "the base model has no 4-bit layers: merge its adapters with merge_and_unload()"
        )
    if layer is not None and layer not in layers:
        raise ValueError(
            f"the model has no 4-bit layer {layer!r}; the name of the first one is "
            f"{next(iter(layers))!r}"
        )
    if layer is not None and not isinstance(base.get_submodule(layer), LoraLayer):
        raise ValueError(f"the layer {layer!r} has no adapters")
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    if base.config.tie_word_embeddings and any(isinstance(end, LoraLayer) for end in ends):
        raise ValueError(
            "the embedding of this model is also its output head, so adapters on one of them can't "
            "be merged: a merge would change both"
        )
    for module in model.modules():
        if isinstance(module, LoraLayer):
            if module.merged:
                raise ValueError("the adapters are merged already: call unmerge_adapter() first")
            if module.lora_variant or any(module.lora_bias.values()):
                raise ValueError(
                    "the adapters use DoRA or a bias: only adapters that consist of A and B can be "
                    "merged into 4-bit layers"
                )


def _weights(
    base: PreTrainedModel, into: str, layer: str | None = None
) -> Iterator[tuple[str, Linear4bit, Tensor]]:
    """Yield the name of each 4-bit layer, the layer, and its weight W as float32 (out, in)."""
    layers = _layers(base)
    if layer is not None:
        layers = {layer: layers[layer]}
    if into == "dequantized":
        # Each layer is removed from the dict, so that its memory is freed as soon as `merge` has
        # replaced the layer.
        for name in list(layers):
            quantized = layers.pop(name)
            packed = quantized.weight
            yield name, quantized, dequantized(packed.data, packed.quant_state, torch.float32)
        return
    if not is_model(Path(base.name_or_path)):
        raise CourseError(
            f"no original weights in the folder {base.name_or_path!r}: load the base model with "
            "load_base"
        )
    for key, weight in stored_weights(path=base.name_or_path, part=layer or ""):
        if quantized := layers.pop(key.removesuffix(".weight"), None):
            yield key.removesuffix(".weight"), quantized, weight.to(quantized.weight.device).float()
    if layers:
        raise CourseError(f"the files of the base model have no weights for {sorted(layers)[:3]}")


def _update(base: nn.Module, name: str) -> Tensor:
    """Return the update U = (α/r) B A of a layer's active adapters as float32 (out, in).

    If several adapters are active, the result is the sum of their updates. If the layer has no
    active adapters, the result is the scalar 0.
    """
    from peft.tuners.lora import LoraLayer

    layer = base.get_submodule(name)
    if not isinstance(layer, LoraLayer):
        return torch.zeros(())
    active = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
    return sum((layer.get_delta_weight(a).float() for a in active), start=torch.zeros(()))


def _quantized(weight: Tensor, like: Linear4bit) -> Params4bit:
    from bitsandbytes.nn import Params4bit

    old = like.weight
    new = Params4bit(
        weight,
        blocksize=old.blocksize,
        compress_statistics=old.compress_statistics,
        quant_type=old.quant_type,
        quant_storage=old.quant_storage,
    ).to(old.device)
    new.quant_state.dtype = old.quant_state.dtype
    return new


def _rounded(weight: Tensor, like: Linear4bit, stored_as: str) -> Tensor:
    """Round a weight to a format, and return the rounded weight in float32."""
    if stored_as == "nf4":
        new = _quantized(weight, like)
        return dequantized(new.data, new.quant_state, torch.float32)
    return weight.to(DTYPES[stored_as]).float()


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    d_out, d_in = weight.shape
    # On the device "meta", tensors have no memory, so PyTorch spends no time on filling the layer
    # with random numbers.
    linear = nn.Linear(d_in, d_out, bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.register_parameter("bias", bias)
    return linear
