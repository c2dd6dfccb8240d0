"""Trace a training step: run the model's real code on tensors that have shapes but no numbers.

transformers builds the model from its config on PyTorch's device "meta", and peft adds the
adapters. Then the model's code runs forward and backward on fake tensors, which have a shape, a
dtype and a device, but no numbers. A meter counts the bytes that real tensors would have. So any
model that transformers can build can be traced, without its weights:

    config ─► model on "meta" ─► NF4 and adapters ─► fake tensors ─► forward, backward ─► phases

In most deep models, the same group of layers (a block) repeats many times. So two models with few
layers are traced, and the second has one more block than the first. The difference between the two
traces is what each further block adds. The tests check that a trace gives exactly the bytes that
are measured in the same step on a CPU.

A trace runs PyTorch's operators for CPUs. For a GPU, the trace adds the workspaces and the
allocator's rounding. But some kernels store different tensors on a GPU than on a CPU, and a trace
doesn't know these.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from course_utils.machine.measure import TensorMeter, backward_marked, storages
from course_utils.machine.validation import first_line, positive
from course_utils.memory.allocator import rounded
from course_utils.memory.estimates import Estimate, at_peak
from course_utils.memory.families import MOST_LAYERS, PRESETS, not_a_decoder, text_part
from course_utils.memory.settings import ANSWER_CHUNK, OPTIMIZERS, TILE, Settings
from course_utils.memory.shapes import ModelShape, is_name, read_config
from course_utils.memory.step import (
    LOSS,
    UPDATE,
    PhaseKind,
    StepPhase,
    cublas_workspaces,
    layer_name,
)
from course_utils.memory.terms import LOGITS, PARTS, REST, WORK, MemoryTerm
from course_utils.memory.weights import paged_bytes, state_bytes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# The term for experts that share a tensor. bitsandbytes quantizes only linear layers, so it leaves
# these experts in 16 bits.
NOT_QUANTIZED = "experts, not quantized"
# Entries of `Trace.permanent` that must not be added to the memory of the whole step.
PARAMETERS, SCRATCH, PAGED = "parameters of the model", "scratch of the optimizer", "paged states"
_NEEDS_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException)
BEFORE, LOSS_BACKWARD = "before the layers", "the loss's backward"
# The parts of tensors that are created in these phases, or that `TensorMeter.count_as` marks.
_PART_OF = {"gradients": "gradients", LOSS: LOGITS, LOSS_BACKWARD: LOGITS}


def trace(model: str | Path | Mapping[str, Any], method: str = "full", **options: Any) -> Estimate:
    """Return the same as `memory.estimate`, but for any causal model that transformers can build.

    The arguments are the same as those of `memory.estimate`. If the model is on the hub, only its
    config is downloaded.

    Raises:
        ValueError: An option or the config is wrong, the model isn't a decoder, or the model's code
            needs the numbers in its tensors. Fake tensors have no numbers.
    """
    return at_peak(*_traced(model, method, options))


@contextmanager
def _silence() -> Iterator[None]:
    """Hide messages of libraries, such as PyTorch's traceback of an error that `trace` reports."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


@_silence()
def _traced(
    model: Any, method: str, options: Mapping[str, Any]
) -> tuple[ModelShape, Settings, list[MemoryTerm], tuple[StepPhase, ...]]:
    settings = Settings.of(method, options)
    if settings.gpus > 1:
        raise ValueError("a trace is of one GPU; for several GPUs, the formula must know the model")
    config, name, longest = causal_config(model)
    if longest is not None and settings.sequence_length > longest:
        if "sequence_length" in options:
            raise ValueError(
                f"{name} reads at most {longest:,} tokens, so sequence_length must be at most "
                f"{longest:,}, got {settings.sequence_length:,}"
            )
        settings = replace(settings, sequence_length=longest)
    if not _model_class(config)._supports_sdpa:  # Then transformers computes eager attention.
        settings = replace(settings, attention="eager")
    try:
        traced = trace_step(config, settings)
    except _NEEDS_NUMBERS:
        raise ValueError(
            f"{name} can't be traced: what its code computes depends on the numbers in tensors, "
            "such as which expert a token gets"
        ) from None
    # A wrong config, or code that can't run on fake tensors, can raise any exception.
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"{name} can't be traced: {kind}: {first_line(error)}") from error
    shape = ModelShape.generic(traced.permanent[PARAMETERS], name)
    return shape, settings, list(_terms(traced)), tuple(_step_phases(traced, settings))


