"""Compare two forms of a model: do they predict the same next token with the same probability?

Two programs can round differently and still run the same model. So equal answers are too strict a
test: where two tokens are almost equally likely, rounding decides which one is chosen, and all
later tokens follow from it. Scores are too lax a test: a broken export can answer as well as the
right one. The Kullback–Leibler divergence of the probabilities shows what both tests miss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# llama.cpp rounds smaller probabilities to 0.
SMALLEST = 1e-12


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the Kullback–Leibler divergence of q from p, Σ p ln(p/q), in nats.

    It is 0 if q equals p, and grows without limit if q gives a small probability to a token that p
    gives a large one.

    Args:
        p: probabilities of the reference, (…, vocab).
        q: probabilities of the other model, (…, vocab).

    Returns:
        The divergence of each row, (…).
    """
    p, q = p.double(), q.double().clamp_min(SMALLEST)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def probabilities(
    next_token: Callable[[list[int]], Tensor], prompts: Sequence[Sequence[int]]
) -> Tensor:
    """Return the probabilities of the token that follows each prompt, (prompts, vocab).

    Args:
        next_token: a function from token ids to the probabilities of the next token, such as
            `Engine.next_token_probabilities`, or the result of `of_model`.
        prompts: token ids.
    """
    return torch.stack([next_token(list(prompt)) for prompt in prompts])


def of_model(model: torch.nn.Module) -> Callable[[list[int]], Tensor]:
    """Return the function from token ids to the next token's probabilities of a model."""

    @torch.no_grad()
    def next_token(ids: list[int]) -> Tensor:
        rows = torch.tensor([ids], device=next(model.parameters()).device)
        return model(rows).logits[0, -1].float().softmax(-1).cpu()

    return next_token
