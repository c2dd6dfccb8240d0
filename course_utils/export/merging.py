"""Merge LoRA adapters into a model whose linear layers have 4-bit weights.

Every merge computes W + U in float32, where U = (α/r) B A is the update of the adapters. The merges
differ in two decisions:

    into         the weights W           stored_as   how the sum W + U is rounded
    dequantized  level · constant        nf4         to the nearest of 16 levels
    original     as before NF4           bfloat16    to 8 significant bits (float16: 11)
                                         float32     not at all

The adapters were trained on the dequantized weights. Each of these weights is exactly on a level,
so NF4 rounds W + U back to W unless U reaches beyond the midpoint to the next level. The original
weights are anywhere between two midpoints. So even a small U takes some of them beyond a midpoint.
These few weights move by a whole level, and on average the weights move by U.

References: LoRA (Hu et al. 2021, section 4.1); QLoRA (Dettmers et al. 2023, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.models import dequantized, linear4bit_layers, stored_weights
from course_utils.models.fetch import is_model
from course_utils.validation import CourseError, one_of

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit, Params4bit
    from peft import PeftModel
    from transformers import PreTrainedModel

BASES = ("dequantized", "original")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
FORMATS = ("nf4", *DTYPES)


@torch.no_grad()
def merge(
    model: PeftModel, into: str = "dequantized", stored_as: str = "bfloat16"
) -> PreTrainedModel:
    """Merge the active adapters of a model with NF4 weights into its weights.

        merge(model, "dequantized", "nf4")        into the 4-bit weights
        merge(model, "dequantized", "bfloat16")   into the weights that the adapters were trained on
        merge(model, "original", "bfloat16")      into the weights before they were quantized
        merge(model, "original", "nf4")           the same, quantized again

    The function replaces one layer after the other, so there is never a second model in memory. It
    therefore changes `model`, which can't be used afterwards: use the model that is returned.

    Args:
        model: a PeftModel around a base model in NF4.
        into: "dequantized", or "original" for the weights in the files of the base model.
        stored_as: "nf4", or the dtype of all weights of the result: "bfloat16", "float16" or
            "float32".

    Returns:
        The base model without adapters. Unless its weights are in NF4, it is an ordinary model that
        can be saved and converted.

    Raises:
        ValueError: an option is not allowed, the base model has no 4-bit layers, or the adapters
            are merged already, are more than A and B (DoRA or a bias), or belong to an embedding
            that is also the output head.
        CourseError: the files of the base model can't be found.
    """
    _check(model, into, stored_as)
    base = model.get_base_model()
    for name, layer, weight in _weights(base, into):
        # In place, because the sum would be another float32 matrix.
        total = weight.add_(_update(base, name))
        if stored_as == "nf4":
            layer.weight = _quantized(total, layer)
        else:
            layer = _linear(total.to(DTYPES[stored_as]), layer.bias)
        base.set_submodule(name, layer)
    if stored_as != "nf4":
        # Otherwise transformers would still treat the model as quantized, and refuse to convert it.
        base.hf_quantizer.remove_quantization_config(base)
        base.to(DTYPES[stored_as])
    # This merges adapters on layers that were not in 4 bits, and removes peft's settings.
    return model.merge_and_unload()


@torch.no_grad()
def update_left(
    model: PeftModel,
    into: str = "dequantized",
    stored_as: str = "nf4",
    layer: str | None = None,
) -> float:
    """Measure how much of the adapters' update a merge would leave. The model is not changed.

    Rounding R to a format turns the change of the weights from U into R(W + U) - R(W). The function
    projects this change on U, and returns the length of the projection as a share of the length of
    U: 1 if all of the update is left, and 0 if R rounds all of it away.

    Args:
        model: a PeftModel around a base model in NF4.
        into: the weights W, as in `merge`.
        stored_as: the format, as in `merge`.
        layer: name of a layer, such as "model.layers.0.mlp.gate_proj". By default, all layers are
            measured together.

    Raises:
        ValueError: as in `merge`, or there is no 4-bit layer of this name, it has no adapters, or
            the update is zero.
        CourseError: as in `merge`.
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
    """The weights of an NF4 layer and their updates on the number line of each block.

    Attributes:
        levels: the 16 levels of NF4, in ascending order from -1 to 1.
        constants: the constant c of the block of each weight, (out, in).
        codes: the number of the level of each weight, (out, in).
        update: the update U of the adapters, (out, in).
    """

    levels: Tensor
    constants: Tensor
    codes: Tensor
    update: Tensor

    def reach(self) -> Tensor:
        """Return the size of U, (out, in), as a share of the distance to the midpoint ahead of it.

        NF4 rounds a weight to another level only if the share exceeds 1. There is no midpoint
        beyond the outermost levels, so the share is 0 there. The function ignores that an update of
        the largest weight of a block also changes the constant of the block.
        """
        beyond = torch.tensor([torch.inf])
        padded = torch.cat([-beyond, self.levels, beyond])
        neighbours = padded[self.codes + 1 + self.update.sign().int()]
        to_midpoint = (neighbours - self.levels[self.codes]).abs() * self.constants / 2
        # A weight without an update has no direction.
        return self.update.abs() / to_midpoint.where(self.update != 0, torch.inf)

    def typical(self) -> dict[str, Any]:
        """Return the weight whose reach is the median of the layer, for `figures.rounding_line`.

        Weights at zero and at the outermost levels are left out: the distance of 16-bit numbers
        depends on how far they are from zero, and the outermost levels have only one neighbour.

        Returns:
            A dict with the keys "levels" (the 16 levels times the constant of the weight's block),
            "weight" and "update".
        """
        inside = (self.codes > 0) & (self.codes < 15) & (self.levels[self.codes] != 0)
        reach = self.reach().where(inside, torch.nan)
        place = (reach - reach.nanmedian()).abs().nan_to_num(torch.inf).argmin()
        levels = self.levels * self.constants.flatten()[place]
        weight, update = levels[self.codes.flatten()[place]], self.update.flatten()[place]
        return {"levels": levels.tolist(), "weight": weight.item(), "update": update.item()}


