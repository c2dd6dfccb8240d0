"""Compare two forms of a model by their probabilities for the next token.

Equal answers would be too strict a test: where two tokens are almost equally likely, rounding
decides which of them is chosen. Equal scores would be too lenient: a broken export can score as
well as a correct one. The Kullback–Leibler divergence compares the probabilities of all tokens. It
stays small if only the rounding differs, and it shows mistakes that don't change the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Smaller probabilities in q are replaced by this value. llama.cpp rounds very small probabilities
# to 0, and with a zero in q the divergence would be infinite.
SMALLEST = 1e-12


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the Kullback–Leibler divergence D(p‖q) = Σ p ln(p/q), in nats.

    The divergence is 0 if q equals p. It is large if p gives a large probability to a token, but q
    gives the same token a small one. Probabilities below 1e-12 in q count as 1e-12, so the
    divergence is never infinite.
    """
    p, q = p.double(), q.double().clamp_min(SMALLEST)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def probabilities(
    next_token: Callable[[list[int]], Tensor], prompts: Sequence[Sequence[int]]
) -> Tensor:
    """Return the probabilities of the next token after each prompt, of shape (prompts, vocab).

    Args:
        next_token: a function that gets the token ids of a prompt, and returns the probabilities of
            the next token, of shape (vocab,). Such functions are `Engine.next_token_probabilities`
            and the result of `of_model`.
    """
    return torch.stack([next_token(list(prompt)) for prompt in prompts])


def of_model(model: torch.nn.Module) -> Callable[[list[int]], Tensor]:
    """Return a function that computes next-token probabilities with a transformers model.

    The function gets the token ids of a prompt, and returns the probabilities of the next token as
    float32 on the CPU, of shape (vocab,).
    """

    @torch.no_grad()
    def next_token(ids: list[int]) -> Tensor:
        rows = torch.tensor([ids], device=next(model.parameters()).device)
        return model(rows).logits[0, -1].float().softmax(-1).cpu()

    return next_token
