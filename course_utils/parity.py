"""Compare two forms of a model by their probabilities for each token of an answer.

Equal answers would be too strict a test: where two tokens are almost equally likely, rounding
decides which of them is chosen. Equal scores would be too lenient: a broken export can score as
well as a correct one. The Kullback–Leibler divergence compares probabilities. It stays small if
only the rounding differs, and it shows mistakes that don't change the scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.machine import threads

if TYPE_CHECKING:
    from course_utils.serving import Engine

# Smaller probabilities in q are replaced by this value. llama.cpp rounds very small probabilities
# to 0, and with a zero in q the divergence would be infinite.
SMALLEST = 1e-12
# llama.cpp reports this many probabilities for each token of an answer. To report all 49,152 would
# take about 5 MB of JSON for each token.
REPORTED = 500


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the Kullback–Leibler divergence D(p‖q) = Σ p ln(p/q), in nats.

    The divergence is 0 if q equals p. It is large if p gives a large probability to a token, but q
    gives the same token a small one. Probabilities below 1e-12 in q count as 1e-12, so the
    divergence is never infinite.
    """
    p, q = p.double(), q.double().clamp_min(SMALLEST)
    return torch.special.xlogy(p, p / q).sum(-1).clamp_min(0)


def divergences(reference: Sequence[Tensor], found: Sequence[Tensor]) -> Tensor:
    """Return the mean KL divergence of each answer's tokens, in nats, of shape (answers,).

    The tokens whose probability in `found` is 0, because it wasn't reported, count as one token.
    So their true divergence is at least as large as the result.
    """

    def with_rest(rows: Tensor, known: Tensor) -> Tensor:
        rows = rows.double() * known
        return torch.cat([rows, (1 - rows.sum(-1, keepdim=True)).clamp_min(0)], -1)

    pairs = zip(reference, found, strict=True)
    rows = [kl_divergence(with_rest(p, q > 0), with_rest(q, q > 0)) for p, q in pairs]
    return torch.stack([each.mean() for each in rows])


def probabilities(
    predict: Callable[..., Tensor], prompts: Sequence[list[int]], *answers: Sequence[list[int]]
) -> list[Tensor]:
    """Return the result of `of_model` or `of_engine` for each prompt, and for its answer if any."""
    return [predict(*ids) for ids in zip(prompts, *answers, strict=True)]


def of_model(model: torch.nn.Module) -> Callable[..., Tensor]:
    """Return a function that computes the probabilities of tokens with a transformers model.

    The function gets the token ids of a prompt and of an answer. It returns the probabilities for
    each token of the answer, given the tokens before it, as float32 on the CPU, of shape (answer,
    vocab). Without an answer, it returns those of the next token, of shape (vocab,).
    """

    @torch.no_grad()
    @threads.sharing_cores()
    def predict(prompt: list[int], answer: Sequence[int] = ()) -> Tensor:
        rows = torch.tensor([[*prompt, *answer]], device=next(model.parameters()).device)
        found = model(rows).logits[0, len(prompt) - 1 :].float().softmax(-1).cpu()
        return found[:-1] if answer else found[0]

    return predict


def of_engine(engine: Engine, adapter: str | None = None) -> Callable[..., Tensor]:
    """Return a function that computes the same as `of_model`'s for an answer, with llama.cpp.

    llama.cpp reports only the REPORTED most probable tokens. All others get the probability 0.
    """
    vocabulary = engine.request("/v1/models")["data"][0]["meta"]["n_vocab"]

    def predict(prompt: list[int], answer: Sequence[int]) -> Tensor:
        # The grammar makes llama.cpp write the answer's tokens, and a letter instead of the last
        # one. llama.cpp computes the probabilities before it applies the grammar.
        grammar = "root ::= " + "".join(f"<[{token}]> " for token in answer[:-1]) + "[a-z]"
        options = {"n_predict": len(answer), "n_probs": REPORTED, "grammar": grammar}
        rows = []
        for place in engine.complete(prompt, adapter, **options)["completion_probabilities"]:
            top = {each["id"]: math.exp(each["logprob"]) for each in place["top_logprobs"]}
            row = torch.zeros(vocabulary)
            row[list(top)] = torch.tensor(list(top.values()))
            rows.append(row)
        return torch.stack(rows)

    return predict
