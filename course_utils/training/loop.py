"""QLoRA fine-tuning in one readable loop: a frozen 4-bit base and trainable low-rank adapters.

                   ┌─► W (out × in): NF4, frozen, dequantized on demand ─┐
    x (…, in) ─────┤                                                     ├─► sum ─► next layer
                   └─► A (r × in) ─► B (out × r) ─► × α/r ───────────────┘
                       └────── the only tensors with a gradient

The step is ours because it is what the course teaches. Accumulation, mixed precision (with a
GradScaler for float16), saved state and several processes are `accelerate`'s; the adapters are
`peft`'s.

References: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), LoRA (Hu et al. 2021, arXiv 2106.09685).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from course_utils import runtime
from course_utils.sft import IGNORE, Collator, Features, collator
from course_utils.training import distributed
from course_utils.training.fast_step import cross_entropy, fits, fused
from course_utils.validation import CourseError

WEIGHTS, STATE, TRAINABLE, PROGRESS = "adapters", "state", "trainable.safetensors", "progress.json"


@dataclass(frozen=True)
class Recipe:
    """Every choice of a QLoRA run; the defaults suit SmolLM2-135M, the news briefs and two cores.

    rank, alpha, dropout, targets: the adapters; the update is (alpha / rank) · B A on each target
        module.
    learning_rate: peak; it warms up over `warmup` (share of all steps), then decays to 0 as a
        cosine.
    micro_batch_size × accumulation: examples per optimizer step, in each process.
    epochs, max_steps: how long; max_steps wins where both are given.
    max_grad_norm: gradients are clipped to this norm. weight_decay: AdamW's.
    gradient_checkpointing: recompute each layer's activations in the backward pass instead of
        keeping them.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    learning_rate: float = 4e-3
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    micro_batch_size: int = 8
    accumulation: int = 1
    epochs: int = 1
    max_steps: int | None = None
    gradient_checkpointing: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("rank", "alpha", "micro_batch_size", "accumulation", "epochs")
        for name in counts + (("max_steps",) if self.max_steps is not None else ()):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}"
                )
        if not self.learning_rate > 0 or not self.max_grad_norm > 0:
            raise ValueError("learning_rate and max_grad_norm must be above 0")
        if not 0 <= self.warmup < 1 or not 0 <= self.dropout < 1:
            raise ValueError("warmup and dropout are shares: at least 0, below 1")

    def steps(self, examples: int, processes: int = 1) -> int:
        """Optimizer steps of the whole run over this many training examples."""
        per_epoch = math.ceil(examples / (self.micro_batch_size * self.accumulation * processes))
        return self.max_steps or self.epochs * per_epoch


@dataclass
class Run:
    """What a fine-tuning run leaves behind.

    history: one dict a step (step, loss, learning_rate, grad_norm, tokens, tokens_per_s, memory in
        B, and validation_loss where it was measured).
    adapters: folder of the last saved adapters, in peft's format.
    finished: False if it was interrupted; call `finetune` again with resume=True to go on.
    """

    history: list[dict] = field(default_factory=list)
    adapters: Path | None = None
    finished: bool = False

    def table(self):
        """The history as a pandas DataFrame indexed by step."""
        import pandas

        return pandas.DataFrame(self.history).set_index("step")


class TrainingError(CourseError):
    """Training can't go on; the message says why and where the last good adapters are."""


# -- the model -----------------------------------------------------------------------------------