def _terms(traced: Trace) -> Iterator[MemoryTerm]:
    """Yield the terms of all parts except "transient"."""
    for name, size in traced.permanent.items():
        part = name if name in PARTS else "weights"
        if size and name not in (PARAMETERS, SCRATCH, PAGED):
            yield _term(part, name, size)
    saved = traced.phases[LOSS].get("activations", 0)
    yield _term("activations", "stored for the backward pass", saved)


def _term(part: str, name: str, size: int, group: str = "") -> MemoryTerm:
    return MemoryTerm(part, name, size, "traced", "the model's own code", group)


def _step_phases(traced: Trace, settings: Settings) -> Iterator[StepPhase]:
    """Yield the phases of a traced step. Their names and parts are as in `memory.timeline`."""
    permanent = Counter(dict.fromkeys(PARTS[:-1], 0))
    for term in _terms(traced):
        permanent[term.part] += term.size
    on_gpu = [cublas_workspaces()] if settings.device == "cuda" else []
    layers = sum(name.startswith("forward") for name in traced.phases)
    for name, sizes in traced.phases.items():
        moving = {part: sizes.get(part, 0) for part in ("activations", "gradients")}
        if settings.accumulation > 1:
            del moving["gradients"]
        groups = {LOGITS: sizes.get(LOGITS, 0), WORK: sizes.get(WORK, 0)}
        groups[REST] = traced.permanent[SCRATCH] if name == UPDATE else 0
        terms = [_term("transient", group, size, group) for group, size in groups.items() if size]
        kind, _, layer = name.partition(" of layer ")
        shown = f"{layer_name(int(layer) - 1, layers)}'s backward" if kind == "backward" else name
        known = cast(PhaseKind, {LOSS: "loss", UPDATE: "update", BEFORE: "forward"}.get(name, kind))
        parts = permanent | moving
        yield StepPhase(known, shown, parts, (*on_gpu, *terms), traced.permanent[PAGED])


# --- the config -----------------------------------------------------------------------------------


