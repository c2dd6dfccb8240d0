"""List the moments of one training step, and the memory in use at each moment.

forward of layer 1 … L      the tensors saved for the backward pass accumulate
the loss                    logits and their gradients
layer L … 1's backward      the tensors of one layer, which checkpointing recomputes first, and
                            their gradients; of these tensors, only the gradient of the residual
                            stream still exists between two layers
the update                  the optimizer's states and all gradients
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from course_utils.memory.activations import (
    RESIDUAL,
    causal_mask,
    layer_backward,
    layer_saved,
    layers_saved,
    saved_lines,
    saved_mask,
)
from course_utils.memory.allocator import fresh_block
from course_utils.memory.lines import Line, total_bytes
from course_utils.memory.plan import Plan
from course_utils.memory.settings import OPTIMIZERS
from course_utils.memory.weights import (
    paged_states,
    shared,
    state_lines,
    trainable_lines,
    unsplit_rests,
    weight_lines,
)

PARTS = ("weights", "adapters", "gradients", "optimizer", "activations", "transient")
LOGITS, WORK, REST = "logits and loss", "a layer at work", "CUDA and the rest"
# The groups into which figures and tables divide the memory at the peak.
GROUPS = (*PARTS[:-1], LOGITS, WORK, REST)
# The names of two moments of a step.
LOSS, UPDATE = "the loss", "the update"
# The default size of PyTorch's cuBLAS workspace on GPUs before Hopper, in bytes.
CUBLAS_WORKSPACE = 2 * 4096 * 1024 + 8 * 16 * 1024


@dataclass(frozen=True)
class Moment:
    """The memory in use at one moment of a training step, in bytes (B).

    Attributes:
        name: Name of the moment, such as "the loss".
        parts: Bytes of the weights, adapters, optimizer states, gradients and activations that
            exist at this moment.
        others: A line for each other item in memory.
        paged: Bytes of optimizer states that a paged optimizer may move to CPU memory.
    """

    name: str
    parts: Mapping[str, int]
    others: tuple[Line, ...] = ()
    paged: int = 0

    @property
    def total(self) -> int:
        """The bytes of everything in memory at this moment."""
        return sum(self.parts.values()) + total_bytes(self.others)

    @property
    def fixed(self) -> int:
        """The bytes that can't move to CPU memory."""
        return self.total - self.paged

    @property
    def alive(self) -> dict[str, int]:
        """The bytes of each item in memory, by name.

        Items of 0 bytes are left out. All tensors of a layer's backward pass are one item.
        """
        sizes = Counter(self.parts)
        for line in self.others:
            sizes[line.what.partition(":")[0]] += line.size
        return {what: size for what, size in sizes.items() if size}

    @property
    def groups(self) -> dict[str, int]:
        """The bytes of `alive` in each group of `GROUPS`, including empty groups, for figures."""
        return grouped(self.alive)