def attach_adapters(model, recipe: Recipe, name: str = "default"):
    """Freeze the base model and put a LoRA adapter beside every target module.

    model: a transformers model, or a PeftModel, which gets one more adapter of this name and makes
    it active.

    Adapters are float32 whatever the base: 16 B per trainable parameter with Adam. peft's
    `prepare_model_for_kbit_training` is not used: it copies embedding, head and norms to float32,
    and nothing here needs them so.

    Returns the PeftModel. Raises ValueError if an adapter of this name exists already.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    runtime.seed_everything(recipe.seed)
    targets = recipe.targets if isinstance(recipe.targets, str) else list(recipe.targets)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    if name in getattr(model, "peft_config", ()):
        taken = sorted(model.peft_config)
        raise ValueError(f"the model already has an adapter {name!r}; it has {taken}")
    with _no_future_warnings():
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
            model.set_adapter(name)
        else:
            model = get_peft_model(model, config, adapter_name=name)
    strangers = [n for n in trainable_parameters(model) if f".{name}." not in n]
    assert not strangers, f"only the adapter {name!r} may be trainable, but so are {strangers[:3]}"
    return model


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name → parameter of everything that the optimizer will update."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def load_adapters(model, path: str | Path, name: str = "default"):
    """Put saved adapters on a fresh base model, or beside others on a PeftModel.

    Returns the PeftModel with these adapters active. Raises CourseError if `path` holds none.
    """
    from peft import PeftModel

    if not (Path(path) / "adapter_config.json").is_file():
        raise CourseError(f"no adapters in {path}: a folder with adapter_config.json is expected")
    with _no_future_warnings():
        if isinstance(model, PeftModel):
            model.load_adapter(str(path), adapter_name=name)
            model.set_adapter(name)
            return model
        return PeftModel.from_pretrained(model, str(path), adapter_name=name)


@contextmanager
def _no_future_warnings():
    """peft 0.21 reads an attribute that transformers 5.24 has renamed: no news for a student."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


# -- one step ------------------------------------------------------------------------------------


def answer_loss(model, batch: dict[str, Tensor]) -> Tensor:
    """Next-token loss, summed over the answer tokens of a batch.

    batch: of `sft.collate` or `sft.pack`. Position t predicts token t + 1, so the labels are
    shifted by one. Logits are computed only at positions whose next token carries loss: with 49,152
    words, the logits of whole prompts would be the largest tensor of the step. Padding on the left
    does not count as a position.
    """
    targets = batch["labels"][:, 1:]  # (batch, length - 1)
    columns = (targets != IGNORE).any(dim=0).nonzero().squeeze(1)  # (kept,)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if "attention_mask" in batch:
        inputs["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    # logits: (batch, kept, vocabulary)
    return cross_entropy(logits.flatten(0, 1), targets[:, columns].flatten())


def count_tokens(batch: dict[str, Tensor]) -> Tensor:
    """How many tokens of a batch are read, as an int64 scalar tensor; padding doesn't count."""
    return batch["attention_mask"].sum() if "attention_mask" in batch else batch["lengths"].sum()


def count_answer_tokens(batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """How many tokens of these batches carry loss, as an int64 scalar tensor."""
    return sum((batch["labels"][:, 1:] != IGNORE).sum() for batch in batches)


def training_step(accelerator, model, optimizer, batches: Sequence[dict], recipe: Recipe) -> dict:
    """One optimizer step over a few micro-batches: forward, backward, clip, update.

    The loss is the mean over all answer tokens of all micro-batches and processes, so that
    accumulating saves memory and changes nothing else.

    Returns loss, grad_norm and the number of tokens read. Raises FloatingPointError, with the
    weights untouched, if the loss or (outside float16) a gradient is not finite.
    """
    answer_tokens = accelerator.reduce(count_answer_tokens(batches), reduction="sum")
    scale = (
        accelerator.num_processes / answer_tokens
    )  # gradients are averaged over processes: undo that
    loss_sum = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches, start=1):
        last = number == len(batches)
        with nullcontext() if last else accelerator.no_sync(model):
            loss = answer_loss(model, batch)
            runtime.trim_heap()  # the backward pass would not fit in the gaps
            accelerator.backward(loss * scale)
        loss_sum += loss.detach()
    loss_mean = (accelerator.reduce(loss_sum, reduction="sum") / answer_tokens).item()
    norm = float(accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm))
    scaled = (
        accelerator.scaler is not None
    )  # float16: the scaler itself skips a step whose gradients overflow
    if not math.isfinite(loss_mean) or not (scaled or math.isfinite(norm)):
        optimizer.zero_grad()
        raise FloatingPointError(f"the loss is {loss_mean} and the gradient norm is {norm}")
    optimizer.step()
    optimizer.zero_grad()
    tokens = accelerator.reduce(sum(map(count_tokens, batches)), reduction="sum")
    return {"loss": loss_mean, "grad_norm": norm, "tokens": tokens.item()}


