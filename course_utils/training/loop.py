"""Fine-tune with QLoRA in one readable loop: freeze the 4-bit base model and train adapters.

                   ┌─► W (out × in): NF4, frozen, dequantized on demand ─┐
    x (…, in) ─────┤                                                     ├─► sum ─► next layer
                   └─► A (r × in) ─► B (out × r) ─► × α/r ───────────────┘
                       └────── the only tensors with a gradient

The loop and its step are written out, because the course teaches them. The library `accelerate`
provides mixed precision and saved states. The library `peft` provides the adapters.

References: QLoRA (Dettmers et al. 2023, arXiv 2305.14314), LoRA (Hu et al. 2021, arXiv 2106.09685).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from course_utils.machine import runtime, threads
from course_utils.machine.units import format_bytes
from course_utils.sft import Features, collator
from course_utils.training import by_hand
from course_utils.training.adapters import set_checkpointing
from course_utils.training.batches import Batches
from course_utils.training.checkpoints import Checkpoints, TrainingError
from course_utils.training.precision import default_dtype, make_accelerator
from course_utils.training.recipe import Recipe
from course_utils.training.step import make_optimizer, mean_loss, training_step

if TYPE_CHECKING:
    from pandas import DataFrame
    from pandas.io.formats.style import Styler
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# All arguments after `validation` are optional and can be given only by name.
def finetune(  # noqa: PLR0913
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Features],
    validation: Sequence[Features] = (),
    *,
    recipe: Recipe | None = None,
    output_dir: str | Path = "checkpoints",
    resume: bool = False,
    on_step: Callable[[list[dict]], None] | None = None,
) -> Run:
    """Train all parameters of a model that need a gradient, and return the run.

    In a PeftModel, these parameters are the adapters. Ctrl-C or Jupyter's stop button saves a
    checkpoint and ends the run.

    Args:
        model: The model to train, for example the result of `attach_adapters`.
        tokenizer: The tokenizer of the model, which provides the padding token.
        train: Tokenized conversations (`sft.encode_all`).
        validation: Tokenized conversations. If empty, nothing is validated.
        output_dir: Folder of the checkpoints. A new checkpoint replaces the older checkpoints.
        resume: Whether to continue from the newest checkpoint. The losses then equal the
            losses of an uninterrupted run. The losses agree to the last bit if the two runs use the
            same number of threads (`course_utils.machine.threads`).
        on_step: Function that is called after each step with the history up to this step, for
            example to plot the history.

    Raises:
        TrainingError: The loss or a gradient is not finite, or a checkpoint cannot be saved or
            resumed.
    """
    recipe = recipe or Recipe()
    trainer = Trainer(model, tokenizer, train, validation, recipe)
    checkpoints = Checkpoints(output_dir, trainer.accelerator, model, trainer.fingerprint)
    run = Run(history=checkpoints.restore() if resume else [])
    with trainer.running(run, checkpoints) as progress:
        for step in range(len(run.history) + 1, trainer.steps + 1):
            record = trainer.step(step)
            run.history.append(record)
            progress.show(record)
            if len(validation) and trainer.is_due(recipe.validate_every, step):
                record["validation_loss"] = trainer.evaluate()
            if on_step:
                on_step(run.history)
            if trainer.is_due(recipe.save_every, step):
                checkpoints.save(run.history)
    # The optimizer's state goes before memory is released.
    del trainer, checkpoints, progress
    runtime.release_memory()
    return run


@dataclass
class Run:
    """The result of a fine-tuning run.

    Attributes:
        history: One dict per step with the keys step, loss (in nats per answer token),
            learning_rate, grad_norm, tokens, tokens_per_s and memory (in bytes). Steps after which
            the model was validated also have the key validation_loss. If grad_norm is infinite or
            NaN, a gradient overflowed in float16, and the step was skipped: it changed no weight.
        adapters: Folder of the last saved adapters, in peft's format.
        finished: Whether the run completed all steps. An interrupted run can be continued by
            `finetune` with resume=True.
    """

    history: list[dict] = field(default_factory=list)
    adapters: Path | None = None
    finished: bool = False

    def table(self) -> DataFrame:
        """Return the history as a pandas DataFrame, indexed by step."""
        import pandas

        return pandas.DataFrame(self.history).set_index("step")

    def report(self, steps: Sequence[int]) -> Styler:
        """Return a table for readers of some steps, with units and only digits that matter."""
        table = self.table().loc[list(steps)].rename(columns={"tokens_per_s": "tokens/s"})
        table.columns = table.columns.str.replace("_", " ")
        return table.style.format(
            {
                "loss": "{:.3f} nats",
                "validation loss": "{:.3f} nats",
                "learning rate": "{:.2g}",
                "grad norm": "{:.2f}",
                "tokens": "{:,}",
                "tokens/s": "{:,.0f}",
                "memory": format_bytes,
            },
            na_rep="",
        )


class Trainer:
    """The model, data, optimizer and learning-rate schedule of one run.

    Attributes:
        steps: Number of optimizer steps of the whole run.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        train: Sequence[Features],
        validation: Sequence[Features],
        recipe: Recipe,
    ):
        if not len(train):
            raise ValueError("there are no training examples")
        self.model, self.recipe = model, recipe
        fast = _use_by_hand(model, recipe)
        # `by_hand` casts tensors itself, so autocast is turned off by the dtype float32.
        dtype = torch.float32 if fast else recipe.compute_dtype
        self.accelerator = make_accelerator(model, dtype)
        self.steps = recipe.steps(len(train))
        self.steps_per_epoch = recipe.steps_per_epoch(len(train))
        self.fingerprint = recipe.fingerprint() | {
            "examples": len(train),
            "mixed_precision": self.accelerator.mixed_precision,
        }
        runtime.seed_everything(recipe.seed)
        set_checkpointing(model, bool(recipe.gradient_checkpointing))
        # `load_base` has already placed the model on its device.
        self.wrapped = self.accelerator.prepare_model(model, device_placement=False)
        checkpointing = recipe.gradient_checkpointing
        if fast and checkpointing == "some" and by_hand.dtype_of(model) == torch.float32:
            checkpointing = True  # The products would need twice as much memory as in 16 bits.
        self.by_hand = by_hand.LlamaByHand(model, checkpointing) if fast else None
        self._prepare_optimizer()
        collate = collator(tokenizer, packed=fast)
        size, device = recipe.micro_batch_size, self.accelerator.device
        self.train = Batches(train, collate, size, device, recipe.seed)
        self.validation = Batches(validation, collate, size, device)

    def _prepare_optimizer(self) -> None:
        optimizer = make_optimizer(self.wrapped, self.recipe, fused=self.by_hand is not None)
        warmup = round(self.recipe.warmup * self.steps)
        self.schedule = get_cosine_schedule_with_warmup(optimizer, warmup, self.steps)
        self.accelerator.register_for_checkpointing(self.schedule)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)

    def step(self, number: int) -> dict:
        """Run optimizer step `number`, counted from 1, and return its record for the history."""
        threads.adapt()
        batches = self._batches_of(number)
        self._seed_dropout(number)
        learning_rate = self.schedule.get_last_lr()[0]
        started = time.perf_counter()
        record = training_step(
            self.accelerator, self.wrapped, self.optimizer, batches, self.recipe, self.by_hand
        )
        if not self.optimizer.step_was_skipped:
            self.schedule.step()
        elif number == self.steps and self.schedule.last_epoch == 0:
            raise FloatingPointError(
                "the gradients of every step overflowed in float16, so no step changed the "
                "weights. Train in float32 with compute_dtype=torch.float32"
            )
        record |= {"step": number, "learning_rate": learning_rate}
        record["memory"] = runtime.current_memory()
        record["tokens_per_s"] = record["tokens"] / (time.perf_counter() - started)
        return record

    def evaluate(self) -> float:
        """Return the mean loss over the validation examples, in nats per answer token."""
        batches = self.validation.epoch()
        loss = mean_loss(self.accelerator, self.wrapped, batches, self.by_hand)
        runtime.trim_heap()
        return loss

    def is_due(self, every: int | None, step: int) -> bool:
        """Return whether `step` is the last step of the run or a multiple of `every`."""
        return step == self.steps or (every is not None and step % every == 0)

    @contextmanager
    def running(self, run: Run, checkpoints: Checkpoints) -> Iterator[_Progress]:
        """Save a checkpoint if the training loop in the with block is interrupted or a step fails.

        At the end, the progress bar is closed and the memory that the steps used is freed.
        """
        bar = _Progress(total=self.steps, initial=len(run.history), unit="step")
        try:
            self.wrapped.train()
            with threads.sharing_cores():
                yield bar
            run.finished = True
        except KeyboardInterrupt:
            self.optimizer.zero_grad()
            checkpoints.save(run.history)
            print(
                f"Interrupted after step {len(run.history)} of {self.steps}: the adapters are in "
                f"{checkpoints.newest}; resume=True continues from there."
            )
        except FloatingPointError as error:
            raise TrainingError(checkpoints.save_after_failure(run.history, str(error))) from error
        finally:
            bar.close()
            self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
            self.accelerator.free_memory()
            self.by_hand = None
            runtime.release_memory(collect=False)
        run.adapters = checkpoints.weights

    def _batches_of(self, step: int) -> list[dict]:
        """Return the micro-batches of a step, which do not depend on earlier steps."""
        epoch, earlier = divmod(step - 1, self.steps_per_epoch)
        accumulation = self.recipe.accumulation
        return list(islice(self.train.epoch(epoch, start=earlier * accumulation), accumulation))

    def _seed_dropout(self, step: int) -> None:
        """Set a random seed that a resumed run, which has no earlier steps, also has."""
        torch.manual_seed(self.recipe.seed * 2**20 + step - 1)


class _Progress(tqdm):
    """A progress bar that counts steps and shows the loss and the speed of the last step."""

    def show(self, record: dict) -> None:
        text = f"loss {record['loss']:.3f}, {record['tokens_per_s']:.0f} tokens/s"
        self.set_postfix_str(text, refresh=False)
        self.update()


def _use_by_hand(model: PreTrainedModel | PeftModel, recipe: Recipe) -> bool:
    """Return whether to train with `by_hand` instead of autograd (see `Recipe.fast`)."""
    possible = by_hand.supports(model)
    if recipe.fast and not possible:
        raise ValueError(
            "fast=True needs a Llama model on a CPU, with LoRA adapters without dropout, and "
            "products in float32 or bfloat16: leave out fast=True to train this model"
        )
    if recipe.fast is not None:
        return recipe.fast
    same = possible and by_hand.dtype_of(model) == default_dtype(model)
    return same and recipe.compute_dtype is None
