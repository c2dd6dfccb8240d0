"""Divide a training step into phases, and compute the memory in use in each phase.

forward of layer 1 … L      the tensors stored for the backward pass accumulate
the loss                    logits and their gradients
layer L … 1's backward      the tensors of one layer, which checkpointing recomputes first, and
                            their gradients; between two layers, only the gradient of the residual
                            stream still exists
the update                  the optimizer's states and all gradients
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

from course_utils.memory.activations import (
    causal_mask,
    cos_and_sin,
    layer_backward,
    layer_forward,
    layers_saved,
    residual_gradient,
    saved_terms,
)
from course_utils.memory.output import (
    after_loss,
    copies_of_forward,
    during_backward,
    held_gradient,
    moments,
    output_saved,
)
from course_utils.memory.plan import Plan
from course_utils.memory.settings import OPTIMIZERS
from course_utils.memory.terms import (
    PARTS,
    REST,
    WORK,
    MemoryTerm,
    grouped,
    of,
    product,
    total_bytes,
)
from course_utils.memory.weights import (
    on_one_gpu,
    paged_states,
    state_terms,
    trainable_terms,
    unsplit_remainders,
    weight_terms,
)

# The kinds of phases. A phase "between" begins when the backward pass of a layer has just ended.
PhaseKind = Literal["forward", "loss", "backward", "between", "update"]
# The names of two phases of a step.
LOSS, UPDATE = "the loss", "the update"
# The default size of PyTorch's cuBLAS workspace on GPUs older than Hopper, in bytes.
CUBLAS_WORKSPACE = 2 * 4096 * 1024 + 8 * 16 * 1024

_term = partial(product, "transient")


@dataclass(frozen=True)
class StepPhase:
    """The memory in use in one phase of a training step, in bytes (B).

    Attributes:
        kind: Kind of the phase, by which figures and `paging` recognize it.
        name: Name of the phase, such as "the loss".
        parts: For each part in `PARTS` except "transient", the bytes in memory.
        transients: A term for each tensor or buffer in memory that belongs to none of these parts.
        paged: Bytes of optimizer states that a paged optimizer may move to CPU memory.
    """

    kind: PhaseKind
    name: str
    parts: Mapping[str, int]
    transients: tuple[MemoryTerm, ...] = ()
    paged: int = 0

    @property
    def total(self) -> int:
        """The bytes of everything in memory in this phase."""
        return sum(self.parts.values()) + total_bytes(self.transients)

    @property
    def fixed(self) -> int:
        """The bytes that can't move to CPU memory."""
        return self.total - self.paged

    @property
    def temporary(self) -> int:
        """The bytes of all tensors except the weights, the adapters and the optimizer states."""
        lasting = ("weights", "adapters", "optimizer")
        return self.total - sum(self.parts[part] for part in lasting)

    @property
    def live_bytes(self) -> dict[str, int]:
        """The items in memory in this phase: name → bytes, without items of 0 bytes.

        All tensors of a layer's backward pass are one item.
        """
        sizes = Counter(self.parts)
        for term in self.transients:
            sizes[WORK if term.group == WORK else term.name] += term.size
        return {name: size for name, size in sizes.items() if size}

    @property
    def groups(self) -> dict[str, int]:
        """The bytes in memory in each group of `GROUPS`, 0 for an empty group."""
        return grouped(self.transients) | dict(self.parts)


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
    def terms(self) -> tuple[MemoryTerm, ...]:
        """The terms of all parts except "transient"."""
        plan = self.plan
        saved = (*saved_terms(plan), *output_saved(plan)) if plan.shape.known else ()
        return (*weight_terms(plan), *trainable_terms(plan), *saved)

    @cached_property
    def size(self) -> dict[str, int]:
        """The bytes of each part in `PARTS`; the part "transient" has 0 bytes here."""
        size = dict.fromkeys(PARTS, 0)
        for term in self.terms:
            size[term.part] += term.size
        return size

    # --- the phases ---

    def candidates(self) -> Iterator[StepPhase]:
        """Yield the phases in which memory can peak.

        In the backward pass, memory can peak only in the last layer or in one of the first two
        layers. If only some layers have a sliding window, it can also peak in the lowest layer
        whose kind of attention differs from the first layer's.
        """
        if self.plan.shape.known:
            layers, sliding = range(self.plan.shape.layers), self.plan.shape.sliding
            yield self.forward(layers[-1])
            yield self.loss()
            other = next((n for n in layers if (n in sliding) != (0 in sliding)), 0)
            yield from map(self.backward, dict.fromkeys((layers[-1], other, min(1, layers[-1]), 0)))
        yield self.update()

    def phases(self) -> Iterator[StepPhase]:
        """Yield all phases of the step in order."""
        layers = range(self.plan.shape.layers)
        yield from map(self.forward, layers)
        yield self.loss()
        for layer in reversed(layers):
            yield self.backward(layer)
            if layer:
                yield self.between(layer)
        yield self.update()

    def forward(self, layer: int) -> StepPhase:
        """Return the memory in use at the end of a layer's forward pass.

        Memory can peak in the last layer's forward pass, so all tensors of this pass are counted.
        """
        plan, settings = self.plan, self.plan.settings
        terms = self._inputs_of_recomputation(plan.shape.layers)
        stores = not (settings.trains_weights or settings.gradient_checkpointing)
        if stores and layer == plan.shape.layers - 1:
            work = (replace(term, part="transient", group=REST) for term in layer_forward(plan))
            terms = [*work, *copies_of_forward(plan)]
        saved = layers_saved(plan, layer + 1)
        return self._phase("forward", f"forward of layer {layer + 1}", terms, activations=saved)

    def loss(self) -> StepPhase:
        """Return the largest memory in use during the last norm, the output layer and the loss."""
        kept = self._inputs_of_recomputation(self.plan.shape.layers)
        below = self.size["activations"] - total_bytes(output_saved(self.plan))
        phases = (
            self._phase("loss", LOSS, [*kept, *terms], activations=below + stored)
            for stored, terms in moments(self.plan)
        )
        return max(phases, key=lambda phase: phase.total)

    def backward(self, layer: int) -> StepPhase:
        """Return the memory in use when the backward pass of a layer needs the most memory."""
        checkpointing = self.plan.settings.gradient_checkpointing
        # Without checkpointing, `_layer_terms` already counts the tensors that the layer stored.
        stored = layer + 1 if checkpointing else layer
        parts = {"activations": self._saved_below(stored), "gradients": self._gradients(layer)}
        name = f"{layer_name(layer, self.plan.shape.layers)}'s backward"
        kept = [*self._inputs_of_recomputation(layer + 1), *self._during_backward]
        terms = [*kept, *(self._first_layer_terms if layer == 0 else self._layer_terms)]
        inside = self._phase("backward", name, terms, **parts)
        if layer or not self.plan.settings.trains_weights:
            return inside
        terms = [*self._during_backward, *map(_work, _embedding_backward(self.plan))]
        last = self._phase("backward", name, terms, gradients=self.size["gradients"])
        return max(inside, last, key=lambda phase: phase.total)

    def between(self, layer: int) -> StepPhase:
        """Return the memory in use when the backward pass of a layer has just ended."""
        parts = {"activations": self._saved_below(layer), "gradients": self._gradients(layer - 1)}
        name = f"after {layer_name(layer, self.plan.shape.layers)}'s backward"
        kept = [*self._inputs_of_recomputation(layer), *self._during_backward]
        stream = _work(residual_gradient(self.plan))
        return self._phase("between", name, [*kept, stream], **parts)

    def update(self) -> StepPhase:
        """Return the memory in use during the update, which changes the trainable parameters."""
        plan, terms = self.plan, []
        if plan.shape.known:
            terms = [*self._inputs_of_recomputation(0), *after_loss(plan), *_update_scratch(plan)]
        parts = {part: self.size[part] for part in ("optimizer", "gradients")}
        return self._phase("update", UPDATE, terms, **parts)

    def _phase(
        self, kind: PhaseKind, name: str, transients: list[MemoryTerm], **parts: int
    ) -> StepPhase:
        live_bytes = self._permanent | parts
        paged = self._paged if live_bytes["optimizer"] == self.size["optimizer"] else 0
        return StepPhase(kind, name, live_bytes, (*self._constant_terms, *transients), paged)

    # --- memory that several phases share ---

    @cached_property
    def _permanent(self) -> dict[str, int]:
        """For each part, the bytes that are in memory during the entire step."""
        sizes = {part: self.size[part] for part in ("weights", "adapters", "optimizer")}
        if self.first:
            sizes["optimizer"] -= total_bytes(state_terms(self.plan))
        gradients = self.size["gradients"] if self.plan.settings.accumulation > 1 else 0
        return sizes | {"gradients": gradients, "activations": 0}

    @cached_property
    def _paged(self) -> int:
        return paged_states(self.plan)

    @cached_property
    def _constant_terms(self) -> list[MemoryTerm]:
        return list(_constant_terms(self.plan)) if self.plan.shape.known else []

    def _inputs_of_recomputation(self, layers: int) -> list[MemoryTerm]:
        """Return the terms of what the recomputation of the lowest `layers` layers needs."""
        recomputes = self.plan.settings.gradient_checkpointing
        return list(_inputs_of_recomputation(self.plan, layers)) if recomputes else []

    @cached_property
    def _during_backward(self) -> list[MemoryTerm]:
        """Return the terms of tensors that exist from the loss to the end of the backward pass."""
        held = held_gradient(self.plan) if self.plan.settings.accumulation > 1 else ()
        return [*during_backward(self.plan), *held]

    @cached_property
    def _layer_terms(self) -> list[MemoryTerm]:
        return [_work(term) for term in layer_backward(self.plan)]

    @cached_property
    def _first_layer_terms(self) -> list[MemoryTerm]:
        return [_work(term) for term in layer_backward(self.plan, first=True)]

    def _saved_below(self, layers: int) -> int:
        """Return the bytes that the lowest `layers` layers stored for their backward passes."""
        adapted = self.plan.adapted
        # The first layer needs cosines and sines only if a gradient passes the rotation.
        rotates = self.plan.settings.trains_weights or "q_proj" in adapted or "k_proj" in adapted
        return layers_saved(self.plan, layers, layers + 1 if layers or rotates else 0)

    def _gradients(self, layer: int) -> int:
        """Return the bytes of the gradients that exist when the backward pass reaches `layer`."""
        total = self.size["gradients"]
        return max(self._permanent["gradients"], _gradients_above(self.plan, total, layer))