def make_optimizer(model, recipe: Recipe, paged: bool = True) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters: paged, 8-bit on CUDA (QLoRA, section 3), else torch's.

    paged: False takes torch's on CUDA too. Raises ValueError if nothing is trainable.
    """
    parameters = list(trainable_parameters(model).values())
    if not parameters:
        raise ValueError("the model has no trainable parameter: call attach_adapters first")
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if paged and parameters[0].device.type == "cuda":
        from bitsandbytes.optim import PagedAdamW8bit

        return PagedAdamW8bit(parameters, **settings)
    return torch.optim.AdamW(parameters, **settings)


@torch.no_grad()
def mean_loss(accelerator, model, batches: Iterable[dict]) -> float:
    """Mean loss per answer token over some batches, in eval mode; the model's mode is restored."""
    was_training = model.training
    model.eval()
    batches = list(batches)
    total = accelerator.reduce(sum(answer_loss(model, batch) for batch in batches), reduction="sum")
    count = accelerator.reduce(count_answer_tokens(batches), reduction="sum")
    model.train(was_training)
    return (total / count).item()


# -- checkpoints ---------------------------------------------------------------------------------


class Checkpoints:
    """Saved states of one run: `FOLDER/step-000040/` with `adapters/` (peft's format) and `state/`.

    A checkpoint is written beside its final name and renamed when complete, and only then are older
    ones removed: a full disk or a crash while saving never costs the last good one.
    """

    def __init__(self, folder: Path, accelerator, model, recipe: Recipe, examples: int):
        self.folder, self.accelerator, self.model = folder, accelerator, model
        processes = accelerator.num_processes  # others would read other examples
        self.fingerprint = asdict(recipe) | {"examples": examples, "processes": processes}
        self.newest: Path | None = None
        accelerator.register_save_state_pre_hook(self._save_trainable)
        accelerator.register_load_state_pre_hook(self._load_trainable)

    @property
    def weights(self) -> Path | None:
        """Folder that `load_adapters` takes, of the newest checkpoint."""
        if self.newest is None:
            return None
        name = getattr(self.model, "active_adapter", "default")
        folder = self.newest / WEIGHTS
        return (
            folder / name if (folder / name).is_dir() else folder
        )  # peft: "default" stands in the folder itself

    def save(self, history: list[dict]) -> None:
        """Write a complete checkpoint, or raise TrainingError that names the last good one."""
        final = self.folder / f"step-{len(history):06d}"
        aside = final.with_suffix(".partial")
        try:
            if self.accelerator.is_main_process:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(aside / STATE))
            weights = distributed.gathered(self.accelerator)
            self.accelerator.wait_for_everyone()  # each process has written a part of the state
            if self.accelerator.is_main_process:
                self._save_weights(aside / WEIGHTS, weights)
                progress = {"fingerprint": self.fingerprint, "history": history}
                (aside / PROGRESS).write_text(json.dumps(progress))
                shutil.rmtree(final, ignore_errors=True)
                os.replace(aside, final)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise TrainingError(
                f"could not save to {final}: {error}. {self._last_good()}"
            ) from error
        self.newest = final
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            for old in set(self.folder.glob("step-*")) - {final}:
                shutil.rmtree(old, ignore_errors=True)

    def restore(self) -> list[dict]:
        """Load the newest checkpoint into model, optimizer and schedule; returns its history.

        Where there is none the history is empty. Raises TrainingError if the
        checkpoint is of another recipe or number of examples: it could not be continued exactly.
        """
        complete = sorted(path.parent for path in self.folder.glob(f"step-*[0-9]/{PROGRESS}"))
        if not complete:
            return []
        progress = json.loads((complete[-1] / PROGRESS).read_text())
        now = json.loads(json.dumps(self.fingerprint))
        changed = [
            f"{k} was {progress['fingerprint'].get(k)}, is {now[k]}"
            for k in now
            if progress["fingerprint"].get(k) != now[k]
        ]
        if changed:
            raise TrainingError(
                f"{complete[-1]} can't be resumed, its run differs: {'; '.join(changed)}"
            )
        self.accelerator.load_state(str(complete[-1] / STATE))
        self.newest = complete[-1]
        return progress["history"]

    def rescue(self, history: list[dict], why: str) -> str:
        """Save the weights as they were before the failed step, if sound; returns what to say."""
        message = f"training stopped at step {len(history) + 1}: {why}. "
        if history and all(p.isfinite().all() for p in trainable_parameters(self.model).values()):
            self.save(history)
        return (
            message + self._last_good() + " A lower learning_rate or a look at the data may help."
        )

    def _last_good(self) -> str:
        if self.newest is None:
            return "No adapters were saved before."
        return f"The last good adapters are in {self.weights}."

    def _save_weights(self, folder: Path, weights: dict[str, Tensor] | None) -> None:
        if weights is not None:
            return distributed.save_gathered(self.model, weights, folder)
        extra = {"save_embedding_layers": False} if hasattr(self.model, "peft_config") else {}
        self.model.save_pretrained(str(folder), **extra)

    def _save_trainable(self, models, weights, folder) -> None:
        """accelerate's hook: of the model, keep what is trained; the frozen base is on disk."""
        weights.clear()
        if self.accelerator.is_main_process and not distributed.sharded(
            self.accelerator
        ):  # FSDP has saved it
            tensors = {
                n: p.detach().contiguous() for n, p in trainable_parameters(self.model).items()
            }
            save_file(tensors, str(Path(folder) / TRAINABLE))

    def _load_trainable(self, models, folder) -> None:
        models.clear()
        if distributed.sharded(self.accelerator):
            return
        saved = load_file(str(Path(folder) / TRAINABLE))
        with torch.no_grad():
            for name, parameter in trainable_parameters(self.model).items():
                parameter.copy_(saved[name])