@torch.no_grad()
def number_line(model: PeftModel, layer: str) -> NumberLine:
    """Return the levels of the weights of a layer, and the update of its adapters.

    Args:
        model: a PeftModel around a base model in NF4.
        layer: name of a layer, such as "model.layers.0.mlp.gate_proj".

    Raises:
        ValueError: there is no 4-bit layer of this name, it has no adapters, or the adapters are
            merged already or are more than A and B.
    """
    from bitsandbytes.functional import dequantize_blockwise

    _check(model, layer=layer)
    base = model.get_base_model()
    packed = _layers(base)[layer].weight
    state = packed.quant_state
    constants = state.absmax
    if state.nested:
        constants = dequantize_blockwise(constants, state.state2) + state.offset
    # The first of two codes in a byte is in the high bits.
    codes = torch.stack([packed.data >> 4, packed.data & 15], dim=-1)
    return NumberLine(
        levels=state.code.float().cpu(),
        constants=constants.float().repeat_interleave(state.blocksize).view(state.shape).cpu(),
        codes=codes.int().view(state.shape).cpu(),
        update=_update(base, layer).cpu(),
    )


# -- the parts of a merge --------------------------------------------------------------------------


def _layers(base: nn.Module) -> dict[str, Linear4bit]:
    """Return the 4-bit layers, with the names that they have without adapters around them."""
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
                raise ValueError("the adapters use DoRA or a bias: only A and B can be merged here")


def _weights(
    base: PreTrainedModel, into: str, layer: str | None = None
) -> Iterator[tuple[str, Linear4bit, Tensor]]:
    """Yield the name of each 4-bit layer (or one), the layer, and W as float32 (out, in)."""
    layers = _layers(base)
    if layer is not None:
        layers = {layer: layers[layer]}
    if into == "dequantized":
        # Each layer is removed from the dict, so that `merge` frees its memory at once.
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
    """Return U = (α/r) B A of the active adapters of a layer as float32 (out, in), or 0."""
    from peft.tuners.lora import LoraLayer

    layer = base.get_submodule(name)
    if not isinstance(layer, LoraLayer):
        return torch.zeros(())
    active = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
    return sum((layer.get_delta_weight(a).float() for a in active), start=torch.zeros(()))


def _quantized(weight: Tensor, like: Linear4bit) -> Params4bit:
    """Quantize a weight with the settings of a 4-bit layer: levels, block size, constants."""
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
    """Return the float32 values that a weight has after it was stored in a format."""
    if stored_as == "nf4":
        new = _quantized(weight, like)
        return dequantized(new.data, new.quant_state, torch.float32)
    return weight.to(DTYPES[stored_as]).float()


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    d_out, d_in = weight.shape
    # On the device "meta", the layer is not filled with random numbers first.
    linear = nn.Linear(d_in, d_out, bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.register_parameter("bias", bias)
    return linear