def causal_config(
    model: str | Path | Mapping[str, Any],
) -> tuple[PretrainedConfig, str, int | None]:
    """Return a causal language model's config, its name, and the most tokens that it can read.

    If the config gives no number of tokens, return None for it. If the model also reads images, and
    transformers can build its text part alone, return the config of the text part.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    name = str(model).strip().lower()
    is_preset = is_name(model) and name in PRESETS
    values, name = (dict(PRESETS[name]), name) if is_preset else read_config(model)
    if reason := not_a_decoder(values):
        raise ValueError(f"{name} {reason}")
    # Some config classes make a list with an entry for each layer.
    for field, count in text_part(values).items():
        if field.endswith(("layers", "n_layer")) and isinstance(count, int) and count > MOST_LAYERS:
            raise ValueError(f"{name} has {count:,} layers; at most {MOST_LAYERS:,} can be traced")
    # The settings decide how weights are stored, even if the repository's weights are quantized.
    needless = ("quantization_config", "num_labels")
    values = {key: value for key, value in values.items() if key not in needless}
    kind = values.pop("model_type", None)
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        code = "; code from a repository is never run" if "auto_map" in values else ""
        raise ValueError(f"{name}: transformers doesn't know the model_type {kind!r}{code}")
    try:
        config = AutoConfig.for_model(kind, **values)
        text = config.get_text_config(decoder=True)
        getattr(text, "attribute_map")  # noqa: B009 - It fails if text_config is wrong.
    except Exception as error:  # Each config class raises its own exceptions.
        reason = first_line(error.__cause__ or error)  # In strict classes, the cause is the reason.
        raise ValueError(f"the config of {name} is wrong: {reason}") from error
    if text is not config and _model_class(text):
        config, name = text, f"{name} (text only)"
    if not _model_class(config):
        raise ValueError(f"{name} is a {kind}, which doesn't predict the next token of a text")
    return config, name, _check_sizes(text, {*values, *text_part(values)}, name)


def _check_sizes(text: PretrainedConfig, given: set[str], name: str) -> int | None:
    """Return the most tokens that a config allows, or None if it gives no number.

    Raise ValueError if a size in the config is missing or wrong.
    """

    def given_size(field: str) -> Any:
        # If a config doesn't give a size, transformers fills in a default, which may be wrong.
        is_given = given & {field, text.attribute_map.get(field)}
        return getattr(text, field, None) if is_given else None

    for field in ("hidden_size", "num_hidden_layers"):
        if (size := given_size(field)) is None:
            raise ValueError(f"the config of {name} has no {field!r}")
        if not isinstance(size, list):  # Some models give a size for each layer.
            positive(f"the config of {name} is wrong: {field}", size)
    heads, groups = given_size("num_attention_heads"), given_size("num_key_value_heads")
    if isinstance(heads, int) and isinstance(groups, int) and (groups < 1 or heads % groups):
        raise ValueError(
            f"the config of {name} is wrong: num_attention_heads ({heads}) must be a multiple of "
            f"num_key_value_heads ({groups})"
        )
    return given_size("max_position_embeddings")


def _model_class(config: PretrainedConfig) -> Any:
    """Return the class with which transformers builds a causal language model, or None."""
    import transformers as t

    for mapping in (t.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, t.MODEL_FOR_CAUSAL_LM_MAPPING):
        if type(config) in mapping:
            decodes = getattr(config, "is_decoder", False)
            is_encoder = type(config) in t.MODEL_FOR_MASKED_LM_MAPPING and not decodes
            return None if is_encoder else mapping[type(config)]
    return None


# --- the model ------------------------------------------------------------------------------------


def build(config: PretrainedConfig, settings: Settings) -> Any:
    """Return a model on the device "meta" with NF4 layers and adapters, ready for training."""
    dtype = getattr(torch, settings.load_dtype)
    model = _empty(config, dtype=dtype, attn_implementation=settings.attention)
    if settings.method == "qlora":
        _quantize(model, settings)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if not settings.trains_weights:
        model = _with_adapters(model, settings)
    return model.train()


def _empty(config: PretrainedConfig, **options: Any) -> Any:
    """Build a model of transformers without numbers, on the device "meta"."""
    with torch.device("meta"):
        return _model_class(config)._from_config(copy.deepcopy(config), **options)


def _quantize(model: Any, settings: Settings) -> None:
    """Replace linear layers by 4-bit layers: those that transformers would store in NF4."""
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=getattr(torch, settings.compute_dtype),
        llm_int8_skip_modules=["lm_head", *settings.unquantized] if settings.unquantized else None,
    )
    quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map={"": "cpu"}, dtype=model.dtype)
    quantizer.postprocess_model(model)
    if settings.upcast:
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _with_adapters(model: Any, settings: Settings) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    lora = LoraConfig(r=settings.rank, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    if settings.gradient_checkpointing:
        model.enable_input_require_grads()
    if settings.precision.weight == 2:
        for parameter in _trained(model):
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _make_fake(model: nn.Module, settings: Settings) -> None:
    """Replace a model's tensors by fake tensors. Call this only in a FakeTensorMode."""
    from bitsandbytes.nn import Linear4bit

    made: dict[int, Any] = {}
    for module in model.modules():
        coded = isinstance(module, Linear4bit)
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    in_nf4 = coded and name == "weight"
                    made[id(tensor)] = _in_nf4(tensor, settings) if in_nf4 else _fake(tensor)
                store[name] = made[id(tensor)]
        if isinstance(module, Linear4bit) and module.bias is not None:
            # In the first forward pass, bitsandbytes converts the bias to the compute dtype.
            module.bias.data = module.bias.data.to(module.compute_dtype)