# -- the whole run -------------------------------------------------------------------------------


def finetune(
    model,
    tokenizer,
    train: Sequence[Features],
    validation: Sequence[Features] = (),
    *,
    recipe: Recipe | None = None,
    output_dir: str | Path = "checkpoints",
    resume: bool = False,
    validate_every: int | None = None,
    save_every: int | None = None,
    compute_dtype: torch.dtype | None = None,
    fast: bool | None = None,
    on_step: Callable[[list[dict]], None] | None = None,
) -> Run:
    """Train what in `model` requires a gradient: a PeftModel's adapters, or a whole plain model.

    train, validation: tokenized conversations (`sft.encode_all`).
    output_dir: checkpoints are written here, the newest is kept; earlier ones of another run are
        replaced by the first of this run.
    resume: go on from the newest checkpoint: same losses as a run that was never interrupted, to
        the last bit if the number of threads is the same (`course_utils.threads`).
    validate_every, save_every: in steps; the default is at the end only.
    compute_dtype: of autocast; the default is the 4-bit layers' own, else
        `runtime.compute_dtype()`.
    fast: train with `fused`, without autocast and padding; the default is True where the model
        fits and no compute_dtype is given. It changes no result but by rounding.
    on_step: called after each step with the history so far (for a live picture).

    An interrupt (Ctrl-C, or Jupyter's stop button) ends the run after saving; `finished` is then
    False. Several processes end at once instead, and save_every's last checkpoint is what remains.
    Raises ValueError for bad input, and TrainingError when the loss is no longer finite, or when
    saving fails: the message says where the last good adapters are.
    """
    recipe = recipe or Recipe()
    if not len(train):
        raise ValueError("there are no training examples")
    if fast and not fits(model):
        raise ValueError("fast=True is for a Llama with LoRA on NF4 layers, on a CPU: leave it out")
    if fast is None:
        fast = compute_dtype is None and fits(model) and not distributed.fsdp_wanted()
    computing = partial(fused, model) if fast else nullcontext
    accelerator = _accelerator(model, recipe, torch.float32 if fast else compute_dtype)
    checkpoints = Checkpoints(Path(output_dir), accelerator, model, recipe, len(train))
    runtime.seed_everything(recipe.seed)
    set_checkpointing(model, recipe.gradient_checkpointing)
    steps = recipe.steps(len(train), accelerator.num_processes)
    wrapped = accelerator.prepare_model(model, device_placement=False)  # load_base has placed it
    optimizer = make_optimizer(wrapped, recipe, paged=not distributed.sharded(accelerator))
    schedule = get_cosine_schedule_with_warmup(optimizer, round(recipe.warmup * steps), steps)
    accelerator.register_for_checkpointing(schedule)
    batches_of = partial(_loader, accelerator, recipe, collator(tokenizer, packed=fast))
    loader, held_out = batches_of(train, shuffle=True), batches_of(validation)
    optimizer = accelerator.prepare_optimizer(optimizer)
    run = Run(history=checkpoints.restore() if resume else [])
    bar = tqdm(
        total=steps, initial=len(run.history), unit="step", disable=not accelerator.is_main_process
    )
    try:
        wrapped.train()
        for batches in _micro_batches(accelerator, loader, recipe, len(run.history), steps):
            begun = time.perf_counter()
            learning_rate = schedule.get_last_lr()[0]
            # dropout depends on seed, step and process only: not on the past, nor on a validation
            torch.manual_seed(
                (recipe.seed * 2**20 + len(run.history)) * accelerator.num_processes
                + accelerator.process_index
            )
            with computing():
                record = training_step(accelerator, wrapped, optimizer, batches, recipe)
            if not optimizer.step_was_skipped:
                schedule.step()
            step = len(run.history) + 1
            record |= {
                "step": step,
                "learning_rate": learning_rate,
                "memory": runtime.current_memory(),
            }
            record["tokens_per_s"] = record["tokens"] / (time.perf_counter() - begun)
            if held_out is not None and (
                step == steps or validate_every and step % validate_every == 0
            ):
                with computing():
                    record["validation_loss"] = mean_loss(accelerator, wrapped, held_out)
            runtime.trim_heap()
            run.history.append(record)
            bar.set_postfix_str(
                f"loss {record['loss']:.3f}, {record['tokens_per_s']:.0f} tokens/s", refresh=False
            )
            bar.update()
            if on_step and accelerator.is_main_process:
                on_step(run.history)
            if step == steps or save_every and step % save_every == 0:
                checkpoints.save(run.history)
        run.finished = True
    except KeyboardInterrupt:
        if accelerator.num_processes > 1:
            raise  # the others may be in another step, so there is nothing to save together
        optimizer.zero_grad()
        checkpoints.save(run.history)
        done = f"Interrupted after step {len(run.history)} of {steps}"
        accelerator.print(
            f"{done}: adapters kept in {checkpoints.newest}; resume=True goes on from there."
        )
    except FloatingPointError as error:
        raise TrainingError(checkpoints.rescue(run.history, str(error))) from error
    finally:
        bar.close()
        accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
        accelerator.free_memory()
        runtime.release_memory()
    run.adapters = checkpoints.weights
    return run


