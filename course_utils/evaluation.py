"""Ask a model and measure its answers: valid JSON, the right section, house style, ROUGE-L.

    examples -> conversations -> generate -> answers -> score -> summary -> before_after
                                                 └──> side_by_side

Every rate comes with a 95% interval, for 96 test stories leave much to chance: 84% of 96 means
anything from 76% to 90%. Two prompts or models differ for certain enough if `beyond` says so.
"""

from __future__ import annotations

import copy
import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from course_utils import runtime, sft
from course_utils.news import house_style_faults

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import nn

METRICS = {
    "valid_json": "valid JSON",
    "section_right": "section right",
    "house_style": "house style",
    "rouge_l": "headline ROUGE-L",
}
Z95 = 1.959964  # 97.5% quantile of N(0, 1)


class Interval(NamedTuple):
    """A mean with its 95% confidence interval; all three are shares, 0 to 1."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.0%} ({100 * self.low:.0f}–{100 * self.high:.0f})"


# -- asking the model --------------------------------------------------------------------------


def generate(
    model: nn.Module,
    tokenizer,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    *,
    max_new_tokens: int = 40,
    batch_size: int = 16,
    batch_tokens: int = 6000,
    progress: bool = True,
) -> list[str]:
    """The model's answer to each conversation (chat messages, the user's last), in their order.

    Greedy: the likeliest token each time, up to the end token or `max_new_tokens`. Prompts of like
    length share a batch and are padded on the left, so that each answer starts where its prompt
    ends:

        pad pad <user> story <assistant> | {"section": …
        <user> a longer story <assistant> | {"section": …

    batch_size and batch_tokens bound a batch: the keys and values of its tokens, prompts and new
    ones, are kept while it is answered (23 kB a token for SmolLM2-135M).

    What all prompts begin with (instruction, worked examples) is read once and its keys and values
    are reused: of an 8-shot prompt that is nine tenths.

    In float32 a batch answers as each prompt alone would. In 16 bits, sums taken in another order
    round otherwise, and where two tokens are almost equally likely the answer may change.

    The model (plain or PeftModel) is in eval mode meanwhile and back in its own modes afterwards.
    Raises ValueError for a batch size or number of tokens below 1, or an empty conversation.
    """
    if batch_size < 1 or max_new_tokens < 1:
        raise ValueError(
            f"batch_size and max_new_tokens must be at least 1, got {batch_size}, {max_new_tokens}"
        )
    from tqdm import tqdm

    prompts = [_prompt_ids(messages, tokenizer) for messages in conversations]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))  # longest first: peak early
    answers = [""] * len(prompts)
    with (
        _evaluating(model),
        tqdm(total=len(prompts), unit="answer", disable=not progress) as bar,
    ):
        shared = _shared_prefix(prompts)
        cache = _read(shared, model)
        while order:
            runtime.trim_heap()
            widest = len(prompts[order[0]]) + max_new_tokens
            size = min(batch_size, max(1, batch_tokens // widest))
            batch, order = order[:size], order[size:]
            own = [prompts[i][len(shared) :] for i in batch]
            new = _continue(shared, cache, own, model, tokenizer, max_new_tokens)
            for i, ids in zip(batch, new, strict=True):
                answers[i] = tokenizer.decode(ids, skip_special_tokens=True).strip()
            bar.update(len(batch))
    runtime.release_memory()
    return answers


def _prompt_ids(messages: Sequence[Mapping[str, str]], tokenizer) -> list[int]:
    if not messages:
        raise ValueError("a conversation needs at least one message")
    if messages[-1]["role"] == "assistant":
        raise ValueError("the last message is the assistant's: leave it out, the model writes it")
    return sft.prompt_ids(messages, tokenizer)


def _shared_prefix(prompts: list[list[int]]) -> list[int]:
    """The tokens that all of several prompts begin with; each keeps at least one of its own."""
    if len(prompts) < 2:
        return []
    first, last = min(prompts), max(prompts)  # in sorting order: what these two share, all share
    limit = min(map(len, prompts)) - 1
    pairs = zip(first[:limit], last, strict=False)
    return first[: next((n for n, (a, b) in enumerate(pairs) if a != b), limit)]


def _read(prefix: list[int], model) -> dict[str, object]:
    """Keys and values of a prefix, as the option of `generate` that takes them; none if empty."""
    import torch

    if not prefix:
        return {}
    device = model.get_input_embeddings().weight.device
    with torch.no_grad():
        ids = torch.tensor([prefix], device=device)
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    name = "cache" if hasattr(out, "cache") else "past_key_values"  # its name before 5.24
    return {name: getattr(out, name)}


def _continue(
    prefix: list[int], cache: dict, own: list[list[int]], model, tokenizer, max_new_tokens: int
) -> list[list[int]]:
    """New token ids after each prompt (prefix + its own part), up to and without the end token."""
    import torch
    from transformers import GenerationConfig

    ends = _end_tokens(model, tokenizer)
    pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    start, longest = len(prefix), max(map(len, own))
    ids = torch.full((len(own), start + longest), pad)
    mask = torch.zeros_like(ids)  # by position: the padding token may be the end token
    ids[:, :start], mask[:, :start] = torch.tensor(prefix, dtype=ids.dtype), 1
    for row, tokens in enumerate(own):
        ids[row, start + longest - len(tokens) :] = torch.tensor(tokens)
        mask[row, start + longest - len(tokens) :] = 1
    device = model.get_input_embeddings().weight.device
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=ends,
        pad_token_id=pad,
    )
    past = copy.deepcopy(cache)  # generate appends to it
    for keys_and_values in past.values():
        keys_and_values.batch_repeat_interleave(len(own))
    with torch.no_grad():
        out = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            **past,
        )
    return [_until_end(row, ends) for row in out[:, start + longest :].tolist()]


def _end_tokens(model, tokenizer) -> list[int]:
    """Every token that ends an answer: the tokenizer's and those of the model's own config."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    own = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(e for e in [tokenizer.eos_token_id, *own] if e is not None))


def _until_end(ids: list[int], ends: list[int]) -> list[int]:
    return ids[: next((n for n, token in enumerate(ids) if token in ends), len(ids))]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode (no dropout, no checkpointing) inside, each module's own mode afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    packing = _pack_input(model.get_output_embeddings())
    try:
        yield
    finally:
        packing.remove()
        for module, mode in training.items():
            module.training = mode


def _pack_input(head: nn.Module):
    """Keep torch from copying the head's weights once for each row of the batch.

    `generate` hands the head a slice (the last position), and a matrix product of a slice with
    weights that need no gradient is computed as a batch of products: 0.9 GB for 16 rows here.
    """
    return head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))


