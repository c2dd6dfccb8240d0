"""Run a training step without its memory: real code, on tensors that have shapes but no numbers.

transformers builds the model from its config on PyTorch's device "meta", peft adds the adapters,
and then fake tensors, which know nothing but their shape, dtype and device, run forward and
backward. A meter counts the bytes that real tensors would have. So this traces any model that
transformers can build, without its weights:

    config ─► model on "meta" ─► NF4 and adapters ─► fake tensors ─► forward, backward ─► phases

Most layers of a deep model are alike. So only a few layers are traced, in two models of different
depth: what a block of layers adds to a phase of the step, each further block adds, too. The tests
compare traces with steps measured on a CPU, to the byte.

The operators are those of a CPU. For a GPU, its workspaces and the rounding of its allocator are
added, but a kernel that stores something else on a GPU than on a CPU is not known.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from course_utils.machine.measure import TensorMeter, storages
from course_utils.machine.validation import first_line
from course_utils.memory.allocator import rounded
from course_utils.memory.estimates import Estimate, at_peak
from course_utils.memory.families import PRESETS
from course_utils.memory.settings import ANSWER_CHUNK, OPTIMIZERS, TILE, Settings
from course_utils.memory.shapes import ModelShape, read_config
from course_utils.memory.step import LOSS, UPDATE, StepPhase, cublas_workspaces, layer_name
from course_utils.memory.terms import LOGITS, PARTS, REST, WORK, MemoryTerm
from course_utils.memory.weights import paged_bytes, state_bytes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# The line for fused experts, which bitsandbytes leaves in 16 bits because they are no linear layers.
NOT_QUANTIZED = "experts, not quantized"
# Entries of `Trace.permanent` that are no part of the memory during the whole step.
PARAMETERS, SCRATCH, PAGED = "parameters of the model", "scratch of the optimizer", "paged states"
SOURCE = "the model's own code"
_NEEDS_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException)
BEFORE = "before the layers"


def trace(model: str | Path | Mapping[str, Any], method: str = "full", **options: Any) -> Estimate:
    """Return what `memory.estimate` returns, for any causal model that transformers can build.

    Of a model on the hub, only the config is downloaded. The arguments are those of `estimate`.

    Raises:
        ValueError: An option or the config is wrong, the model isn't a decoder, or its code reads
            the numbers of tensors, which fake tensors don't have.
    """
    return at_peak(*_traced(model, method, options))


def trace_timeline(
    model: str | Path | Mapping[str, Any], method: str = "full", **options: Any
) -> tuple[StepPhase, ...]:
    """Return every phase of a traced step, in order, as `memory.timeline` does."""
    *_, phases = _traced(model, method, options)
    return phases


def _traced(
    model: Any, method: str, options: Mapping[str, Any]
) -> tuple[ModelShape, Settings, list[MemoryTerm], tuple[StepPhase, ...]]:
    settings = Settings.of(method, options)
    config, name = causal_config(model)
    _check_length(config, name, settings.sequence_length)
    try:
        traced = trace_step(config, settings)
    except _NEEDS_NUMBERS:
        raise ValueError(
            f"{name} can't be traced: what its code computes depends on the numbers in tensors, "
            "such as which expert a token gets"
        ) from None
    # A wrong config, or code that can't run on fake tensors, raises any exception.
    except Exception as error:
        raise ValueError(f"{name} can't be traced: {first_line(error)}") from error
    shape = ModelShape.generic(traced.permanent[PARAMETERS], name)
    return shape, settings, list(_terms(traced)), tuple(_step_phases(traced, settings))


def _terms(traced: Trace) -> Iterator[MemoryTerm]:
    """Yield the terms of all parts but "transient"."""
    for name, size in traced.permanent.items():
        part = name if name in PARTS else "weights"
        if size and name not in (PARAMETERS, SCRATCH, PAGED):
            yield MemoryTerm(part, name, size, "traced", SOURCE)
    saved = traced.phases[LOSS].get("activations", 0)
    yield MemoryTerm("activations", "stored for the backward pass", saved, "traced", SOURCE)


def _step_phases(traced: Trace, settings: Settings) -> Iterator[StepPhase]:
    """Yield the phases of a traced step, with the names and parts of the formula's phases."""
    permanent = Counter(dict.fromkeys(PARTS[:-1], 0))
    for term in _terms(traced):
        permanent[term.part] += term.size
    on_gpu = [cublas_workspaces()] if settings.device == "cuda" else []
    last = sum(name.startswith("backward") for name in traced.phases)
    for name, sizes in traced.phases.items():
        moving = {part: sizes.get(part, 0) for part in ("activations", "gradients")}
        if settings.accumulation > 1:
            del moving["gradients"]
        groups = {LOGITS: sizes.get(LOGITS, 0), WORK: sizes.get(WORK, 0)}
        groups[REST] = traced.permanent[SCRATCH] if name == UPDATE else 0
        terms = [
            MemoryTerm("transient", group, size, "traced", SOURCE, group)
            for group, size in groups.items()
            if size
        ]
        kind, _, layer = name.partition(" of layer ")
        shown = f"{layer_name(int(layer) - 1, last)}'s backward" if kind == "backward" else name
        kind = {LOSS: "loss", UPDATE: "update", BEFORE: "forward"}.get(name, kind)
        yield StepPhase(kind, shown, permanent | moving, (*on_gpu, *terms), traced.permanent[PAGED])


