"""Low-rank adaptation (LoRA): a frozen linear layer W and a trainable update ΔW = A B of rank r.

            ┌─► W (d_in × d_out), frozen ──────────────────────────────┐
    x (d_in)┤                                                          ├─► y (d_out)
            └─► A (d_in × r) ─► B (r × d_out), zero at first ─► × α/r ─┘

Three notations for the same thing. The slides, and this module, multiply rows: y = x (W + A B). The
paper multiplies columns, y = (W + B A) x, so each of its matrices is the transpose of ours, and its
first factor stands on the right. peft keeps the paper's two matrices as weights of linear layers.

    slides, here        paper (W: d × k)    peft                                at first
    A (d_in × r)        A (r × k)           lora_A.weight (r, in)               random
    B (r × d_out)       B (d × r)           lora_B.weight (out, r)              zero
    A B (α/r here)      α/r · B A           lora_alpha/r · lora_B @ lora_A      zero

References: LoRA (Hu et al. 2021, arXiv 2106.09685), section 4.1; QLoRA (Dettmers et al. 2023,
arXiv 2305.14314), section 4: adapters on all linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_utils.validation import names_of, positive

__all__ = ["LoRALinear", "add_lora", "break_even_rank", "count_lora_parameters", "count_trainable"]


def count_lora_parameters(d_in: int, d_out: int, rank: int) -> int:
    """Trainable parameters of LoRA on one matrix: A holds d_in × rank, B holds rank × d_out.

    A 1000 × 1000 matrix at rank 8 takes 16,000, which is 1.6% of it (LoRA, section 4.1).
    Raises ValueError for a size or a rank below 1.
    """
    return positive("rank", rank) * (positive("d_in", d_in) + positive("d_out", d_out))


def break_even_rank(d_in: int, d_out: int) -> float:
    """The rank at which A and B hold exactly as many parameters as W (d_in × d_out).

    r (d_in + d_out) = d_in d_out, solved for r: a real number, not rounded. LoRA trains fewer
    parameters than full fine-tuning at every whole rank below it. Half the width for a square
    matrix: 500.0 for 1000 × 1000. Raises ValueError for a dimension below 1.
    """
    positive("d_in", d_in), positive("d_out", d_out)
    return d_in * d_out / (d_in + d_out)


def _checked(base: nn.Linear, rank: int, alpha: float | None) -> tuple[int, float]:
    """Rank and alpha for this layer; ValueError for what can't be."""
    largest = min(base.in_features, base.out_features)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
        raise ValueError(f"rank must be a whole number from 1 to {largest}, got {rank!r}")
    alpha = rank if alpha is None else alpha
    if not isinstance(alpha, int | float) or not alpha > 0:
        raise ValueError(f"alpha must be a number above 0, got {alpha!r}")
    return rank, alpha


