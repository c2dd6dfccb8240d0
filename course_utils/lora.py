"""Low-rank adaptation (LoRA) adds a trainable update ΔW = A B of rank r to a frozen matrix W.

            ┌─► W (d_in × d_out), frozen ──────────────────────────────┐
    x (d_in)┤                                                          ├─► y (d_out)
            └─► A (d_in × r) ─► B (r × d_out), zero at first ─► × α/r ─┘

There are three notations for this update. The slides and this module multiply row vectors:
y = x (W + A B). The paper multiplies column vectors: y = (W + B A) x. So each matrix of the paper
is the transpose of the slides' matrix of the same name, and the order of A and B is reversed. peft
stores the paper's two matrices as the weights of linear layers.

    slides, here        paper (W: d × k)    peft                                at first
    A (d_in × r)        A (r × k)           lora_A.weight (r, in)               random
    B (r × d_out)       B (d × r)           lora_B.weight (out, r)              zero
    A B (α/r here)      α/r · B A           lora_alpha/r · lora_B @ lora_A      zero

References: LoRA (Hu et al. 2021, arXiv 2106.09685), section 4.1; QLoRA (Dettmers et al. 2023,
arXiv 2305.14314), section 4: adapters on all linear layers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.machine.validation import positive, whole_number

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


def count_lora_parameters(d_in: int, d_out: int, rank: int) -> int:
    """Count the trainable parameters of LoRA on one matrix: d_in × rank in A, rank × d_out in B.

    On a 1000 × 1000 matrix, rank 8 needs 16,000 parameters, which is 1.6% of the parameters of the
    matrix (LoRA, section 4.1).
    """
    return positive("rank", rank) * (positive("d_in", d_in) + positive("d_out", d_out))


def break_even_rank(d_in: int, d_out: int) -> float:
    """Return the rank at which A and B have exactly as many parameters as W (d_in × d_out).

    The rank r solves r (d_in + d_out) = d_in d_out. At every whole rank below the solution, LoRA
    trains fewer parameters than full fine-tuning. For a square matrix the solution is half the
    width.
    """
    d_in, d_out = positive("d_in", d_in), positive("d_out", d_out)
    return d_in * d_out / (d_in + d_out)


def _checked(base: nn.Linear, rank: int, alpha: float | None) -> tuple[int, float]:
    """Return the rank and α of a layer; raise ValueError if one of them is out of range."""
    most = min(base.in_features, base.out_features)
    rank = whole_number("rank", rank, least=1, most=most)
    alpha = rank if alpha is None else alpha
    if not isinstance(alpha, int | float) or not alpha > 0:
        raise ValueError(f"alpha must be a number above 0, got {alpha!r}")
    return rank, alpha


class LoRALinear(nn.Module):
    """A frozen linear layer plus a low-rank update: y = base(x) + α/r · (x A) B.

    The initial A (d_in × r) is drawn uniformly from -1/√d_in to 1/√d_in, as in peft. The paper
    draws the initial A from a normal distribution. The initial B (r × d_out) is zero, so ΔW = 0 and
    training starts from the base model. A and B are always float32, even if the base has another
    dtype. The result has the dtype of the base's output.

    Args:
        base: an nn.Linear or a 4-bit layer of bitsandbytes. The layer is frozen, but not copied.
        alpha: the numerator α of the scale, a number above 0. The default α = r gives
            the slide's W + A B without a scale.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float | None = None):
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise ValueError(f"base must be a linear layer, got {type(base).__name__}")
        rank, alpha = _checked(base, rank, alpha)
        self.base, self.rank, self.alpha = base.requires_grad_(False), rank, alpha
        self.scale = alpha / rank
        self.merged = False
        options: dict[str, Any] = {"device": base.weight.device, "dtype": torch.float32}
        bound = 1 / math.sqrt(base.in_features)
        a = torch.empty(base.in_features, rank, **options).uniform_(-bound, bound)
        self.A = nn.Parameter(a)
        self.B = nn.Parameter(torch.zeros(rank, base.out_features, **options))

    def forward(self, x: Tensor) -> Tensor:
        """Add the update to the base's output: (…, d_in) → (…, d_out)."""
        y = self.base(x)
        if self.merged:
            return y
        return (y + self.scale * (x.to(self.A.dtype) @ self.A @ self.B)).to(y.dtype)

    def delta(self) -> Tensor:
        """Return the change that training has made to W: ΔW = α/r · A B, float32 (d_in × d_out)."""
        return self.scale * self.A @ self.B

    @torch.no_grad()
    def merge(self) -> None:
        """Add ΔW to the base's weights: W' = W + α/r · A B.

        A forward pass of the merged layer takes no longer than a forward pass of the base. The sum
        is rounded to the base's dtype. While the layer is merged, A and B are not used and get no
        gradient. Merging a second time changes nothing.

        Raises:
            ValueError: the base has 4-bit or 8-bit weights. The levels of these weights are so far
                apart that rounding would remove most of ΔW; lecture 07 measures how much.
        """
        self._add_to_base(1, merged=True)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract ΔW from the base's weights, if `merge` has added ΔW.

        The weights then equal the weights before `merge` up to rounding, but not bit for bit.
        """
        self._add_to_base(-1, merged=False)

    def _add_to_base(self, sign: int, merged: bool) -> None:
        # PyTorch stores W transposed: (d_out, d_in).
        weight = self.base.weight
        if getattr(weight, "quant_state", None) is not None or not weight.is_floating_point():
            raise ValueError(
                "the base layer is quantized, so rounding would remove most of ΔW: keep the "
                "adapter unmerged, or dequantize the base layer to 16 bits before merging"
            )
        if self.merged != merged:
            # The sum is computed in float32, so it is rounded only once, to the base's dtype.
            weight.copy_(weight + sign * self.delta().T)
            self.merged = merged

    @classmethod
    def from_peft(cls, layer: LoraLayer, adapter: str = "default") -> LoRALinear:
        """Make a LoRALinear that computes the same function as a LoRA layer of peft.

        Returns:
            A layer that shares peft's base layer, and has copies of the adapter's A and B.
        """
        if adapter not in getattr(layer, "lora_A", {}):
            names = sorted(getattr(layer, "lora_A", {}))
            raise ValueError(f"the layer has no LoRA adapter {adapter!r}; its adapters are {names}")
        if layer.merged:
            raise ValueError("the adapter is merged into its base layer: call unmerge() first")
        if adapter in layer.lora_variant or layer.lora_bias[adapter]:
            raise ValueError(
                f"adapter {adapter!r} uses DoRA or a bias of B: LoRALinear has only A and B"
            )
        rank = layer.r[adapter]
        copied = cls(layer.get_base_layer(), rank, alpha=layer.scaling[adapter] * rank)
        with torch.no_grad():
            copied.A.copy_(layer.lora_A[adapter].weight.T)
            copied.B.copy_(layer.lora_B[adapter].weight.T)
        return copied

    def extra_repr(self) -> str:
        """Return rank, α and whether the update is merged, for `repr`."""
        return f"rank={self.rank}, alpha={self.alpha:g}, merged={self.merged}"


def subspace_similarity(one: Tensor, other: Tensor, i: int, j: int) -> float:
    """Return how much the main directions of two adapters' inputs overlap (LoRA, section 7.2).

    The first i right singular vectors of A are the i directions of the input x to which x Aᵀ reacts
    most. With these vectors as the columns of U_i and U'_j, the similarity is

        φ(i, j) = ‖U_iᵀ U'_j‖² / min(i, j)      (Frobenius norm)

    Args:
        one: A of the first adapter in peft's layout, (rank, in).

    Returns:
        A number from 0, if all directions are perpendicular, to 1, if the smaller of the two spaces
        lies within the larger. Two random spaces have about max(i, j) / in.
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(
            "both A must have the shape (rank, in) with the same number of inputs, got "
            f"{tuple(one.shape)} and {tuple(other.shape)}"
        )
    spaces = []
    for name, A, count in (("i", one, i), ("j", other, j)):
        if positive(name, count) > len(A):
            raise ValueError(f"{name} must be at most the rank {len(A)}, got {count}")
        spaces.append(torch.linalg.svd(A.detach().double(), full_matrices=False).Vh[:count])
    return ((spaces[0] @ spaces[1].T).square().sum() / min(i, j)).item()