# --- the config -----------------------------------------------------------------------------------


def causal_config(model: str | Path | Mapping[str, Any]) -> tuple[PretrainedConfig, str]:
    """Return the config of a causal language model, and its name. No code is downloaded.

    The config of a model that also reads images is replaced by that of its text part.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    if isinstance(model, str) and model.strip().lower() in PRESETS:
        name = model.strip().lower()
        values = dict(PRESETS[name])
    else:
        values, name = read_config(model)
    # The weights are counted as 16-bit numbers, whatever they are stored in.
    values.pop("quantization_config", None)
    kind = values.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        code = (
            "; the course never runs code from a model's repository" if "auto_map" in values else ""
        )
        raise ValueError(f"this version of transformers doesn't know model_type {kind!r}{code}")
    try:
        config = AutoConfig.for_model(kind, **values)
    except Exception as error:  # Each config class checks its values with its own exceptions.
        raise ValueError(f"the config of {name} is wrong: {first_line(error)}") from error
    text = config.get_text_config(decoder=True)
    if text is not config:
        config, name = text, f"{name} (text part)"
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{name} doesn't predict the next token of a text, as a decoder does")
    given = values.get("text_config") or values
    for field in ("hidden_size", "num_hidden_layers"):
        if config.attribute_map.get(field, field) not in given and field not in given:
            raise ValueError(f"the config of {name} has no {field!r}")
    return config, name


def _check_length(config: PretrainedConfig, name: str, tokens: int) -> None:
    longest = getattr(config, "max_position_embeddings", None)
    if longest and tokens > longest:
        raise ValueError(
            f"{name} reads at most {longest:,} tokens, so sequence_length must be at most "
            f"{longest:,}, got {tokens:,}"
        )


# --- the model ------------------------------------------------------------------------------------


def build(config: PretrainedConfig, settings: Settings) -> nn.Module:
    """Return a model on the device "meta" with NF4 layers and adapters, ready for training."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, settings.load_dtype),
            attn_implementation=settings.attention,
        )
    if settings.method == "qlora":
        _quantize(model, settings)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if not settings.trains_weights:
        model = _with_adapters(model, settings)
    return model.train()