def grouped(alive: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes of `alive` in each group of `GROUPS`, including empty groups."""
    sizes = dict.fromkeys(GROUPS, 0)
    for what, size in alive.items():
        sizes[LOGITS if "logits" in what else what if what in GROUPS else REST] += size
    return sizes


@dataclass(frozen=True)
class Step:
    """One training step of a plan.

    Attributes:
        plan: The model and its settings.
        first: Whether this is the first step of a run, whose update creates the optimizer states.
    """

    plan: Plan
    first: bool = False

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """The lines of all parts except "transient"."""
        saved = saved_lines(self.plan) if self.plan.shape.known else ()
        return (*weight_lines(self.plan), *trainable_lines(self.plan), *saved)

    @cached_property
    def size(self) -> dict[str, int]:
        """The bytes of each part in `PARTS`; the part "transient" has 0 bytes here."""
        size = dict.fromkeys(PARTS, 0)
        for line in self.lines:
            size[line.part] += line.size
        return size

    # --- the moments ---

    def candidates(self) -> Iterator[Moment]:
        """Yield the moments at which memory can peak.

        The backward pass can peak only in the last or in the first layer.
        """
        if self.plan.shape.known:
            yield self.loss()
            yield self.backward(self.plan.shape.layers - 1)
            yield self.backward(0)
        yield self.update()

    def moments(self) -> Iterator[Moment]:
        """Yield all moments of the step in order."""
        layers = range(self.plan.shape.layers)
        yield from map(self.forward, layers)
        yield self.loss()
        for layer in reversed(layers):
            yield self.backward(layer)
            if layer:
                yield self.between(layer)
        yield self.update()

    def forward(self, layer: int) -> Moment:
        """Return the moment at the end of a layer's forward pass."""
        saved = layers_saved(self.plan, layer + 1)
        return self._moment(f"forward of layer {layer + 1}", [], activations=saved)

    def loss(self) -> Moment:
        """Return the moment of the loss, when all activations are saved."""
        others = [*self._output, _loss_copies(self.plan)]
        return self._moment(LOSS, others, activations=self.size["activations"])

    def backward(self, layer: int) -> Moment:
        """Return the moment at which the backward pass of a layer needs most memory.

        The layers above have already finished their backward passes.
        """
        checkpointing = self.plan.settings.gradient_checkpointing
        # Without checkpointing, `_work` already counts the tensors that the layer itself saved.
        stored = layer + 1 if checkpointing else layer
        parts = {"activations": self._stored(stored), "gradients": self._gradients(layer)}
        name = f"{self._layer_name(layer)}'s backward"
        return self._moment(name, [*self._output, *self._work], **parts)

    def between(self, layer: int) -> Moment:
        """Return the moment between the backward passes of a layer and of the layer below."""
        stream = [line for line in self._work if line.what.endswith(RESIDUAL)]
        parts = {"activations": self._stored(layer), "gradients": self._gradients(layer - 1)}
        name = f"after {self._layer_name(layer)}'s backward"
        return self._moment(name, [*self._output, *stream], **parts)

    def update(self) -> Moment:
        """Return the moment of the update, which changes the trainable parameters."""
        scratch = _update_scratch(self.plan) if self.plan.shape.known else ()
        parts = {part: self.size[part] for part in ("optimizer", "gradients")}
        return self._moment(UPDATE, [*self._output, *scratch], **parts)

    def _moment(self, name: str, others: list[Line], **parts: int) -> Moment:
        alive = self._held | parts
        paged = self._paged if alive["optimizer"] == self.size["optimizer"] else 0
        return Moment(name, alive, (*self._constant, *others), paged)

    # --- memory that several moments share ---

    @cached_property
    def _held(self) -> dict[str, int]:
        """The bytes of each part that exists during the entire step."""
        held = {part: self.size[part] for part in ("weights", "adapters", "optimizer")}
        if self.first:
            held["optimizer"] -= total_bytes(state_lines(self.plan))
        gradients = self.size["gradients"] if self.plan.settings.accumulation > 1 else 0
        return held | {"gradients": gradients, "activations": 0}

    @cached_property
    def _paged(self) -> int:
        return paged_states(self.plan)

    @cached_property
    def _constant(self) -> list[Line]:
        return list(_constant_lines(self.plan)) if self.plan.shape.known else []

    @cached_property
    def _output(self) -> list[Line]:
        kept = self.plan.shape.known and self.plan.settings.keep_output
        return [_logits(self.plan)] if kept else []

    @cached_property
    def _work(self) -> list[Line]:
        return [
            replace(line, part="transient", what=f"{WORK}: {line.what}")
            for line in layer_backward(self.plan)
        ]

    @cached_property
    def _layer_saved(self) -> int:
        return layer_saved(self.plan)

    def _stored(self, layers: int) -> int:
        """Return the bytes that the lowest `layers` layers saved for their backward passes."""
        if self.plan.settings.gradient_checkpointing:
            return layers_saved(self.plan, layers)
        return layers * self._layer_saved

    def _gradients(self, layer: int) -> int:
        """Return the bytes of the gradients that exist when the backward pass reaches `layer`."""
        total = self.size["gradients"]
        return max(self._held["gradients"], _gradients_above(self.plan, total, layer))

    def _layer_name(self, layer: int) -> str:
        if layer == self.plan.shape.layers - 1:
            return "the last layer"
        return f"layer {layer + 1}" if layer else "the first layer"


# --- memory in use during the entire step ---------------------------------------------------------


def _line(what: str, size: int, formula: str, source: str) -> Line:
    return Line("transient", what, size, formula, source)


def _constant_lines(plan: Plan) -> Iterator[Line]:
    """Yield a line for each item outside the parts that is in memory during the entire step."""
    if plan.settings.gradient_checkpointing:
        yield from _inputs_of_recomputation(plan)
    if plan.settings.shards("weights"):
        yield _gathered_layers(plan)
    if plan.settings.device == "cuda":
        yield from _cuda_lines(plan)


def _inputs_of_recomputation(plan: Plan) -> Iterator[Line]:
    """Yield the tensors that every recomputation of a layer reads besides the layer's input."""
    shape, settings, t = plan.shape, plan.settings, plan.tokens
    s, each = settings.sequence_length, settings.stream_bytes
    if settings.attention == "eager" and not saved_mask(plan):
        formula = f"{settings.batch_size} × {s} × {s} × {each}"
        yield _line("causal mask", causal_mask(plan), formula, "kept for the recomputation")
    if not shape.positions:
        formula = f"2 × {s} tokens × {shape.head_dim} × {each}"
        yield _line("cos and sin", 2 * s * shape.head_dim * each, formula, "rotary positions")
    elif not settings.trains_weights:
        size, formula = t * shape.hidden * each, f"{t} tokens × {shape.hidden} × {each}"
        yield _line("token embeddings", size, formula, "peft: a leaf that needs a gradient")


def _gathered_layers(plan: Plan) -> Line:
    """Return the line for the weights of two layers that each GPU gathers from the other GPUs."""
    coded, each = sum(plan.quantized.values()), plan.settings.base_bytes
    whole = plan.layer_weights - coded
    formula, size = f"2 × ({whole:,} × {each} + {coded:,} × ½)", 2 * whole * each + coded
    return _line("gathered layers", size, formula, "the one at work and the next; ZeRO, 5.3")


def _cuda_lines(plan: Plan) -> Iterator[Line]:
    """Yield the memory that PyTorch allocates on a GPU besides tensors."""
    formula = f"2 threads × {CUBLAS_WORKSPACE:,}"
    yield _line("cuBLAS workspaces", 2 * CUBLAS_WORKSPACE, formula, "PyTorch's default")
    if plan.settings.method == "qlora":
        rests = unsplit_rests(plan)
        yield _line("unsplit rests of blocks", rests, "see allocator", "CUDACachingAllocator")


# --- memory in use at one moment ------------------------------------------------------------------


def _logits(plan: Plan) -> Line:
    """Return the line for the logits, which the model's output keeps until the next step."""
    each = 2 if plan.settings.autocast else plan.settings.stream_bytes
    formula = f"{plan.tokens} tokens × {plan.shape.vocab} words × {each}{_in_blocks(plan)}"
    size = _block(plan, plan.tokens * plan.shape.vocab * each)
    return _line("logits", size, formula, "the model's output")


def _loss_copies(plan: Plan) -> Line:
    """Return the line for the gradients of the logits and of their softmax.

    The softmax itself is counted among the saved activations.
    """
    full = 4 * plan.tokens * plan.shape.vocab
    # The saved softmax also occupies a block. The bytes by which this block exceeds the softmax are
    # counted here.
    size = 3 * _block(plan, full) - full
    formula = f"2 × {plan.tokens} tokens × {plan.shape.vocab} words × 4{_in_blocks(plan)}"
    return _line("gradients of logits", size, formula, "cross entropy")


def _in_blocks(plan: Plan) -> str:
    return ", in whole blocks" if plan.settings.device == "cuda" else ""


def _block(plan: Plan, size: int) -> int:
    return fresh_block(size) if plan.settings.device == "cuda" else size


def _gradients_above(plan: Plan, total: int, layer: int) -> int:
    """Return the bytes of the gradients of the head and of the layers above `layer`."""
    shape = plan.shape
    above = shape.layers - 1 - layer
    if not plan.settings.trains_weights:
        return total * above // shape.layers
    head = shape.vocab * shape.hidden
    one = plan.layer_weights + shape.bias_parameters + shape.norm_parameters
    return total * (head + one * above) // shape.parameters


def _update_scratch(plan: Plan) -> Iterator[Line]:
    """Yield the tensors that exist only during the update, or just before the update."""
    shape, settings, precision = plan.shape, plan.settings, plan.settings.precision
    if scratch := OPTIMIZERS[settings.optimizer].scratch * plan.trained * precision.state:
        formula = f"{plan.trained:,} × {precision.state}"
        line = _line("scratch of the optimizer", scratch, formula, "torch.optim, foreach")
        yield shared(line, settings, "optimizer")
    elif settings.trains_weights and shape.tied:
        size = 2 * shape.vocab * shape.hidden * precision.gradient
        formula = f"2 × {shape.vocab} × {shape.hidden} × {precision.gradient}"
        yield _line("two gradients of the embedding", size, formula, "autograd, before their sum")
