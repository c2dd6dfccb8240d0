"""Export a tiny fine-tuned model, correctly or with a mistake, and compare it with a reference.

All models are computed in PyTorch. Their weights are rounded as llama.cpp would round them:

    reference   The adapters are added to weights that NF4 has rounded, as in QLoRA's training. The
                sum is not rounded.
    export      The weights of the base model are rounded to one of llama.cpp's formats. The
                adapters are added to them afterwards, and are not rounded.
    control     The adapters are first added to the weights of the reference. The sum is then
                rounded to the same format as the export.

A control can't contain a mistake of an export, so its difference from the reference is what
rounding alone causes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.machine.validation import one_of
from course_utils.models.tiny import tiny_adapters, tiny_rounded

# The formats in which a tiny export can be stored.
TINY_EXPORT_FORMATS = ("F16", "Q8_0", "Q4_0")
# The mistakes that a tiny export can contain, with an explanation of each.
TINY_MISTAKES = {
    "order": "the adapters of q and k have their rows in Hugging Face's order",
    "scale": "the scale of the adapters is 1 instead of 2",
    "absent": "the adapters are not applied",
    "twice": "the adapters are added to a model into which they are already merged",
    "weights": "the adapters are added to weights that NF4 has not rounded",
    "cut": "the context is too small, so long prompts lose their beginning",
}
# The number of prompts, the lengths of the shortest and of the longest prompt, and the context that
# the mistake "cut" leaves. The lengths and the context are in tokens.
PROMPTS, SHORTEST, LONGEST, CONTEXT = 48, 8, 20, 16
# An answer is one token: the most probable one of the first 8 tokens of the vocabulary.
ANSWERS = 8
# The reference gives the right answer to this share of the prompts.
RIGHT = 0.8
# The scale α/r of the adapters.
SCALE = 2.0
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# As in a real model, the adapters of q and k change the answers less than the other adapters do,
# because their updates B A are multiplied by a smaller factor.
SIZE_OF_Q_AND_K, SIZE_OF_OTHERS = 0.1, 2.0


class _Form(NamedTuple):
    """How a tiny fine-tuned model is stored.

    Attributes:
        stored_as: one of TINY_EXPORT_FORMATS, or None if the weights are not rounded.
        mistake: a key of TINY_MISTAKES, or None if there is no mistake.
        merged: whether the adapters are merged before the weights are rounded.
    """

    stored_as: str | None
    mistake: str | None = None
    merged: bool = False


def tiny_exports(seed: int, forms: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """Export a tiny fine-tuned model several times, and compare each export with the reference.

    If an export has no mistake, its mean divergence is about as large as that of the control in the
    same format. In F16 and Q8_0, each mistake makes the mean divergence at least 5 times as large.
    In Q4_0, only the mistake "absent" makes it at least 4 times as large, because the rounding
    hides the other mistakes.

    Args:
        forms: the format and the mistake of each export. The format is one of TINY_EXPORT_FORMATS.
            The mistake is a key of TINY_MISTAKES, or None for a correct export.

    Returns:
        A dict with two items. "exports" is a list with a dict for each export. Its keys are name
        ("A", "B", …), format, divergences (for each prompt, the Kullback–Leibler divergence of the
        next token's probabilities from those of the reference, in nats), equal (the share of
        answers that equal those of the reference) and score (the share of right answers).
        "controls" is a dict from each format to the divergences of its control, one for each
        prompt.
    """
    for stored_as, mistake in forms:
        one_of("format", stored_as, TINY_EXPORT_FORMATS)
        if mistake is not None:
            one_of("mistake", mistake, tuple(TINY_MISTAKES))
    draw = random.Random(seed)
    prompts = [
        [draw.randrange(96) for _ in range(draw.randint(SHORTEST, LONGEST))] for _ in range(PROMPTS)
    ]
    reference = _log_probabilities(_model(seed, _Form(None)), prompts)
    truth = _answers(reference)
    for prompt in draw.sample(range(PROMPTS), PROMPTS - round(RIGHT * PROMPTS)):
        truth[prompt] = (truth[prompt] + draw.randint(1, ANSWERS - 1)) % ANSWERS

    exports = []
    for number, (stored_as, mistake) in enumerate(forms):
        read = [p[-CONTEXT:] for p in prompts] if mistake == "cut" else prompts
        found = _log_probabilities(_model(seed, _Form(stored_as, mistake)), read)
        answers = _answers(found)
        exports.append(
            {
                "name": chr(ord("A") + number),
                "format": stored_as,
                "divergences": _divergences(reference, found),
                "equal": (answers == _answers(reference)).double().mean().item(),
                "score": (answers == truth).double().mean().item(),
            }
        )
    controls = {}
    for stored_as in sorted({stored_as for stored_as, _ in forms}):
        model = _model(seed, _Form(stored_as, merged=True))
        controls[stored_as] = _divergences(reference, _log_probabilities(model, prompts))
    return {"exports": exports, "controls": controls}


@torch.no_grad()
def _model(seed: int, form: _Form) -> nn.Module:
    """Make the tiny fine-tuned model, stored in the given form."""
    nf4 = form.mistake != "weights"
    model = tiny_rounded(seed, "NF4 with double quantization" if nf4 else "float32")
    adapters = tiny_adapters(seed, targets=TARGETS)
    scale = {"scale": 1.0, "absent": 0.0, "twice": 2 * SCALE}.get(form.mistake or "", SCALE)
    for name, weight in model.named_parameters():
        if "_proj" in name:
            update = scale * _update(name.removesuffix(".weight"), adapters, form.mistake)
            if form.merged:
                weight.copy_(_stored(weight + update, form.stored_as))
            else:
                weight.copy_(_stored(weight, form.stored_as) + update)
        elif weight.dim() == 2:
            # llama.cpp stores the embedding in at least 8 bits.
            weight.copy_(_stored(weight, "Q8_0" if form.stored_as == "Q4_0" else form.stored_as))
    return model


def _update(layer: str, adapters: dict[str, Tensor], mistake: str | None) -> Tensor:
    """Return the update B A of a layer before scaling. The mistake "order" reorders rows of B."""
    A, B = (adapters[f"base_model.model.{layer}.lora_{matrix}.default.weight"] for matrix in "AB")
    if not layer.endswith(("q_proj", "k_proj")):
        return SIZE_OF_OTHERS * B @ A
    if mistake == "order":
        # The rows of each head, which has the width 16, get another order than in the trained
        # model.
        heads = B.reshape(-1, 16, B.shape[1])
        B = heads[:, [*range(0, 16, 2), *range(1, 16, 2)]].reshape(B.shape)
    return SIZE_OF_Q_AND_K * B @ A


def _stored(weight: Tensor, stored_as: str | None) -> Tensor:
    """Round a weight to one of llama.cpp's formats, and return it in float32."""
    from gguf import GGMLQuantizationType, quants

    if stored_as is None:
        return weight
    kind = GGMLQuantizationType[stored_as]
    values = quants.dequantize(quants.quantize(weight.detach().numpy(), kind), kind)
    return torch.from_numpy(values.astype(np.float32)).view_as(weight)


@torch.no_grad()
def _log_probabilities(model: nn.Module, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return the log-probabilities of the token after each prompt, as float64 (prompts, vocab)."""
    longest = max(map(len, prompts))
    # Shorter prompts are padded on the right. A causal model doesn't see this padding when it
    # predicts the token after the prompt.
    ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])
    ends = torch.tensor([len(prompt) - 1 for prompt in prompts])
    logits = model(ids).logits[torch.arange(len(prompts)), ends]
    return logits.double().log_softmax(-1)


def _divergences(reference: Tensor, found: Tensor) -> list[float]:
    # course_utils.parity can't be imported while exercise 09 is graded.
    divergences = nn.functional.kl_div(found, reference, reduction="none", log_target=True).sum(-1)
    return divergences.clamp_min(0).tolist()


def _answers(log_probabilities: Tensor) -> Tensor:
    return log_probabilities[:, :ANSWERS].argmax(-1)
