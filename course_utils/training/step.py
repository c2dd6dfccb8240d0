"""Run one optimizer step: forward pass, loss on answers, backward pass, clipping and update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.sft import IGNORE
from course_utils.training.adapters import trainable_parameters
from course_utils.training.loss import cross_entropy
from course_utils.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    from course_utils.training.by_hand import LlamaByHand


def answer_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the next-token loss in nats, a scalar tensor, summed over a batch's answer tokens.

    The batch is a result of `sft.collate` or `sft.pack`.
    """
    logits, targets = answer_logits(model, batch)
    return cross_entropy(logits.flatten(0, 1), targets.flatten())


def answer_logits(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the logits from which answer tokens are predicted, and these tokens as targets.

    Position t predicts token t + 1, so the labels are shifted by one. Logits are computed only at
    positions whose next token is an answer token in at least one row, because with a vocabulary of
    49,152 tokens, the logits of whole prompts would be the largest tensor of the step. Positions
    are counted without the padding on the left.

    Returns:
        logits, (batch, kept, vocabulary), and targets, (batch, kept). A target is -100 where the
        next token of this row is no answer token.
    """
    targets = batch["labels"][:, 1:]  # (batch, length - 1)
    columns = (targets != IGNORE).any(dim=0).nonzero().squeeze(1)  # (kept,)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if "attention_mask" in batch:
        inputs["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    return logits, targets[:, columns]


def count_tokens(batch: dict[str, Tensor]) -> Tensor:
    """Return the number of tokens in a batch, not counting padding, as an int64 scalar tensor."""
    if "attention_mask" in batch:
        return batch["attention_mask"].sum()
    return (batch["lengths"] + 1).sum()  # `pack` leaves out the last token of each example


def count_answer_tokens(batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """Return the number of answer tokens in `batches`, as an int64 scalar tensor."""
    return torch.stack([(batch["labels"][:, 1:] != IGNORE).sum() for batch in batches]).sum()


def training_step(  # noqa: PLR0913
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: AcceleratedOptimizer,
    batches: Sequence[dict[str, Tensor]],
    recipe: Recipe,
    by_hand: LlamaByHand | None = None,
) -> dict:
    """Run one optimizer step over a few micro-batches: forward, backward, clip, update.

    The loss is the mean over all answer tokens of all micro-batches. So several small micro-batches
    give the same result as one large batch, and need less memory.

    Args:
        accelerator: The Accelerator of the run, which has prepared the model and the optimizer.
        batches: The micro-batches of the step: results of `sft.collate`, or of `sft.pack`.
        recipe: The recipe whose max_grad_norm is used.
        by_hand: If given, it computes the losses and gradients instead of autograd. Then the
            micro-batches must be packed.

    Returns:
        A dict with loss (in nats per answer token), grad_norm (before clipping, and not finite if
        the step was skipped) and tokens (the number of tokens in all micro-batches, not counting
        padding).

    Raises:
        FloatingPointError: The loss or the gradient norm is not finite. The weights are unchanged.
            A gradient norm that is not finite is no error while a gradient scaler multiplies the
            loss by more than 1, as in float16. Then the scaler skips the step and halves the scale.
    """
    answer_tokens = count_answer_tokens(batches)
    loss_sum = torch.zeros((), device=accelerator.device)
    for batch in batches:
        if by_hand:
            loss_sum += by_hand.backward(batch, 1 / answer_tokens)
            continue
        loss = answer_loss(model, batch)
        accelerator.backward(loss * (1 / answer_tokens))
        loss_sum += loss.detach()
    loss_mean = (loss_sum / answer_tokens).item()
    norm = float(accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm))
    # With a scale of 1 or less, the gradient would also overflow without a scaler.
    may_overflow = accelerator.scaler is not None and accelerator.scaler.get_scale() > 1
    if not math.isfinite(loss_mean) or not (math.isfinite(norm) or may_overflow):
        optimizer.zero_grad()
        raise FloatingPointError(f"the loss is {loss_mean} and the gradient norm is {norm}")
    optimizer.step()
    optimizer.zero_grad()
    tokens = sum(count_tokens(batch).item() for batch in batches)
    return {"loss": loss_mean, "grad_norm": norm, "tokens": tokens}


@torch.no_grad()
def mean_loss(
    accelerator: Accelerator,
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    by_hand: LlamaByHand | None = None,
) -> float:
    """Return the mean loss over all batches, in nats per answer token.

    The loss is computed in eval mode. Afterwards the model returns to its previous mode.
    """
    batches = list(batches)
    if not batches:
        raise ValueError("the mean loss needs at least one batch")
    was_training = model.training
    model.eval()
    one = by_hand.losses if by_hand else partial(answer_loss, model)
    losses = (one(batch).sum() for batch in batches)
    loss_sum = sum(losses, start=torch.zeros((), device=accelerator.device))
    model.train(was_training)
    return (loss_sum / count_answer_tokens(batches)).item()


def make_optimizer(
    model: nn.Module, recipe: Recipe, *, fused: bool = False
) -> torch.optim.Optimizer:
    """Return an AdamW optimizer for the trainable parameters.

    On CUDA, the optimizer is paged, as in QLoRA (Dettmers et al. 2023, section 3), and has 8-bit
    states. On other devices, the optimizer is PyTorch's AdamW.

    Args:
        recipe: Its learning_rate and weight_decay are used.
        fused: Whether one kernel of PyTorch's AdamW updates all parameters. For the adapters of
            SmolLM2-135M, this kernel needs 5 ms on two cores instead of 25 ms. Don't combine it
            with a gradient scaler: accelerate then doesn't notice skipped steps.
    """
    parameters = list(trainable_parameters(model).values())
    if not parameters:
        raise ValueError("the model has no trainable parameter: call attach_adapters first")
    options: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if parameters[0].device.type == "cuda":
        from bitsandbytes.optim import PagedAdamW8bit

        return PagedAdamW8bit(parameters, **options)
    return torch.optim.AdamW(parameters, fused=fused, **options)