class LoRALinear(nn.Module):
    """A linear layer, frozen, with a low-rank update beside it: y = base(x) + α/r · (x A) B.

    base: an nn.Linear or a 4-bit layer of bitsandbytes. It is frozen here, and kept, not copied.
    rank: r, from 1 to the smaller dimension of the layer. alpha: α; the default, α = r, gives the
        slide's W + A B without a scale.

    A (d_in × r) starts random, uniform in ±1/√d_in as in peft (the paper: Gaussian); B (r × d_out)
    starts at zero, so ΔW = 0 and training starts from the base model. Both are float32 whatever the
    base, and the output has the base's dtype.

    Raises ValueError for another kind of layer, a rank out of range, or an alpha not above 0.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float | None = None):
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise ValueError(f"base must be a linear layer, got {type(base).__name__}")
        rank, alpha = _checked(base, rank, alpha)
        self.base, self.rank, self.alpha = base.requires_grad_(False), rank, alpha
        self.scale = alpha / rank
        self.merged = False
        place = {"device": base.weight.device, "dtype": torch.float32}
        bound = 1 / math.sqrt(base.in_features)
        self.A = nn.Parameter(torch.empty(base.in_features, rank, **place).uniform_(-bound, bound))
        self.B = nn.Parameter(torch.zeros(rank, base.out_features, **place))

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) → (…, d_out)."""
        y = self.base(x)
        if self.merged:
            return y
        return (y + self.scale * (x.to(self.A.dtype) @ self.A @ self.B)).to(y.dtype)

    def delta(self) -> Tensor:
        """ΔW = α/r · A B, float32 (d_in × d_out): what training has added to W."""
        return self.scale * self.A @ self.B

    @torch.no_grad()
    def merge(self) -> None:
        """Add ΔW to the base's weights, so that the adapter costs no time: W' = W + α/r · A B.

        Rounds to the base's dtype. While merged, A and B take no part and get no gradient. Merging
        twice is merging once. Raises ValueError for a base in 4 or 8 bits: its codes have no room
        for so small a change (lecture 07 measures what is lost).
        """
        self._add_to_base(1, merged=True)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract ΔW again: gives the old weights back to within rounding, not to the bit."""
        self._add_to_base(-1, merged=False)

    def _add_to_base(self, sign: int, merged: bool) -> None:
        weight = self.base.weight  # torch keeps W transposed: (d_out, d_in)
        if getattr(weight, "quant_state", None) is not None or not weight.is_floating_point():
            raise ValueError(
                "these weights are quantized: adding ΔW would round most of it away. Keep the "
                "adapter apart, or dequantize the base to 16 bits and merge there"
            )
        if self.merged != merged:
            weight.copy_(weight + sign * self.delta().T)  # added in float32, then rounded once
            self.merged = merged

    def to_peft(self) -> dict[str, Tensor]:
        """A and B as peft keeps them, and as the paper writes them: transposed.

        Returns {"lora_A.weight": (r, d_in), "lora_B.weight": (d_out, r)}, views of A and B.
        """
        return {"lora_A.weight": self.A.detach().T, "lora_B.weight": self.B.detach().T}

    @classmethod
    def from_peft(cls, layer, adapter: str = "default") -> LoRALinear:
        """The same layer in the slides' form: peft's base, shared, and a copy of its A and B.

        layer: a peft LoRA layer around a linear layer (peft.tuners.lora.Linear or Linear4bit),
            whose dropout, if it has one, is not taken over.
        Raises ValueError if it has no adapter of this name, is merged, or is more than LoRA (DoRA,
        or a bias of B).
        """
        if adapter not in getattr(layer, "lora_A", {}):
            known = sorted(getattr(layer, "lora_A", {}))
            raise ValueError(f"the layer has no LoRA adapter {adapter!r}; it has {known}")
        if layer.merged:
            raise ValueError("the layer's adapter is merged into its base; unmerge it first")
        if adapter in layer.lora_variant or layer.lora_bias[adapter]:
            raise ValueError(f"adapter {adapter!r} is more than A and B: DoRA, or a bias of B")
        rank = layer.r[adapter]
        ours = cls(layer.get_base_layer(), rank, alpha=layer.scaling[adapter] * rank)
        with torch.no_grad():
            ours.A.copy_(layer.lora_A[adapter].weight.T)
            ours.B.copy_(layer.lora_B[adapter].weight.T)
        return ours

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha:g}, merged={self.merged}"


def add_lora(
    model: nn.Module,
    rank: int,
    alpha: float | None = None,
    targets: str | Sequence[str] = "all-linear",
) -> nn.Module:
    """Freeze a model and put a LoRALinear in the place of each target layer; returns the model.

    rank, alpha: as in `LoRALinear`. targets: names of modules such as ("q_proj", "v_proj"), or
        "all-linear": every linear layer but the output head, as in the QLoRA paper and peft.
    Raises ValueError, with the model as it was, for targets that are not there, a rank or alpha
    that a layer can't have, and a model that has adapters already.
    """
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise ValueError("the model has adapters already; take a fresh copy of the base")
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    known = {name.rpartition(".")[2]: module for name, module in linear.items()}
    bodies = {name for name, module in known.items() if module is not head}
    wanted = bodies if targets == "all-linear" else set(names_of("targets", targets))
    if not wanted or not wanted <= set(known):
        raise ValueError(
            f'targets must be "all-linear" or names of linear layers out of {sorted(known)}, '
            f"got {targets!r}"
        )
    chosen = [name for name in linear if name.rpartition(".")[2] in wanted]
    for name in chosen:
        _checked(linear[name], rank, alpha)
    model.requires_grad_(False)
    for name in chosen:
        model.set_submodule(name, LoRALinear(linear[name], rank, alpha))
    return model


def count_trainable(model: nn.Module) -> tuple[int, int]:
    """How many parameters of a model are trained, and how many it has in all, adapters included.

    A 4-bit weight stores two parameters in a byte and counts by its real shape: a count over stored
    elements would halve the base. Tied weights count once.
    """
    trainable = total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        count = parameter.numel() if state is None else state.shape.numel()
        total += count
        trainable += count * parameter.requires_grad
    return trainable, total