def _fake(tensor: Tensor) -> Tensor:
    new = torch.empty(tensor.shape, dtype=tensor.dtype)
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if is_parameter else new


def _in_nf4(weight: Tensor, settings: Settings) -> Any:
    """Return a weight matrix in NF4: fake codes, with the constants that bitsandbytes stores."""
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(
        torch.empty(weight.shape, dtype=getattr(torch, settings.compute_dtype)),
        blocksize=settings.block_size,
        compress_statistics=settings.double_quant,
        quant_type="nf4",
    )
    new: Any = nn.Parameter(codes, requires_grad=False)
    new.quant_state = state
    return new


def layers_of(model: Any) -> nn.ModuleList:
    """Return the transformer layers of a causal language model, with or without adapters."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    return next(lists)


# --- the losses -----------------------------------------------------------------------------------


def _loss(model: Any, settings: Settings, ids: Tensor) -> tuple[Tensor, Any]:
    """Return the loss of a batch, and everything else that the training loop keeps."""
    if settings.loss == "logits":
        output = model(input_ids=ids, labels=ids, use_cache=False)
        return output.loss, output if settings.keep_output else None
    if settings.loss == "answers":
        kept = torch.arange(settings.loss_tokens // settings.batch_size)
        logits = model(input_ids=ids, logits_to_keep=kept, use_cache=False).logits
        # With mixed precision, accelerate converts the model's output to float32.
        logits = logits.float() if settings.autocast else logits
        return _AnswerLoss.apply(logits.flatten(0, 1)), None
    base = model if settings.trains_weights else model.get_base_model()
    on_gpu = settings.device == "cuda"
    hidden = base.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    hidden = hidden.reshape(-1, hidden.shape[-1])
    # On a GPU, TRL copies the tokens that count in the loss. Here all tokens count.
    hidden = hidden.clone() if on_gpu else hidden
    counts = ids[:, 1:] >= 0
    targets = ids[:, 1:].clamp(min=0).flatten()
    made = _TiledLoss.apply(hidden, base.get_output_embeddings().weight, targets, on_gpu)
    outputs = [each.view(counts.shape).masked_fill(~counts, 0) for each in made]
    return -outputs[0].sum(), None


class _TiledLoss(torch.autograd.Function):
    """Allocates the same tensors that the loss of TRL's `SFTTrainer` allocates.

    TRL computes the logits of one tile at a time, first in the forward pass and again in the
    backward pass. On a GPU, a kernel changes the tile in place. On a CPU, each logit needs a mask
    of 1 B and several float32 copies. The forward pass needs up to 3 copies, the backward pass up
    to 7.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, on_gpu: bool) -> Any:
        autocast = torch.is_autocast_enabled("cpu")
        ctx.dtype = torch.get_autocast_dtype("cpu") if autocast else hidden.dtype
        ctx.on_gpu, tokens = on_gpu, len(hidden)
        running = torch.empty(7, tokens)
        _compute_tile(ctx, (hidden, weight), each=13, per_token=20)
        del running
        log_sums, log_probs, entropy = (torch.empty(tokens) for _ in range(3))
        is_best = torch.empty(tokens, dtype=torch.bool)
        ctx.save_for_backward(hidden, weight, targets, log_sums, entropy)
        ctx.mark_non_differentiable(is_best)
        ctx.set_materialize_grads(False)
        return log_probs, entropy, is_best

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        tensors = ctx.saved_tensors[:2]
        sums = [
            torch.zeros(tensor.shape) if needed else None
            for tensor, needed in zip(tensors, ctx.needs_input_grad, strict=False)
        ]
        gradient = gradient.float().contiguous()
        _compute_tile(ctx, tensors, each=29, sums=sums)
        return (
            *(s if s is None else s.to(t.dtype) for s, t in zip(sums, tensors, strict=True)),
            None,
            None,
        )


