"""Combine a model's shape with its settings, and derive the quantities that memory depends on.

ModelShape ─┐          ┌─► weights      weights, gradients, optimizer states
            ├─► Plan ──┼─► activations  what the forward pass stores, a layer's backward pass
Settings  ──┘          └─► step         the phases of a training step, and the largest
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from course_utils.memory.settings import Settings
from course_utils.memory.shapes import ModelShape

# The linear layers that read each tensor, by where the tensor is computed, in the order of the
# forward pass. For example, q_proj, k_proj and v_proj read the result of the first norm.
READERS = {
    "first norm": ("q_proj", "k_proj", "v_proj"),
    "attention": ("o_proj",),
    "second norm": ("gate_proj", "up_proj"),
    "MLP": ("down_proj",),
}
# MLP_LAYERS are the linear layers of the MLP; AFTER_ATTENTION are those that run after attention.
MLP_LAYERS = (*READERS["second norm"], *READERS["MLP"])
AFTER_ATTENTION = (*READERS["attention"], *MLP_LAYERS)


@dataclass(frozen=True)
class Trainable:
    """A kind of trainable tensor, of which a model has one or more.

    Attributes:
        name: Name of the kind, such as "q_proj.lora_A".
        elements: Number of elements in one tensor of this kind.
        count: Number of tensors of this kind in the entire model.
        in_layers: Whether each transformer layer contains the same number of these tensors.
    """

    name: str
    elements: int
    count: int
    in_layers: bool = True


@dataclass(frozen=True)
class Plan:
    """A model, its settings for fine-tuning, and quantities derived from the model and settings."""

    shape: ModelShape
    settings: Settings

    def __post_init__(self) -> None:
        self.shape.check_length(self.settings.sequence_length)
        self.shape.check_attention(self.settings.sequence_length, self.settings.attention)

    @classmethod
    def of(
        cls,
        model: ModelShape | str | Path | Mapping[str, Any],
        method: str = "full",
        options: Mapping[str, Any] | None = None,
    ) -> Plan:
        """Build the plan from the arguments of `memory.estimate`.

        If a model can't read sequences of the default length, the default is the longest length
        that it can read.
        """
        shape, options = ModelShape.of(model), dict(options or {})
        if shape.context:
            options.setdefault("sequence_length", min(Settings.sequence_length, shape.context))
        return cls(shape, Settings.of(method, options))

    @property
    def tokens(self) -> int:
        """The number of tokens in one micro-batch."""
        return self.settings.tokens

    @property
    def scores(self) -> int:
        """The number of attention scores in one layer.

        Each head computes one score for each pair of tokens in the same sequence.
        """
        return self.tokens * self.settings.sequence_length * self.shape.heads

    @property
    def logit_bytes(self) -> int:
        """The size in bytes of each logit, in the number format that the loss reads.

        With the trainer "course", accelerate converts autocast's 16-bit logits to float32.
        """
        if self.settings.autocast:
            return 4 if self.settings.loss == "answers" else 2
        return self.settings.stream_bytes

    @property
    def head_copy(self) -> int:
        """The number of the output layer's weights that autocast converts to 16 bits."""
        settings = self.settings
        narrower = settings.autocast and settings.stream_bytes == 4
        converted = narrower and settings.loss != "tiled"
        return self.shape.vocab * self.shape.hidden if converted else 0

    @cached_property
    def layers(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one transformer layer: name → (d_in, d_out)."""
        return self.shape.linear_layers()

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The number of weights in each layer of `layers`: name → d_in × d_out."""
        return {name: d_in * d_out for name, (d_in, d_out) in self.layers.items()}

    @cached_property
    def layer_weights(self) -> int:
        """The number of weights in all linear layers of one transformer layer."""
        return sum(self.sizes.values())

    @cached_property
    def adapted(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one transformer layer that get an adapter: name → (d_in, d_out)."""
        if self.settings.trains_weights:
            return {}
        return self.shape.target_layers(self.settings.targets)

    @cached_property
    def quantized(self) -> dict[str, int]:
        """The linear layers of a transformer layer that are stored in NF4: name → d_in × d_out.

        The head is never stored in NF4.
        """
        if self.settings.method != "qlora":
            return {}
        named = [name for name in self.settings.unquantized if name != "lm_head"]
        kept = self.shape.target_layers(named) if named else {}
        return {name: size for name, size in self.sizes.items() if name not in kept}

    def adapter_inputs(self, source: str) -> list[int]:
        """Return the input width of each layer in `READERS[source]` that has an adapter."""
        return [self.adapted[name][0] for name in READERS[source] if name in self.adapted]

    @cached_property
    def adapter_weights(self) -> int:
        """The number of trainable parameters in the adapters of one transformer layer."""
        return self.settings.rank * sum(d_in + d_out for d_in, d_out in self.adapted.values())

    @cached_property
    def trainable(self) -> tuple[Trainable, ...]:
        """The kinds of trainable tensors, in the order of the model's modules."""
        return tuple(trainable_tensors(self))

    @cached_property
    def trained(self) -> int:
        """The number of trainable parameters."""
        return sum(tensor.elements * tensor.count for tensor in self.trainable)


def trainable_tensors(plan: Plan) -> list[Trainable]:
    """Return the kinds of trainable tensors, in the order of the model's modules."""
    shape, rank = plan.shape, plan.settings.rank
    if not plan.settings.trains_weights:
        return [
            Trainable(f"{name}.{matrix}", rank * width, shape.layers)
            for name, widths in plan.adapted.items()
            for matrix, width in zip(("lora_A", "lora_B"), widths, strict=True)
        ]
    if not shape.known:
        return [Trainable("all parameters", shape.parameters, 1, in_layers=False)]
    return list(_weights(plan))


def _weights(plan: Plan) -> Iterator[Trainable]:
    shape = plan.shape
    yield Trainable("embedding", shape.vocab * shape.hidden, 1, in_layers=False)
    for name, (_, d_out) in plan.layers.items():
        yield Trainable(name, plan.sizes[name], shape.layers)
        if name in shape.biases:
            yield Trainable(f"{name}.bias", d_out, shape.layers)
    yield Trainable("norm", shape.hidden, shape.norm_layers * shape.layers)
    if shape.qk_norm:
        yield Trainable("norm of queries or keys", shape.head_dim, 2 * shape.layers)
    yield Trainable("last norm", shape.hidden, 1, in_layers=False)
    if not shape.tied:
        yield Trainable("head", shape.vocab * shape.hidden, 1, in_layers=False)