def mean_prompt_tokens(conversations: Sequence[Sequence[Mapping[str, str]]], tokenizer) -> float:
    """Tokens of an average prompt: what a request costs before the answer begins."""
    counts = [len(_prompt_ids(messages, tokenizer)) for messages in conversations]
    return sum(counts) / len(counts)


# -- judging the answers -----------------------------------------------------------------------


def parse_answer(answer: str, *, lenient: bool = False) -> dict[str, str] | None:
    """Section and headline of an answer, or None where they can't be read.

    Strict: but for white space around it, the whole answer is one JSON object with exactly the
    keys "section" and "headline", once each, and text in both.
    Lenient: the first {...} in the answer that is a JSON object; it may stand in prose or a code
    fence and have further keys, and the section may have capitals.
    """
    found = _first_object(answer) if lenient else _whole_object(answer)
    if found is None or not all(isinstance(found.get(k), str) for k in ("section", "headline")):
        return None
    section = found["section"].strip().lower() if lenient else found["section"]
    return {"section": section, "headline": found["headline"]}


def _whole_object(answer: str) -> dict | None:
    try:
        pairs = json.loads(answer, object_pairs_hook=list)
    except (json.JSONDecodeError, RecursionError):
        return None
    if not answer.strip().startswith("{") or sorted(k for k, _ in pairs) != ["headline", "section"]:
        return None
    return dict(pairs)


def _first_object(answer: str) -> dict | None:
    for brace in re.finditer("{", answer):
        try:
            return json.JSONDecoder().raw_decode(answer, brace.start())[0]
        except (json.JSONDecodeError, RecursionError):
            continue
    return None


def score(
    answers: Sequence[str], references: Sequence[Mapping[str, str]], *, lenient: bool = False
) -> DataFrame:
    """Judge each answer against its news example (with story, section, headline).

    Columns: valid_json, section_right, house_style (0 or 1) and rouge_l (0 to 1) of the headline.
    An answer that can't be read scores 0 in all four; `lenient` reads more of them (parse_answer).
    Raises ValueError if there are not as many answers as examples, or none.
    """
    import pandas as pd

    if len(answers) != len(references) or not len(answers):
        raise ValueError(f"{len(answers)} answers for {len(references)} examples")
    pairs = zip(answers, references, strict=True)
    rows = [_judge(parse_answer(answer, lenient=lenient), example) for answer, example in pairs]
    return pd.DataFrame(rows, columns=list(METRICS), dtype=float)


def _judge(parsed: dict[str, str] | None, reference: Mapping[str, str]) -> list[float]:
    if parsed is None:
        return [0.0, 0.0, 0.0, 0.0]
    return [
        1.0,
        float(parsed["section"] == reference["section"]),
        float(not house_style_faults(parsed["headline"], reference["story"])),
        rouge_l(parsed["headline"], reference["headline"]),
    ]