def _compute_tile(
    ctx: Any, tensors: tuple[Tensor, Tensor], each: int, per_token: int = 0, sums: Any = ()
) -> None:
    """Allocate the first tile, which is the largest, and the tensors that are computed from it."""
    hidden, weight = tensors
    rows, words = min(TILE[0], len(hidden)), min(TILE[1], len(weight))
    tile = torch.empty(rows, TILE[1], dtype=ctx.dtype)[:, :words]
    factors = weight[:words].to(ctx.dtype), hidden[:rows].to(ctx.dtype)
    if ctx.on_gpu:
        return
    work = torch.empty((each * words + per_token) * rows, dtype=torch.uint8)
    del work
    for total, part, factor in zip(sums, (tile, tile.t()), factors, strict=False):
        if total is not None:
            total[: len(part)].addmm_(part.float(), factor.float())


class _AnswerLoss(torch.autograd.Function):
    """Allocates the same tensors that `course_utils.training.loss` allocates."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits, torch.empty(len(logits)))
        ctx.rows = max(1, ANSWER_CHUNK // logits.shape[-1])
        logits[: ctx.rows].float()
        return torch.empty(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        logits, log_sums = ctx.saved_tensors
        parts = (tensor[: 2 * ctx.rows].split(ctx.rows) for tensor in (logits, log_sums))
        for z, log_sum in zip(*parts, strict=True):
            p = z.float() - log_sum[:, None]  # noqa: F841 - It exists until the next p does.
        return logits


# --- the step -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """The bytes (B) of a traced step.

    Attributes:
        permanent: The tensors in memory during the whole step: name → bytes. An example of a name
            is "adapters".
        phases: The other tensors in memory at the peak of each phase, in order: name of the phase →
            their bytes in each part. The parts are "gradients", "activations", LOGITS and WORK.
    """

    permanent: Mapping[str, int]
    phases: Mapping[str, Mapping[str, int]]


def run_step(config: PretrainedConfig, settings: Settings) -> Trace:
    """Trace the forward and backward pass of a micro-batch, with all layers of the model."""
    from bitsandbytes.functional import quantize_blockwise

    model = build(config, settings)
    # In this call, bitsandbytes makes a code book and keeps it for the rest of the process. So the
    # call must not run on fake tensors.
    quantize_blockwise(torch.zeros(1))
    with _numbers_known(), FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(model, settings)
        if settings.accumulation > 1:
            for parameter in _trained(model):
                parameter.grad = torch.empty_like(parameter)
        meter = _GpuMeter() if settings.device == "cuda" else TensorMeter()
        ids = torch.zeros(settings.batch_size, settings.sequence_length, dtype=torch.long)
        narrow = getattr(torch, settings.compute_dtype)
        autocast = torch.autocast("cpu", narrow) if settings.autocast else nullcontext()
        with _phases_marked(meter, model), meter:
            meter.begin(BEFORE)
            with autocast:
                loss, kept = _loss(model, settings, ids)
            meter.begin(LOSS_BACKWARD)
            loss.backward()
            meter.begin(UPDATE)
            del kept
        phases = {name: _by_part(name, made) for name, made in meter.peaks.items()}
        return Trace(_permanent(model, settings), phases)


def _numbers_known() -> Any:
    """Tell transformers that the batch is neither packed nor padded.

    transformers can't find this out from fake tensors.
    """
    from transformers import masking_utils

    needless = masking_utils._ignore_causal_mask_sdpa
    return patch.multiple(
        masking_utils,
        find_packed_sequence_indices=lambda *_: None,
        _ignore_causal_mask_sdpa=lambda _, *sizes, **options: needless(None, *sizes, **options),
    )


class _GpuMeter(TensorMeter):
    """Counts bytes as on a GPU: rounded, and with a tensor that only CUDA's softmax needs."""

    def __init__(self) -> None:
        super().__init__(rounded)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        scratch = None
        if operation is torch.ops.aten._softmax_backward_data.default:
            # On a GPU, the product of the gradient and the softmax needs an extra tensor.
            with self:
                scratch = torch.empty_like(args[0])
        result = super().__torch_dispatch__(operation, types, args, kwargs)
        del scratch
        return result


