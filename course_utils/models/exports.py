"""Export a tiny tuned model in llama.cpp's formats, rightly or with a mistake, and measure it.

    reference   adapters on weights that NF4 has rounded, as QLoRA trains them; nothing else rounded
    export      base model in one of llama.cpp's formats; the adapters are added while it computes
    control     the reference, merged and rounded to the same format in PyTorch

A control was never exported, so it shows what rounding alone changes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.models.tiny import tiny_adapters, tiny_rounded
from course_utils.validation import one_of

# The formats in which a tiny export can be stored.
TINY_EXPORT_FORMATS = ("F16", "Q8_0", "Q4_0")
# What can be wrong with a tiny export.
TINY_MISTAKES = {
    "order": "the adapters of q and k have their rows in Hugging Face's order",
    "scale": "the scale of the adapters is 1 instead of 2",
    "absent": "the adapters are not applied",
    "twice": "the adapters are added to a model into which they are already merged",
    "weights": "the adapters are added to weights that NF4 has not rounded",
    "cut": "the context is too small, so long prompts lose their beginning",
}
PROMPTS, SHORTEST, LONGEST, CONTEXT = 48, 8, 20, 16
# The answer is the most probable of these tokens.
ANSWERS = 8
# The reference gives the right answer to this share of the prompts.
RIGHT = 0.8
SCALE = 2.0
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# As in a real model, the adapters of q and k change the answers less than the others.
SIZE_OF_Q_AND_K, SIZE_OF_OTHERS = 0.1, 2.0


class _Form(NamedTuple):
    """How a tiny model is stored."""

    stored_as: str | None
    mistake: str | None = None
    merged: bool = False


def tiny_exports(seed: int, forms: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """Export a tiny tuned model several times, and compare each export with the reference.

    The mistakes are the keys of TINY_MISTAKES. If an export has no mistake, its mean divergence is
    about as large as that of the control with the same format. A mistake makes it at least 5 times
    as large in F16 and Q8_0. In Q4_0, only the mistake "absent" does; rounding hides the others.

    Args:
        seed: random seed of the weights, the adapters and the prompts.
        forms: format and mistake of each export; the mistake is None if the export is right.

    Returns:
        A dict with two items:
            exports: a dict for each export, with the keys name ("A", "B", …), format, divergences
                (Kullback–Leibler divergence of each prompt's next token from the reference, in
                nats), equal (share of answers that equal those of the reference) and score (share
                of right answers)
            controls: the divergences of the control, by format

    Raises:
        ValueError: a format or a mistake is not known.
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
    """Make the tuned model in a form."""
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
    """Return B A of a layer, as the exported model computes it."""
    A, B = (adapters[f"base_model.model.{layer}.lora_{matrix}.default.weight"] for matrix in "AB")
    if not layer.endswith(("q_proj", "k_proj")):
        return SIZE_OF_OTHERS * B @ A
    if mistake == "order":
        # The rows belong to other numbers of a head than in the trained model.
        heads = B.reshape(-1, 16, B.shape[1])
        B = heads[:, [*range(0, 16, 2), *range(1, 16, 2)]].reshape(B.shape)
    return SIZE_OF_Q_AND_K * B @ A


def _stored(weight: Tensor, stored_as: str | None) -> Tensor:
    """Return the values of a weight in a format; None is float32."""
    from gguf import GGMLQuantizationType, quants

    if stored_as is None:
        return weight
    kind = GGMLQuantizationType[stored_as]
    values = quants.dequantize(quants.quantize(weight.detach().numpy(), kind), kind)
    return torch.from_numpy(values.astype(np.float32)).view_as(weight)


@torch.no_grad()
def _log_probabilities(model: nn.Module, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return ln of the next token's probabilities for each prompt, float64 (prompts, vocab)."""
    longest = max(map(len, prompts))
    # Tokens after the end of a prompt don't change what the model predicts there.
    ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])
    ends = torch.tensor([len(prompt) - 1 for prompt in prompts])
    logits = model(ids).logits[torch.arange(len(prompts)), ends]
    return logits.double().log_softmax(-1)


def _divergences(reference: Tensor, found: Tensor) -> list[float]:
    divergences = nn.functional.kl_div(found, reference, reduction="none", log_target=True).sum(-1)
    return divergences.clamp_min(0).tolist()


def _answers(log_probabilities: Tensor) -> Tensor:
    return log_probabilities[:, :ANSWERS].argmax(-1)
