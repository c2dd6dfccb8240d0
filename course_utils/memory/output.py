"""Compute the bytes of the last normalization layer, the output layer and the loss.

The loss decides how many logits exist at a time. Let t be the number of tokens in a micro-batch, n
the number of tokens whose next token counts in the loss, and V the size of the vocabulary:

    logits     t × V logits, their softmax in float32, and the gradients of logits and softmax
    answers    n × V logits, and float32 copies of a few logits; the gradient overwrites the logits
    tiled      the logits of up to 4,096 tokens and 32,768 vocabulary tokens

Memory can peak at one of these moments: in the forward pass of the loss, in the backward pass of
the loss, when a gradient of the output layer's weights is computed or converted, or in the backward
pass of the last normalization layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from course_utils.memory.activations import (
    AUTOCAST,
    AUTOGRAD,
    WEIGHTS,
    freed_copies,
    norm,
    norm_backward,
)
from course_utils.memory.allocator import fresh_block
from course_utils.memory.plan import Plan
from course_utils.memory.settings import ANSWER_CHUNK, TILE
from course_utils.memory.terms import LOGITS, MemoryTerm, added, of, product, total_bytes

CROSS_ENTROPY = "cross entropy"
TRL, COURSE = "TRL's tiled loss", "course_utils.training.loss"

_term = partial(product, "transient", group=LOGITS)
_saved = partial(product, "activations")


def output_saved(plan: Plan) -> list[MemoryTerm]:
    """Return what the last norm, the output layer and the loss store for the backward pass."""
    return [norm(plan, "last norm"), *_head_saved(plan), *_loss_saved(plan)]


# --- what autograd stores -------------------------------------------------------------------------


def _head_saved(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the output layer's input and, under autocast, a 16-bit copy of the layer's weights."""
    settings, n, h = plan.settings, plan.settings.loss_tokens, plan.shape.hidden
    each = settings.stream_bytes
    if settings.loss == "tiled":
        # A single sequence without its last token is a view, so all its tokens stay in memory.
        n = n if settings.batch_size > 1 or settings.device == "cuda" else plan.tokens
        yield _saved("input of the head", TRL, n, h, each)
        return
    if settings.trains_weights:
        each = 2 if settings.autocast else each
        yield _saved("input of the head", WEIGHTS, n, h, each)
    if settings.loss == "answers":
        yield _saved("places of the answers", COURSE, n // settings.batch_size, 8)
    if copied := plan.head_copy:
        yield _saved("16-bit copy of the head", AUTOCAST, copied, 2)


def _loss_saved(plan: Plan) -> Iterator[MemoryTerm]:
    n = plan.settings.loss_tokens
    if plan.settings.loss == "logits":
        yield _saved("softmax of logits", CROSS_ENTROPY, *_counts(plan), 4)
    elif plan.settings.loss == "answers":
        yield _saved("logits", COURSE, *_counts(plan), plan.logit_bytes)
        yield _saved("logarithms of sums", COURSE, n, 4)
    else:
        yield _saved("targets, sums and entropy", TRL, n, added(8, 4, 4))


def _counts(plan: Plan) -> tuple[tuple[int, str], tuple[int, str]]:
    """Return the number of tokens that have logits, and how many logits each of them has."""
    return of(plan.settings.loss_tokens, "tokens"), of(plan.shape.vocab, "logits")


# --- the moments at which memory can peak ---------------------------------------------------------


def moments(plan: Plan) -> Iterator[tuple[int, list[MemoryTerm]]]:
    """Yield the moments at which memory can peak.

    Each moment is a pair: the bytes that the last norm, the output layer and the loss have stored
    for the backward pass, and the terms of the other tensors.
    """
    settings = plan.settings
    last_norm = norm(plan, "last norm").size
    above = last_norm + total_bytes(_head_saved(plan))
    stored = above + total_bytes(_loss_saved(plan))
    forward, backward = {
        "logits": (_logits_forward, _logits_backward),
        "tiled": (_tiled_forward, _tiled_backward),
        "answers": (_answers_forward, _answers_backward),
    }[settings.loss]
    yield stored, [*forward(plan), *copies_of_forward(plan)]
    yield stored, [*backward(plan), *during_backward(plan)]
    if settings.trains_weights and settings.loss != "tiled":
        yield above, [*_head_backward(plan), *during_backward(plan)]
        if settings.autocast:
            yield last_norm, [*_widened(plan), *during_backward(plan)]
    yield 0, [*_norm_backward(plan), *during_backward(plan)]


def during_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield what the loss leaves in memory during the backward pass, except activations."""
    yield _term("gradient of the loss", AUTOGRAD, 1, 4)
    yield from after_loss(plan)


def after_loss(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield what the training loop keeps until the update: the loss, and maybe the logits."""
    yield _term("the loss", AUTOGRAD, 1, 4)
    if plan.settings.loss == "logits" and plan.settings.keep_output:
        yield _logits(plan, "the model's output")


def _logits(plan: Plan, source: str) -> MemoryTerm:
    return _in_blocks(plan, _term("logits", source, *_counts(plan), plan.logit_bytes))


def _logits_forward(plan: Plan) -> Iterator[MemoryTerm]:
    t, batch = plan.tokens, plan.settings.batch_size
    yield _logits(plan, "the model's output")
    if plan.logit_bytes == 2:
        yield _in_blocks(plan, _term("float32 logits", CROSS_ENTROPY, *_counts(plan), 4))
    # The labels are padded by one token and shifted. If there are several sequences, the shift
    # copies them. 8 B are for two numbers: the sum of the losses, and the number of tokens.
    count = 1 + t + batch + (t if batch > 1 else 0)
    yield _term("labels", CROSS_ENTROPY, 8, count)
    yield from _norm_result(plan)


def _norm_result(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the last norm's result, which exists until the model returns the logits.

    With the loss "answers", the output layer reads a copy of a part of the norm's result. With the
    other losses, it reads the result itself. If autograd stores this input, it counts as an
    activation.
    """
    settings, t, h, each = plan.settings, plan.tokens, plan.shape.hidden, plan.settings.stream_bytes
    stored = settings.trains_weights and not settings.autocast
    n = settings.loss_tokens
    count = 0 if stored else n
    if settings.loss == "answers":
        count += t
        # The activations include the logarithms of sums, which don't exist yet. Neither do the
        # float32 logits under autocast, but 16-bit logits do.
        extra = 4 + (2 * plan.shape.vocab if settings.autocast else 0)
        yield -_term("not computed yet", COURSE, n, extra)
    yield _term("result of the last norm", AUTOGRAD, count, h, each)


def _logits_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the gradients of the logits and of their softmax.

    The softmax itself is counted as an activation.
    """
    full = 4 * plan.tokens * plan.shape.vocab
    # The softmax also occupies a block. The bytes by which this block exceeds the softmax are
    # counted here.
    term = _term("gradients of logits", CROSS_ENTROPY, 2, *_counts(plan), 4)
    yield replace(_in_blocks(plan, term), size=3 * _block(plan, full) - full)


def _answers_forward(plan: Plan) -> Iterator[MemoryTerm]:
    n, vocab, logits = plan.settings.loss_tokens, plan.shape.vocab, []
    if plan.settings.autocast:
        # The activations include the logarithms of sums, which don't exist yet.
        logits = [_term("16-bit logits", AUTOCAST, n, (2 * vocab - 4, f"({vocab:,} × 2 - 4)"))]
    elif plan.logit_bytes == 2:
        logits = [_few_logits(plan, min(max(1, ANSWER_CHUNK // vocab), n))]
    yield from max(logits, list(_norm_result(plan)), key=total_bytes)


def _answers_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the float32 tensors that the loss computes from the logits of a few tokens at a time.

    The tensors of one group of tokens exist until those of the next group have been computed.
    """
    n, rows = plan.settings.loss_tokens, max(1, ANSWER_CHUNK // plan.shape.vocab)
    first, second = min(rows, n), max(0, min(rows, n - rows))
    copies = 2 if plan.logit_bytes == 2 else 1
    yield _few_logits(plan, max(copies * first, first + copies * second))


def _few_logits(plan: Plan, rows: int) -> MemoryTerm:
    return _term("float32 logits of a few tokens", COURSE, rows, plan.shape.vocab, 4)


def _tile(plan: Plan) -> tuple[int, int, list[MemoryTerm]]:
    """Return how many tokens and vocabulary tokens a tile has, and the terms of its memory.

    The terms are the tile, and the 16-bit copies from which the tile is computed.
    """
    settings, h, vocab = plan.settings, plan.shape.hidden, plan.shape.vocab
    rows, words = min(TILE[0], settings.loss_tokens), min(TILE[1], vocab)
    each = plan.logit_bytes
    tile = _term("a tile of logits", TRL, of(rows, "tokens"), of(TILE[1], "logits"), each)
    terms = [_in_blocks(plan, tile)]
    if each != settings.stream_bytes:
        terms.append(_term("16-bit operands of a tile", TRL, added(rows, words), h, each))
    return rows, words, terms


def _tiled_forward(plan: Plan) -> Iterator[MemoryTerm]:
    rows, words, tile = _tile(plan)
    n = plan.settings.loss_tokens
    # Activations contain two sums of 4 B each, which don't exist yet. 1 B says which token counts.
    yield _term("running sums", TRL, n, (21, "(7 × 4 - 2 × 4 + 1)"))
    yield from tile
    if plan.settings.device == "cpu":
        yield _term("work on a tile", TRL, rows, (13 * words + 20, f"(13 × {words:,} + 20)"))


def _tiled_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the output layer's float32 gradients, and a tile or the gradients' 16-bit copy.

    The tile and the copy don't exist at the same time, so the larger one counts.
    """
    settings, h, vocab = plan.settings, plan.shape.hidden, plan.shape.vocab
    n = settings.loss_tokens
    rows, words, tile = _tile(plan)
    sums = (n + vocab) * h if settings.trains_weights else n * h
    yield _term("float32 gradients", TRL, sums, 4)
    yield _term("gradients of the loss", AUTOGRAD, n, 4)
    copies = [_term("16-bit gradients", TRL, sums, 2)] if settings.stream_bytes == 2 else []
    if settings.device == "cpu":
        work = [_term("work on a tile", TRL, 29, rows, words)]
        # If the vocabulary is small and the hidden size large, the float32 copies of the factors of
        # a matrix product need more bytes than this work.
        if plan.logit_bytes == 2:
            work.append(_term("work on a tile", TRL, 4, added(rows, h), words))
        tile.append(max(work, key=lambda term: term.size))
    yield from max(tile, copies, key=total_bytes)


def _head_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the gradients of the logits, of the head's weights, and of the head's input."""
    settings, h, vocab = plan.settings, plan.shape.hidden, plan.shape.vocab
    n, each = settings.loss_tokens, 2 if settings.autocast else settings.stream_bytes
    yield _term("gradient of logits", AUTOGRAD, n, vocab, each)
    yield _term("gradient of the head", WEIGHTS, vocab, h, each)
    yield _term("gradient of its input", AUTOGRAD, n, h, each)


def _widened(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the head's gradient in 16 bits and in float32, and the gradient of the head's input."""
    n, h, vocab = plan.settings.loss_tokens, plan.shape.hidden, plan.shape.vocab
    yield _term("gradients of the head", AUTOCAST, vocab, h, added(2, 4))
    yield _term("gradient of its input", AUTOCAST, n, h, 4)
    if plan.settings.loss == "answers":
        yield _term("places of the answers", COURSE, n // plan.settings.batch_size, 8)


def held_gradient(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the gradient of a tied head, to which the embedding's gradient is added later."""
    if plan.settings.trains_weights and plan.shape.tied:
        sizes = plan.shape.vocab, plan.shape.hidden, plan.settings.precision.gradient
        yield _term("gradient of the head", WEIGHTS, *sizes)


def _norm_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors of the last norm's backward pass, and the gradients that already exist."""
    settings, h = plan.settings, plan.shape.hidden
    yield replace(norm_backward(plan, last=True), part="transient", group=LOGITS)
    yield from held_gradient(plan)
    if settings.trains_weights and settings.accumulation == 1:
        head = 0 if plan.shape.tied else plan.shape.vocab * h
        yield _term("first gradients", WEIGHTS, head + h, settings.precision.gradient)


# --- the forward pass under autocast --------------------------------------------------------------


def copies_of_forward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield autocast's 16-bit copies of trained weights, which are freed after the forward pass."""
    if cached := freed_copies(plan):
        yield _term("16-bit copies of weights", AUTOCAST, cached, 2)


# --- blocks of the allocator ----------------------------------------------------------------------


def _in_blocks(plan: Plan, term: MemoryTerm) -> MemoryTerm:
    """On a GPU, return the term with the bytes of the block that the allocator reserves."""
    if plan.settings.device == "cpu":
        return term
    return replace(term, size=_block(plan, term.size), formula=f"{term.formula}, in whole blocks")


def _block(plan: Plan, size: int) -> int:
    return fresh_block(size) if plan.settings.device == "cuda" else size