def layer_name(layer: int, layers: int) -> str:
    """Return the name of one of `layers` layers; its index `layer` counts from 0."""
    if layer == layers - 1:
        return "the last layer"
    return f"layer {layer + 1}" if layer else "the first layer"


# --- memory in use during the entire step ---------------------------------------------------------


def _work(term: MemoryTerm) -> MemoryTerm:
    """Return a term of a layer's backward pass as a term of the phase."""
    return replace(term, part="transient", name=f"{WORK}: {term.name}", group=WORK)


def _constant_terms(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield a term for each tensor or buffer outside the parts that exists all the time."""
    if plan.settings.shards("weights"):
        yield _gathered_weights(plan)
    if plan.settings.device == "cuda":
        yield cublas_workspaces()
        if plan.settings.method == "qlora":
            simulated = unsplit_remainders(plan), "see allocator"
            yield _term("unsplit remainders of blocks", "CUDACachingAllocator", simulated)


def _gathered_weights(plan: Plan) -> MemoryTerm:
    """Return the term for the whole weights that each GPU gathers from the other GPUs.

    FSDP gathers two layers at a time, and also its root unit: the embedding, the head and the last
    norm. ZeRO gathers only the current module and the next, which may be a layer, the embedding or
    the head.
    """
    shape, coded, each = plan.shape, sum(plan.quantized.values()), plan.settings.base_bytes
    layer, table = plan.layer_weights - coded, shape.vocab * shape.hidden
    # The number of gathered layers, and the number of gathered weights outside the layers.
    layers, root, source = 2, 0, "the current layer and the next; ZeRO, 5.3"
    if plan.settings.sharding == "fsdp":
        root = shape.embedding_parameters + shape.hidden
        source = "the current layer and the next, and FSDP's root unit"
    elif table * each > layer * each + coded // 2:
        layers, root, source = 1, table, "a layer, and the embedding or the head; ZeRO, 5.3"
    size = (layers * layer + root) * each + layers * coded // 2
    formula = f"{layers} × ({layer:,} × {each} + {coded:,} × ½) + {root:,} × {each}"
    return _term("gathered weights", source, (size, formula))


def cublas_workspaces() -> MemoryTerm:
    """Return the term for cuBLAS's workspaces, one for each of the two threads of a step."""
    return _term("cuBLAS workspaces", "PyTorch's default", of(2, "threads"), CUBLAS_WORKSPACE)


# --- memory in use in one phase -------------------------------------------------------------------


def _inputs_of_recomputation(plan: Plan, layers: int) -> Iterator[MemoryTerm]:
    """Yield the tensors that recomputing `layers` layers needs besides the layers' inputs."""
    settings = plan.settings
    if settings.attention == "eager":
        yield causal_mask(plan, layers)
    yield cos_and_sin(plan, "transient", layers)
    if layers:
        source = "stored for the recomputation"
        yield _term("position ids", source, settings.sequence_length, 8)
    elif not settings.trains_weights:
        sizes = 2, of(plan.tokens, "tokens"), plan.shape.hidden, settings.stream_bytes
        yield _term("token embeddings and gradient", "peft's trainable leaf", *sizes)


def _gradients_above(plan: Plan, total: int, layer: int) -> int:
    """Return the bytes of the gradients of the head and of the layers above `layer`."""
    shape = plan.shape
    above = shape.layers - 1 - layer
    if not plan.settings.trains_weights:
        return total * above // shape.layers
    head = (shape.vocab + 1) * shape.hidden
    one = plan.layer_weights + shape.bias_parameters + shape.norm_parameters
    return total * (head + one * above) // shape.parameters


def _embedding_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that the embedding's backward pass needs besides all gradients."""
    table = plan.shape.vocab, plan.shape.hidden, plan.settings.precision.gradient
    if plan.shape.tied:
        yield _term("two gradients of the embedding", "autograd, before their sum", 2, *table)
        return
    yield residual_gradient(plan)
    if plan.settings.accumulation > 1:
        yield _term("gradient of the embedding", "autograd", *table)


def _update_scratch(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors that exist only during the update."""
    settings, precision = plan.settings, plan.settings.precision
    sizes = OPTIMIZERS[settings.optimizer].scratch, plan.trained, precision.state
    term = _term("scratch of the optimizer", "torch.optim, foreach", *sizes)
    if term.size:
        yield on_one_gpu(term, settings, "optimizer")