def rouge_l(candidate: str, reference: str) -> float:
    """ROUGE-L F1 of two texts: how much of their word order they share, 0 to 1.

    With L the length of the longest common subsequence of words (lower case, letters and digits
    only), precision is L / words of the candidate, recall L / words of the reference, and F1 their
    harmonic mean. As in Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    a, b = (re.findall("[a-z0-9]+", text.lower()) for text in (candidate, reference))
    return 2 * _common_subsequence(a, b) / (len(a) + len(b)) if a and b else 0.0


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, row by row of the usual table."""
    row = [0] * (len(b) + 1)
    for x in a:
        above = row
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


# -- intervals ---------------------------------------------------------------------------------


def wilson(successes: float, trials: int) -> Interval:
    """Wilson's 95% score interval of a rate; unlike the plain normal one it is sound near 0 and 1.

    Wilson (1927), Journal of the American Statistical Association 22. ValueError for no trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is no rate")
    rate, z2 = successes / trials, Z95**2
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2)) * Z95 / (1 + z2 / trials)
    low = 0.0 if successes == 0 else middle - half
    return Interval(rate, low, 1.0 if successes == trials else middle + half)


def bootstrap(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Interval:
    """95% percentile bootstrap interval of a mean: resample the values, look at the means' spread.

    Efron (1979), The Annals of Statistics 7. The seed makes it the same each time.
    """
    values = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def summary(scores: DataFrame) -> dict[str, Interval]:
    """Mean and 95% interval of each metric: Wilson's for the rates, a bootstrap for ROUGE-L."""
    result = {}
    for metric, values in scores[list(METRICS)].items():
        rate = metric != "rouge_l"
        result[metric] = wilson(values.sum(), len(values)) if rate else bootstrap(values)
    return result


def beyond(a: Interval, b: Interval) -> bool:
    """Whether a lies above b by more than chance: its whole 95% interval does.

    This asks for more than a test of the difference would, so that a True can be relied on.
    """
    return a.low > b.high


# -- tables ------------------------------------------------------------------------------------


def intervals(scores: Mapping[str, DataFrame]) -> DataFrame:
    """The numbers behind `before_after`: a row a metric; columns (name, mean or low or high)."""
    import pandas as pd

    columns = {
        (name, part): {METRICS[m]: getattr(interval, part) for m, interval in summary(s).items()}
        for name, s in scores.items()
        for part in Interval._fields
    }
    return pd.DataFrame(columns)


def before_after(
    scores: Mapping[str, DataFrame], costs: Mapping[str, Mapping[str, object]] | None = None
) -> DataFrame:
    """A table to read: a row a metric, a column a way of asking, cells like "84% (76–90)".

    scores: what `score` returned, by name: {"zero-shot": …, "few-shot": …, "tuned": …}.
    costs: further rows, by name: {"prompt tokens": {"zero-shot": 214, …}}; numbers are rounded.
    """
    import pandas as pd

    table = pd.DataFrame(
        {name: {METRICS[m]: str(i) for m, i in summary(s).items()} for name, s in scores.items()}
    )
    for row, cells in (costs or {}).items():
        table.loc[row] = [_cell(cells.get(name, "")) for name in scores]
    return table


def _cell(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


@dataclass(frozen=True)
class SideBySide:
    """Stories with the answers they got: as HTML in a notebook, as plain text elsewhere."""

    stories: tuple[str, ...]
    references: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]

    def _rows(self, n: int) -> list[tuple[str, str]]:
        given = [(name, answers[n]) for name, answers in self.answers.items()]
        return [("story", self.stories[n]), *given, ("reference", self.references[n])]

    def __str__(self) -> str:
        width = max(map(len, ["reference", *self.answers]))
        blocks = (
            "\n".join(f"{name:<{width}}  {' '.join(text.split())}" for name, text in self._rows(n))
            for n in range(len(self.stories))
        )
        return "\n\n".join(blocks)

    def _repr_html_(self) -> str:
        blocks = []
        for n in range(len(self.stories)):
            rows = "".join(
                f'<tr><th scope="row" style="text-align:left;vertical-align:top">'
                f'{html.escape(name)}</th><td style="text-align:left">{html.escape(text)}</td></tr>'
                for name, text in self._rows(n)
            )
            blocks.append(f"<table>{rows}</table>")
        return "\n".join(blocks)


def side_by_side(
    examples: Sequence[Mapping[str, str]], answers: Mapping[str, Sequence[str]], n: int = 4
) -> SideBySide:
    """The first `n` stories with each way's answer and the reference; `print` it or display it.

    answers: by name, in the order of the examples: {"few-shot": […], "tuned": […]}.
    To see others, pass other examples and their answers. ValueError for unequal numbers.
    """
    if wrong := [name for name, given in answers.items() if len(given) != len(examples)]:
        raise ValueError(f"{wrong[0]!r} has {len(answers[wrong[0]])} answers for {len(examples)}")
    shown = [examples[i] for i in range(min(n, len(examples)))]
    return SideBySide(
        tuple(example["story"] for example in shown),
        tuple(f"{e['section']}: {e['headline']}" for e in shown),
        {name: tuple(given[: len(shown)]) for name, given in answers.items()},
    )
