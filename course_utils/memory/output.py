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
from course_utils.memory.terms import LOGITS, MemoryTerm, total_bytes

CROSS_ENTROPY = "cross entropy"
TRL, COURSE = "TRL's tiled loss", "course_utils.training.loss"


def output_saved(plan: Plan) -> list[MemoryTerm]:
    """Return what the last norm, the output layer and the loss store for the backward pass."""
    return [norm(plan, "last norm"), *_head_saved(plan), *_loss_saved(plan)]


def _term(name: str, size: int, formula: str, source: str) -> MemoryTerm:
    return MemoryTerm("transient", name, size, formula, source, LOGITS)


def _saved(name: str, size: int, formula: str, source: str) -> MemoryTerm:
    return MemoryTerm("activations", name, size, formula, source)


# --- what autograd stores -------------------------------------------------------------------------


def _head_saved(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the output layer's input and, under autocast, a 16-bit copy of the layer's weights."""
    settings, n, h = plan.settings, plan.settings.loss_tokens, plan.shape.hidden
    each = settings.stream_bytes
    if settings.loss == "tiled":
        # A single sequence without its last token is a view, so all its tokens stay in memory.
        n = n if settings.batch_size > 1 or settings.device == "cuda" else plan.tokens
        yield _saved("input of the head", n * h * each, f"{n} × {h} × {each}", TRL)
        return
    if settings.trains_weights:
        each = 2 if settings.autocast else each
        yield _saved("input of the head", n * h * each, f"{n} × {h} × {each}", WEIGHTS)
    if settings.loss == "answers":
        count = n // settings.batch_size
        yield _saved("places of the answers", 8 * count, f"{count} × 8", COURSE)
    if copied := plan.head_copy:
        yield _saved("16-bit copy of the head", 2 * copied, f"{copied:,} × 2", AUTOCAST)


def _loss_saved(plan: Plan) -> Iterator[MemoryTerm]:
    n, vocab = plan.settings.loss_tokens, plan.shape.vocab
    if plan.settings.loss == "logits":
        formula = f"{n} tokens × {vocab} logits × 4"
        yield _saved("softmax of logits", 4 * n * vocab, formula, CROSS_ENTROPY)
    elif plan.settings.loss == "answers":
        each = plan.logit_bytes
        formula = f"{n} tokens × {vocab} logits × {each}"
        yield _saved("logits", each * n * vocab, formula, COURSE)
        yield _saved("logarithms of sums", 4 * n, f"{n} × 4", COURSE)
    else:
        yield _saved("targets, sums and entropy", 16 * n, f"{n} × (8 + 4 + 4)", TRL)


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
    yield _term("gradient of the loss", 4, "1 × 4", AUTOGRAD)
    yield from after_loss(plan)


def after_loss(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield what the training loop keeps until the update: the loss, and maybe the logits."""
    yield _term("the loss", 4, "1 × 4", AUTOGRAD)
    if plan.settings.loss == "logits" and plan.settings.keep_output:
        yield _logits(plan, "the model's output")


def _logits(plan: Plan, source: str) -> MemoryTerm:
    n, vocab, each = plan.settings.loss_tokens, plan.shape.vocab, plan.logit_bytes
    formula = f"{n} tokens × {vocab} logits × {each}{_in_blocks(plan)}"
    return _term("logits", _block(plan, n * vocab * each), formula, source)


def _logits_forward(plan: Plan) -> Iterator[MemoryTerm]:
    t, batch = plan.tokens, plan.settings.batch_size
    yield _logits(plan, "the model's output")
    if plan.logit_bytes == 2:
        size, formula = 4 * t * plan.shape.vocab, f"{t} tokens × {plan.shape.vocab} logits × 4"
        yield _term("float32 logits", _block(plan, size), formula, CROSS_ENTROPY)
    # The labels are padded by one token and shifted. If there are several sequences, the shift
    # copies them. 8 B are for two numbers: the sum of the losses, and the number of tokens.
    count = 1 + t + batch + (t if batch > 1 else 0)
    yield _term("labels", 8 * count, f"8 × {count}", CROSS_ENTROPY)
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
    count, size = (0 if stored else n), 0
    formula = f"{count} × {h} × {each}"
    if settings.loss == "answers":
        # The activations include the logarithms of sums, which don't exist yet. Neither do the
        # float32 logits under autocast, but 16-bit logits do.
        extra = 4 + (2 * plan.shape.vocab if settings.autocast else 0)
        count, size = count + t, -extra * n
        formula = f"{count} × {h} × {each} - {n} × {extra}"
    yield _term("result of the last norm", size + count * h * each, formula, AUTOGRAD)


def _logits_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the gradients of the logits and of their softmax.

    The softmax itself is counted as an activation.
    """
    n, vocab = plan.tokens, plan.shape.vocab
    full = 4 * n * vocab
    # The softmax also occupies a block. The bytes by which this block exceeds the softmax are
    # counted here.
    size = 3 * _block(plan, full) - full
    formula = f"2 × {n} tokens × {vocab} logits × 4{_in_blocks(plan)}"
    yield _term("gradients of logits", size, formula, CROSS_ENTROPY)


def _answers_forward(plan: Plan) -> Iterator[MemoryTerm]:
    n, vocab, logits = plan.settings.loss_tokens, plan.shape.vocab, []
    if plan.settings.autocast:
        # The activations include the logarithms of sums, which don't exist yet.
        size, formula = n * (2 * vocab - 4), f"{n} × ({vocab} × 2 - 4)"
        logits = [_term("16-bit logits", size, formula, AUTOCAST)]
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
    size, formula = 4 * rows * plan.shape.vocab, f"{rows} × {plan.shape.vocab} × 4"
    return _term("float32 logits of a few tokens", size, formula, COURSE)


def _tile(plan: Plan) -> tuple[int, int, list[MemoryTerm]]:
    """Return how many tokens and vocabulary tokens a tile has, and the terms of its memory.

    The terms are the tile, and the 16-bit copies from which the tile is computed.
    """
    settings, h, vocab = plan.settings, plan.shape.hidden, plan.shape.vocab
    rows, words = min(TILE[0], settings.loss_tokens), min(TILE[1], vocab)
    each = plan.logit_bytes
    size, formula = rows * TILE[1] * each, f"{rows} tokens × {TILE[1]} logits × {each}"
    terms = [_term("a tile of logits", _block(plan, size), formula, TRL)]
    if each != settings.stream_bytes:
        size, formula = (rows + words) * h * each, f"({rows} + {words}) × {h} × {each}"
        terms.append(_term("16-bit operands of a tile", size, formula, TRL))
    return rows, words, terms


def _tiled_forward(plan: Plan) -> Iterator[MemoryTerm]:
    rows, words, tile = _tile(plan)
    n = plan.settings.loss_tokens
    # Activations contain two sums of 4 B each, which don't exist yet. 1 B says which token counts.
    yield _term("running sums", 21 * n, f"{n} × (7 × 4 - 2 × 4 + 1)", TRL)
    yield from tile
    if plan.settings.device == "cpu":
        size, formula = rows * (13 * words + 20), f"{rows} × (13 × {words} + 20)"
        yield _term("work on a tile", size, formula, TRL)


def _tiled_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the output layer's float32 gradients, and either a tile or the gradients' 16-bit copy.

    The tile and the copy don't exist at the same time, so the larger one counts.
    """
    settings, h, vocab = plan.settings, plan.shape.hidden, plan.shape.vocab
    n = settings.loss_tokens
    rows, words, tile = _tile(plan)
    sums = (n + vocab) * h if settings.trains_weights else n * h
    yield _term("float32 gradients", 4 * sums, f"{sums:,} × 4", TRL)
    yield _term("gradients of the loss", 4 * n, f"{n} × 4", AUTOGRAD)
    narrow = [_term("16-bit gradients", sums * 2, f"{sums:,} × 2", TRL)]
    copies = narrow if settings.stream_bytes == 2 else []
    if settings.device == "cpu":
        work, formula = 29 * rows * words, f"29 × {rows} × {words}"
        # If the vocabulary is small and the hidden size large, the float32 copies of the factors of
        # a matrix product need more bytes than this work.
        product = 4 * (rows + h) * words if plan.logit_bytes == 2 else 0
        if product > work:
            work, formula = product, f"4 × ({rows} + {h}) × {words}"
        tile.append(_term("work on a tile", work, formula, TRL))
    yield from max(tile, copies, key=total_bytes)


def _head_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the gradients of the logits, of the head's weights, and of the head's input."""
    settings, h, vocab = plan.settings, plan.shape.hidden, plan.shape.vocab
    n, words = settings.loss_tokens, plan.shape.vocab * plan.shape.hidden
    each = 2 if settings.autocast else settings.stream_bytes
    yield _term("gradient of logits", each * n * vocab, f"{n} × {vocab} × {each}", AUTOGRAD)
    yield _term("gradient of the head", each * words, f"{vocab} × {h} × {each}", WEIGHTS)
    yield _term("gradient of its input", each * n * h, f"{n} × {h} × {each}", AUTOGRAD)


def _widened(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the head's gradient in 16 bits and in float32, and the gradient of the head's input."""
    n, h, vocab = plan.settings.loss_tokens, plan.shape.hidden, plan.shape.vocab
    yield _term("gradients of the head", 6 * vocab * h, f"{vocab} × {h} × (2 + 4)", AUTOCAST)
    yield _term("gradient of its input", 4 * n * h, f"{n} × {h} × 4", AUTOCAST)
    if plan.settings.loss == "answers":
        count = n // plan.settings.batch_size
        yield _term("places of the answers", 8 * count, f"{count} × 8", COURSE)


def held_gradient(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the gradient of a tied head, to which the embedding's gradient is added later."""
    settings, h, vocab = plan.settings, plan.shape.hidden, plan.shape.vocab
    if settings.trains_weights and plan.shape.tied:
        each = settings.precision.gradient
        yield _term("gradient of the head", vocab * h * each, f"{vocab} × {h} × {each}", WEIGHTS)


def _norm_backward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield the tensors of the last norm's backward pass, and the gradients that already exist."""
    settings, h = plan.settings, plan.shape.hidden
    yield replace(norm_backward(plan, last=True), part="transient", group=LOGITS)
    yield from held_gradient(plan)
    if settings.trains_weights and settings.accumulation == 1:
        head = 0 if plan.shape.tied else plan.shape.vocab * h
        count, each = head + h, settings.precision.gradient
        yield _term("first gradients", count * each, f"{count:,} × {each}", WEIGHTS)


# --- the forward pass under autocast --------------------------------------------------------------


def copies_of_forward(plan: Plan) -> Iterator[MemoryTerm]:
    """Yield autocast's 16-bit copies of trained weights, which are freed after the forward pass."""
    if cached := freed_copies(plan):
        yield _term("16-bit copies of weights", 2 * cached, f"{cached:,} × 2", AUTOCAST)


# --- blocks of the allocator ----------------------------------------------------------------------


def _in_blocks(plan: Plan) -> str:
    return ", in whole blocks" if plan.settings.device == "cuda" else ""


def _block(plan: Plan, size: int) -> int:
    return fresh_block(size) if plan.settings.device == "cuda" else size