@contextmanager
def _phases_marked(meter: TensorMeter, model: Any) -> Iterator[None]:
    """Begin a phase of the meter at each layer's forward and backward pass, and at the loss."""
    layers = layers_of(model)
    in_forward = True

    def before(name: str, *_: Any) -> None:
        if in_forward:  # Checkpointing computes a layer again in the backward pass.
            meter.begin(name)

    def after_last(*_: Any) -> None:
        nonlocal in_forward
        before(LOSS)
        in_forward = False

    hooks = [layers[-1].register_forward_hook(after_last)]
    for n, layer in enumerate(layers, 1):
        hooks.append(layer.register_forward_pre_hook(partial(before, f"forward of layer {n}")))
    for parameter in _trained(model):
        on_gradient = parameter.register_post_accumulate_grad_hook
        hooks.append(on_gradient(lambda p: meter.count_as("gradients", p.grad)))
    try:
        with backward_marked(meter, None, layers):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _permanent(model: nn.Module, settings: Settings) -> dict[str, int]:
    """Return the bytes of the weights (by kind), adapters, gradients and optimizer states."""
    sizes: Counter[str] = Counter()
    seen: set[int] = set()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, nn.Parameter) and "lora_" not in name:
            sizes[PARAMETERS] += getattr(tensor, "quant_state", tensor).shape.numel()
        for kind, part in _tensors_of(name, tensor, settings):
            for key, storage in storages(part).items():
                if key not in seen:
                    seen.add(key)
                    sizes[kind] += storage.nbytes()
    # If other code reads a module's weight directly, the module's adapter gets no gradient.
    trained = [p for p in _trained(model) if p.grad is not None]
    optimizer = OPTIMIZERS[settings.optimizer]
    numbers = sum(p.numel() for p in trained)
    # transformers keeps some weights, such as routers, in float32. In the recipe "bf16", the
    # optimizer states of these weights are float32, too.
    states = sum(state_bytes(p.numel(), settings) * _widening(p, settings) for p in trained)
    books = 256 * 4 if optimizer.eight_bit else 0
    sizes["gradients"] = sum(p.nbytes for p in trained)
    sizes["optimizer"] = numbers * settings.precision.master + optimizer.states * (states + books)
    sizes[PAGED] = optimizer.states * sum(paged_bytes(p.numel(), settings) for p in trained)
    sizes[SCRATCH] = optimizer.scratch * numbers * settings.precision.state
    return dict(sizes)


def _widening(parameter: Tensor, settings: Settings) -> int:
    narrow = settings.precision.state == 2 and not OPTIMIZERS[settings.optimizer].eight_bit
    return parameter.element_size() // 2 if narrow else 1


def _tensors_of(name: str, tensor: Any, settings: Settings) -> Iterator[tuple[str, Tensor]]:
    """Yield one tensor of the model together with its kind.

    For an NF4 weight, also yield its constants and code books, each with its kind.
    """
    if state := getattr(tensor, "quant_state", None):
        yield "NF4 codes", tensor
        for part in filter(None, (state, state.state2)):
            yield "NF4 code books", part.code
            yield "NF4 constants", part.absmax
        if state.offset is not None:
            yield "NF4 code books", state.offset
    elif "lora_" in name:
        yield "adapters", tensor
    elif settings.method == "qlora":
        yield NOT_QUANTIZED if tensor.ndim > 2 else "not quantized", tensor
    else:
        yield "weights", tensor