def set_checkpointing(model, on: bool) -> None:
    """Switch gradient checkpointing of a transformers model or PeftModel on or off."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = (
        "activation" if hasattr(base, "activation_checkpointing_enable") else "gradient"
    )  # its name before 5.24
    if on:
        # without reentrance, frozen embeddings need no gradient of their own
        getattr(base, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(base, f"{kind}_checkpointing_disable")()


def _accelerator(model, recipe: Recipe, compute_dtype: torch.dtype | None):
    """An Accelerator whose autocast computes in the model's compute dtype."""
    from accelerate import Accelerator, DataLoaderConfiguration
    from accelerate.state import AcceleratorState

    if compute_dtype is None:
        layers = (
            module.compute_dtype for module in model.modules() if hasattr(module, "compute_dtype")
        )
        compute_dtype = next(layers, None) or runtime.compute_dtype(next(model.parameters()).device)
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "no"}[compute_dtype]
    if not distributed.fsdp_wanted():  # whose state can't be made a second time
        AcceleratorState._reset_state()  # an earlier run may have used another precision
    accelerator = Accelerator(
        cpu=next(model.parameters()).device.type == "cpu" and not distributed.fsdp_wanted(),
        mixed_precision=precision,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.seed),
    )
    if distributed.sharded(accelerator):
        distributed.make_ready_for_fsdp(accelerator.state.fsdp_plugin, model)
    return accelerator


def _loader(
    accelerator, recipe: Recipe, collate_fn: Collator, features: Sequence, shuffle: bool = False
) -> DataLoader | None:
    if not len(features):
        return None
    order = RandomSampler(features) if shuffle else SequentialSampler(features)
    batches = distributed.EvenBatches(order, recipe.micro_batch_size, accelerator.num_processes)
    data = DataLoader(
        [*features, None],
        batch_sampler=batches,
        collate_fn=partial(distributed.collated, collate_fn),
    )
    return accelerator.prepare(data)


def _micro_batches(
    accelerator, loader, recipe: Recipe, done: int, steps: int
) -> Iterator[list[dict]]:
    """The micro-batches of each step from step `done` on; each epoch has its own seeded order."""
    epoch, done_here = divmod(done, math.ceil(len(loader) / recipe.accumulation))
    while done < steps:
        loader.set_epoch(epoch)
        batches = iter(accelerator.skip_first_batches(loader, done_here * recipe.accumulation))
        while done < steps and (group := list(islice(batches, recipe.accumulation))):
            yield group
            done += 1
        epoch, done_here = epoch + 1, 0