def _quantize(model: nn.Module, settings: Settings) -> None:
    """Replace the layers that transformers would load in NF4."""
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=settings.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, settings.compute_dtype),
        llm_int8_skip_modules=["lm_head", *settings.unquantized] if settings.unquantized else None,
    )
    quantizer = AutoHfQuantizer.from_config(quantization)
    quantizer.preprocess_model(model=model, device_map={"": "cpu"}, dtype=model.dtype)
    quantizer.postprocess_model(model)
    if settings.upcast:
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _with_adapters(model: nn.Module, settings: Settings) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    lora = LoraConfig(r=settings.rank, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    if settings.gradient_checkpointing:
        model.enable_input_require_grads()
    if settings.precision.weight == 2:
        for parameter in filter(lambda p: p.requires_grad, model.parameters()):
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def _make_fake(model: nn.Module, settings: Settings) -> None:
    """Replace the tensors of a model by fake tensors on a CPU, inside a FakeTensorMode."""
    from bitsandbytes.nn import Linear4bit

    made: dict[int, Tensor] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = _fake(module, name, tensor, settings)
                store[name] = made[id(tensor)]
        if isinstance(module, Linear4bit) and module.bias is not None:
            # In the first forward pass, bitsandbytes converts the bias to the compute dtype.
            module.bias.data = module.bias.data.to(module.compute_dtype)


def _fake(module: nn.Module, name: str, tensor: Tensor, settings: Settings) -> Tensor:
    from bitsandbytes.nn import Linear4bit

    if isinstance(module, Linear4bit) and name == "weight":
        codes = torch.empty((tensor.numel() + 1) // 2, 1, dtype=torch.uint8)
        weight = nn.Parameter(codes, requires_grad=False)
        weight.quant_state = _quant_state(module, settings)
        return weight
    new = torch.empty(tensor.shape, dtype=tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def _quant_state(layer: Any, settings: Settings) -> Any:
    """Return the constants of a layer in NF4, as `nf4_bytes` counts them."""
    from bitsandbytes.functional import QuantState

    size = layer.in_features * layer.out_features
    blocks = -(-size // settings.block_size)
    constants: dict[str, Any] = {"absmax": torch.empty(blocks)}
    if settings.double_quant:
        second = QuantState(
            torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float
        )
        constants = {"absmax": torch.empty(blocks, dtype=torch.uint8), "state2": second}
        constants["offset"] = torch.empty(())
    return QuantState(
        shape=torch.Size((layer.out_features, layer.in_features)),
        code=torch.empty(16),
        blocksize=settings.block_size,
        quant_type="nf4",
        dtype=layer.compute_dtype,
        **constants,
    )


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Return the transformer layers of a causal language model, with or without adapters."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    return next(lists)


# --- the losses -----------------------------------------------------------------------------------


def _loss(model: nn.Module, settings: Settings) -> Callable[[Tensor], tuple[Tensor, Any]]:
    """Return a function from token ids to the loss and everything that the caller keeps."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model

    def of_logits(ids: Tensor) -> tuple[Tensor, Any]:
        output = model(input_ids=ids, labels=ids, use_cache=False)
        return output.loss, output if settings.keep_output else None

    def of_tiles(ids: Tensor) -> tuple[Tensor, Any]:
        hidden = base.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        # On a GPU, TRL copies the tokens that count. Here these are all tokens.
        hidden = hidden.reshape(-1, hidden.shape[-1])
        hidden = hidden.clone() if settings.device == "cuda" else hidden
        head = base.get_output_embeddings()
        outputs = _TiledLoss.apply(hidden, head.weight, head.bias, settings.device == "cuda")
        return -outputs[0].sum(), outputs

    def of_answers(ids: Tensor) -> tuple[Tensor, Any]:
        kept = torch.arange(settings.loss_tokens // settings.batch_size)
        logits = model(input_ids=ids, logits_to_keep=kept, use_cache=False).logits
        return _AnswerLoss.apply(logits.flatten(0, 1)), None

    return {"logits": of_logits, "tiled": of_tiles, "answers": of_answers}[settings.loss]


class _TiledLoss(torch.autograd.Function):
    """Allocates what the output layer of TRL's `SFTTrainer` allocates, which never has all logits.

    One tile has the logits of 4,096 tokens and 32,768 words. On a GPU, a kernel changes the tile in
    place. On a CPU, TRL computes with up to 3 (forward) or 7 (backward) float32 copies and a mask.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Any, on_gpu: bool) -> Any:
        ctx.on_gpu = on_gpu
        autocast = torch.is_autocast_enabled("cpu")
        ctx.dtype = torch.get_autocast_dtype("cpu") if autocast else hidden.dtype
        running = torch.empty(7, len(hidden))
        ctx.save_for_backward(hidden, weight, bias)
        _compute_tile(ctx, hidden, weight, bytes_each=13, bytes_per_token=20)
        del running
        ctx.log_sums = torch.empty(len(hidden))
        entropy, is_best = torch.empty(len(hidden)), torch.empty(len(hidden), dtype=torch.bool)
        ctx.mark_non_differentiable(is_best)
        ctx.set_materialize_grads(False)
        return torch.empty(len(hidden)), entropy, is_best

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        tensors = ctx.saved_tensors
        needed = zip(tensors, ctx.needs_input_grad, strict=False)
        sums = [torch.zeros(t.shape) if needs else None for t, needs in needed]
        gradient = gradient.float().contiguous()
        _compute_tile(ctx, *tensors[:2], *sums[:2], bytes_each=29)
        gradients = (s if s is None else s.to(t.dtype) for s, t in zip(sums, tensors, strict=True))
        return (*gradients, None)


def _compute_tile(
    ctx: Any,
    hidden: Tensor,
    weight: Tensor,
    hidden_sum: Tensor | None = None,
    weight_sum: Tensor | None = None,
    *,
    bytes_each: int,
    bytes_per_token: int = 0,
) -> None:
    """Allocate what TRL needs for the first tile, which is the largest, and free it."""
    rows, words = min(TILE[0], len(hidden)), min(TILE[1], len(weight))
    tile = torch.empty(rows, TILE[1], dtype=ctx.dtype)[:, :words]
    hidden, weight = hidden[:rows].to(ctx.dtype), weight[:words].to(ctx.dtype)
    if ctx.on_gpu:
        return
    work = torch.empty(bytes_each * rows * words + bytes_per_token * rows, dtype=torch.uint8)
    del work
    if hidden_sum is not None:
        hidden_sum[:rows].addmm_(tile.float(), weight.float())
    if weight_sum is not None:
        weight_sum[:words].addmm_(tile.t().float(), hidden.float())


class _AnswerLoss(torch.autograd.Function):
    """Allocates what `course_utils.training.loss` allocates."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits, torch.empty(len(logits)))
        ctx.rows = max(1, ANSWER_CHUNK // logits.shape[-1])
        logits[: ctx.rows].float()
        return torch.empty(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        logits, _ = ctx.saved_tensors
        few = logits[: ctx.rows].float()
        few - 1  # The difference to the logarithm of the sum.
        return logits


# --- the step -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """The bytes (B) of a traced step.

    Attributes:
        permanent: What is in memory during the whole step, such as "adapters": name → bytes.
        phases: The phases in order: name → what else is in memory at the phase's peak: "gradients",
            "activations", LOGITS or WORK → bytes.
    """

    permanent: Mapping[str, int]
    phases: Mapping[str, Mapping[str, int]]


def run_step(config: PretrainedConfig, settings: Settings) -> Trace:
    """Trace the forward and backward pass of a micro-batch, with all layers of the model."""
    model = build(config, settings)
    # Fake tensors have no numbers, so transformers can't see that the batch isn't packed.
    not_packed = patch("transformers.masking_utils.find_packed_sequence_indices", lambda *_: None)
    with not_packed, FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(model, settings)
        trained = [p for p in model.parameters() if p.requires_grad]
        if settings.accumulation > 1:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
        meter = TensorMeter(rounded if settings.device == "cuda" else int)
        measure(model, settings, meter)
        phases = {name: _by_part(name, made) for name, made in meter.peaks.items()}
        return Trace(_permanent(model, settings), phases)


def measure(model: nn.Module, settings: Settings, meter: TensorMeter) -> None:
    """Run the forward and backward pass of a micro-batch under a meter, phase by phase."""
    ids = torch.zeros(settings.batch_size, settings.sequence_length, dtype=torch.long)
    loss_of = _loss(model, settings)
    narrow = getattr(torch, settings.compute_dtype)
    autocast = torch.autocast("cpu", narrow) if settings.autocast else nullcontext()
    with _phases_marked(meter, model), meter:
        meter.begin(BEFORE)
        with autocast:
            loss, kept = loss_of(ids)
        loss.backward()
        meter.begin(UPDATE)
        del kept


@contextmanager
def _phases_marked(meter: TensorMeter, model: nn.Module) -> Iterator[None]:
    """Begin a phase of the meter at each layer's forward and backward pass, and at the loss."""
    layers = layers_of(model)
    in_forward = True

    def before(name: str, *_: Any) -> None:
        if in_forward:
            meter.begin(name)

    def after(n: int, layer: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        nonlocal in_forward
        if not in_forward:  # Checkpointing computes a layer again in the backward pass.
            return
        if n == len(layers):
            in_forward = False
            meter.begin(LOSS)
        tensor = output[0] if isinstance(output, tuple) else output
        if tensor.requires_grad:
            tensor.register_hook(lambda _: meter.begin(f"backward of layer {n}"))

    hooks = []
    for n, layer in enumerate(layers, 1):
        hooks.append(layer.register_forward_pre_hook(partial(before, f"forward of layer {n}")))
        hooks.append(layer.register_forward_hook(partial(after, n)))
    for parameter in filter(lambda p: p.requires_grad, model.parameters()):
        hook = parameter.register_post_accumulate_grad_hook
        hooks.append(hook(lambda p: meter.count_as("gradients", p.grad)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _permanent(model: nn.Module, settings: Settings) -> dict[str, int]:
    """Return the bytes of weights by kind, adapters, gradients and optimizer states."""
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        for kind, part in _tensors_of(name, tensor, settings):
            for key, storage in storages(part).items():
                if key not in seen:
                    seen.add(key)
                    sizes[kind] = sizes.get(kind, 0) + storage.nbytes()
    base = (p for name, p in model.named_parameters() if "lora_" not in name)
    sizes[PARAMETERS] = sum(
        p.quant_state.shape.numel() if hasattr(p, "quant_state") else p.numel() for p in base
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    numbers = sum(p.numel() for p in trained)
    optimizer = OPTIMIZERS[settings.optimizer]
    sizes["gradients"] = sum(p.nbytes for p in trained)
    states = sum(state_bytes(p.numel(), settings) for p in trained)
    books = 256 * 4 if optimizer.eight_bit else 0
    sizes["optimizer"] = numbers * settings.precision.master + optimizer.states * (states + books)
    sizes[PAGED] = optimizer.states * sum(paged_bytes(p.numel(), settings) for p in trained)
    sizes[SCRATCH] = optimizer.scratch * numbers * settings.precision.state
    return sizes


def _tensors_of(name: str, tensor: Tensor, settings: Settings) -> Iterator[tuple[str, Tensor]]:
    """Yield the kind of a tensor of the model and the tensor, with the constants of NF4."""
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        yield "NF4 codes", tensor
        for part in filter(None, (state, state.state2)):
            yield "NF4 code books", part.code
            yield "NF4 constants", part.absmax
        if state.offset is not None:
            yield "NF4 code books", state.offset
    elif "lora_" in name:
        yield "adapters", tensor
    elif settings.method == "qlora" and tensor.ndim > 2:
        yield NOT_QUANTIZED, tensor
    else:
        yield "not quantized" if settings.method == "qlora" else "weights", tensor


def _by_part(phase: str, made: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes of each part of a phase, given the bytes by the phase that made them."""
    parts: dict[str, int] = {}
    for maker, size in made.items():
        part = "activations"
        if maker == "gradients":
            part = maker
        elif maker == LOSS:
            part = LOGITS
        elif maker.startswith("backward") or maker == phase.replace("backward", "forward") != phase:
            part = WORK
        parts[part] = parts.get(part, 0) + size
    return parts


# --- deep models ----------------------------------------------------------------------------------


def trace_step(config: PretrainedConfig, settings: Settings) -> Trace:
    """Trace a step of a model, of which as few layers as possible are run."""
    kinds = [_kind(layer) for layer in layers_of(_plain(config))]
    if found := _blocks(kinds):
        shallow, deeper = (_with_layers(config, found.layers(n)) for n in (1, 2))
        if [_kind(layer) for layer in layers_of(_plain(deeper))] == kinds[: found.layers(2)]:
            traces = [run_step(part, settings) for part in (shallow, deeper)]
            return _extended(*traces, found)
    return run_step(config, settings)


@dataclass(frozen=True)
class Blocks:
    """How the `count` layers of a model repeat.

    The `first` layers are followed by blocks of `size` layers, and by at least one last layer.
    """

    count: int
    first: int
    size: int

    @property
    def last(self) -> int:
        """The number of layers above the blocks."""
        return (self.count - self.first - 1) % self.size + 1

    def layers(self, blocks: int) -> int:
        """Return the number of layers of a model with so many blocks."""
        return self.first + blocks * self.size + self.last


def _plain(config: PretrainedConfig) -> nn.Module:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """Return everything that distinguishes kinds of layers: modules, their settings and shapes."""
    return tuple(
        (
            name,
            type(module).__name__,
            tuple((k, v) for k, v in vars(module).items() if _is_setting(k, v)),
            tuple((k, tuple(p.shape), p.dtype) for k, p in module.named_parameters(recurse=False)),
        )
        for name, module in layer.named_modules()
    )


def _is_setting(name: str, value: Any) -> bool:
    return isinstance(value, int | str | None) and not re.search(r"idx|index|layer_id|number", name)


def _blocks(kinds: list[Any]) -> Blocks | None:
    """Find the smallest blocks of layers that repeat, or None if tracing them would save nothing."""
    count = len(kinds)
    for size in range(1, count // 3):
        for first in range(1, count - 3 * size):
            found = Blocks(count, first, size)
            repeats = all(kinds[i] == kinds[i + size] for i in range(first, count - size))
            # A mask that layers of a kind share is freed after the lowest of these layers.
            seen = set(kinds[first : first + size]) <= set(kinds[:first])
            if repeats and seen and found.layers(1) + found.layers(2) < count:
                return found
    return None


def _with_layers(config: PretrainedConfig, count: int) -> PretrainedConfig:
    """Return the config of the same model with only the first `count` layers."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    layers = text.num_hidden_layers
    for name, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == layers:
            setattr(text, name, value[:count])
    text.num_hidden_layers = count
    return config


def _extended(shallow: Trace, deeper: Trace, model: Blocks) -> Trace:
    """Return the trace of a model, given traces with 1 and 2 of its blocks.

    In the lowest and in the highest block, each phase grows by the same bytes with each further
    block of the model. Between these two, it changes by the same bytes from block to block.
    """
    count, first, size = model.count, model.first, model.size
    low, high = model.layers(1), model.layers(2)

    def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
        return _on_line(before, after, 1 + (count - high) // size, 1)

    def of_layer(kind: str, n: int) -> dict[str, int]:
        bottom = first + (n - first - 1) % size + 1
        top = bottom + count - first - model.last - size
        if first < bottom < n < top:
            ends = of_layer(kind, bottom), of_layer(kind, top)
            return _on_line(*ends, n - bottom, top - bottom)
        at_the_top = n > first + size
        twins = (low - count + n, high - count + n) if at_the_top else (n, n)
        names = [f"{kind} of layer {twin}" for twin in twins]
        return grown(shallow.phases.get(names[0], {}), deeper.phases.get(names[1], {}))

    layers = range(1, count + 1)
    phases = {BEFORE: grown(shallow.phases[BEFORE], deeper.phases[BEFORE])}
    phases |= {f"forward of layer {n}": of_layer("forward", n) for n in layers}
    phases[LOSS] = grown(shallow.phases[LOSS], deeper.phases[LOSS])
    phases |= {f"backward of layer {n}": of_layer("backward", n) for n in reversed(layers)}
    phases[UPDATE] = grown(shallow.phases[UPDATE], deeper.phases[UPDATE])
    return Trace(grown(shallow.permanent, deeper.permanent), {k: p for k, p in phases.items() if p})


def _on_line(
    start: Mapping[str, int], end: Mapping[str, int], passed: int, distance: int
) -> dict[str, int]:
    """Return the sizes at a point of a line, `passed` / `distance` of the way to its end."""
    pairs = {key: (start.get(key, 0), end.get(key, 0)) for key in {**start, **end}}
    return {key: a + (b - a) * passed // distance for key, (a, b) in pairs.items()}