def _by_part(phase: str, made: Mapping[str, int]) -> dict[str, int]:
    """Return how many bytes each part has at the peak of `phase`.

    `made` tells in which phase the tensors in memory were created: phase → bytes.
    """
    parts: Counter[str] = Counter()
    for maker, size in made.items():
        part = _PART_OF.get(maker, "activations")
        # The backward pass of a layer also needs what the layer stored.
        of_layer = maker == phase.replace("backward", "forward") != phase
        parts[WORK if of_layer or maker.startswith("backward") else part] += size
    return dict(parts)


# --- deep models ----------------------------------------------------------------------------------


def trace_step(config: PretrainedConfig, settings: Settings) -> Trace:
    """Trace a step of a model, but run as few of its layers as possible."""
    kinds = [_kind(layer) for layer in layers_of(_empty(config))]
    traced = None
    if found := _blocks(kinds):
        shallow, deeper = (_with_layers(config, found.layers(n)) for n in (1, 2))
        if [_kind(layer) for layer in layers_of(_empty(deeper))] == kinds[: found.layers(2)]:
            traced = _extended(run_step(shallow, settings), run_step(deeper, settings), found)
    traced = traced or run_step(config, settings)
    # Autocast's copies of all layers exist in the forward pass of the loss, but not in its backward
    # pass. So the number of layers can decide which pass needs more memory.
    phases = dict(traced.phases)
    phases[LOSS] = max(phases[LOSS], phases.pop(LOSS_BACKWARD), key=lambda p: sum(p.values()))
    return Trace(traced.permanent, phases)


@dataclass(frozen=True)
class Blocks:
    """How the `count` layers of a model repeat.

    The model begins with some layers that belong to no block; their number is `first`. Blocks of
    `size` layers follow, and then at least one more layer.
    """

    count: int
    first: int
    size: int

    @property
    def last(self) -> int:
        """The number of layers after the blocks."""
        return (self.count - self.first - 1) % self.size + 1

    def layers(self, blocks: int) -> int:
        """Return how many layers a model with `blocks` blocks has."""
        return self.first + blocks * self.size + self.last


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """Return what layers of one kind have in common: modules, settings, shapes and dtypes."""
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
    """Return the smallest block of layers that repeats, or None if blocks would save no time."""
    count = len(kinds)
    for size in range(1, count // 3):
        for first in range(1, count - 3 * size):
            found = Blocks(count, first, size)
            repeats = all(kinds[i] == kinds[i + size] for i in range(first, count - size))
            # Layers of the same kind share a mask, until the backward pass of the lowest of these
            # layers. So the blocks must not contain the lowest layer of a kind.
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
    """Compute the trace of a model from traces of two smaller models, with 1 and 2 of its blocks.

    Each further block adds a constant number of bytes to the phases of the lowest block, and
    another constant number to those of the highest block. For the blocks between the lowest and the
    highest, the bytes are interpolated linearly.
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
    for name in (LOSS, LOSS_BACKWARD):
        phases[name] = grown(shallow.phases[name], deeper.phases[name])
    phases |= {f"backward of layer {n}": of_layer("backward", n) for n in reversed(layers)}
    phases[UPDATE] = grown(shallow.phases[UPDATE], deeper.phases[UPDATE])
    return Trace(grown(shallow.permanent, deeper.permanent), {k: p for k, p in phases.items() if p})


def _on_line(
    start: Mapping[str, int], end: Mapping[str, int], passed: int, distance: int
) -> dict[str, int]:
    """Interpolate sizes linearly from `start` to `end`, at the fraction `passed` / `distance`."""
    pairs = {key: (start.get(key, 0), end.get(key, 0)) for key in {**start, **end}}
    return {key: a + (b - a) * passed // distance for key, (a, b) in pairs.items()}
