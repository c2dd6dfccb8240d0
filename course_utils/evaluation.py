"""Prompt a model and score its answers: valid JSON, the right section, house style, ROUGE-L.

    examples -> conversations -> generate -> answers -> score -> summary -> before_after
                                                 │        └────> compare -> comparison_table
                                                 └──> side_by_side

Every rate has a 95% interval: that of 84% on 96 test stories is from 76% to 90%. `compare` tests
whether one prompt or model is better than another by more than chance.
"""

from __future__ import annotations

import copy
import html
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from course_utils import sft
from course_utils.decoding import Decoder, supports
from course_utils.machine import runtime, threads
from course_utils.machine.validation import one_answer_each, positive
from course_utils.news import house_style_errors
from course_utils.significance import (
    SIGNIFICANT,
    Interval,
    bootstrap,
    mcnemar,
    p_text,
    sign_flip,
    wilson,
)

if TYPE_CHECKING:
    from pandas import DataFrame, Series
    from peft import PeftModel
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Model: TypeAlias = PreTrainedModel | PeftModel

METRICS = {
    "valid_json": "valid JSON",
    "section_right": "section right",
    "house_style": "house style",
    "rouge_l": "headline ROUGE-L",
}
# The keys and values of at most this many tokens are stored for a batch, including new tokens. A
# token needs 23 kB in 16 bits for SmolLM2-135M. transformers stores the shared prefix once for
# each prompt, so its tokens count for each prompt. `course_utils.decoding` stores it only once, so
# there its tokens don't count.
BATCH_TOKENS = 6000
# The metrics that can have any value. All others are 0 or 1, so their mean is a share.
CONTINUOUS = ("rouge_l", "loss")


class Comparison(NamedTuple):
    """How two prompts or models differ in one metric, on the same stories.

    Attributes:
        difference: Mean of `after` minus mean of `before`, with its paired bootstrap interval.
        p: Two-sided p-value: the probability that chance alone makes a difference that is at least
            as large.
    """

    difference: Interval
    gained: int
    lost: int
    p: float

    @property
    def verdict(self) -> str:
        """The conclusion: "higher", "lower" or "no difference shown"."""
        if self.p >= SIGNIFICANT:
            return "no difference shown"
        return "higher" if self.difference.mean > 0 else "lower"

    @property
    def points(self) -> str:
        """The difference in percentage points, such as "+65 (+55 to +74)"."""
        mean, low, high = (f"{100 * value:+.0f}" for value in self.difference)
        return f"{mean} ({low} to {high})"

    def __str__(self) -> str:

        p = p_text(self.p, "p")
        return f"{self.verdict}: {self.points} points, gained {self.gained}, lost {self.lost}, {p}"


# -- asking the model --------------------------------------------------------------------------


# The arguments that can be given only by name are options with defaults.
def generate(  # noqa: PLR0913
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    *,
    max_new_tokens: int = 40,
    batch_size: int = 24,
    progress: bool = True,
) -> list[str]:
    """Generate the model's answer to each conversation, in the order of the conversations.

    Decoding is greedy: each new token is the most likely token. Prompts of similar length share a
    batch, and the keys and values of the tokens with which all prompts begin are computed only
    once. `course_utils.decoding` computes the answers if it supports the model, and transformers'
    `generate` otherwise.

    In 16 bits, the size of a batch changes the order in which numbers are added, and therefore the
    rounding. If two tokens are almost equally likely, the answer may then change.
    """
    positive("max_new_tokens", max_new_tokens)
    positive("batch_size", batch_size)
    from tqdm import tqdm

    prompts = [_prompt_ids(messages, tokenizer) for messages in conversations]
    prefix, ends = sft.shared_prefix(prompts), _end_tokens(model, tokenizer)
    if _slides(model, max(map(len, prompts), default=0) + max_new_tokens):
        prefix = []
    fast = supports(model)
    widths = [len(p) + max_new_tokens - (len(prefix) if fast else 0) for p in prompts]
    answers = [""] * len(prompts)
    # Memory that was freed earlier leaves gaps, and the dequantized weights don't fit into them.
    # The garbage collection takes 0.3 s. A single answer should come quickly and needs little
    # memory for keys and values, so garbage is collected only before several answers.
    runtime.release_memory(collect=len(prompts) > 1)
    with (
        evaluating(model),
        threads.sharing_cores(),
        tqdm(total=len(prompts), unit="answer", disable=not progress) as bar,
    ):
        pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        decoder = Decoder(model, prefix) if fast else _GeneralDecoder(model, prefix, pad)
        for batch in _by_width(widths, batch_size):
            threads.adapt()
            rests = [prompts[i][len(prefix) :] for i in batch]
            for i, new in zip(batch, decoder.answers(rests, ends, max_new_tokens), strict=True):
                answers[i] = _text(new, ends, tokenizer)
            bar.update(len(batch))
        # A Decoder keeps the dequantized weights, so it goes before memory is released.
        del decoder
    runtime.release_memory(collect=False)
    return answers


def _prompt_ids(
    messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase
) -> list[int]:

    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ValueError(
            "conversations must be a list of conversations, and each conversation a list of "
            f"messages, got {messages!r:.80} as a conversation"
        )
    if not messages:
        raise ValueError("a conversation needs at least one message")
    if messages[-1]["role"] == "assistant":
        raise ValueError(
            "the last message is the assistant's: leave it out, because the model generates it"
        )
    return sft.prompt_ids(messages, tokenizer)


def _slides(model: Model, tokens: int) -> bool:
    """Return whether `tokens` tokens are more than a sliding window of the model's attention.

    Then the prompts can't share a prefix: the padding that follows it would take the places
    of tokens in the window.
    """
    window = getattr(model.config, "sliding_window", None)
    return window is not None and tokens > window


def _by_width(widths: list[int], batch_size: int) -> Iterator[list[int]]:
    """Yield the row numbers of each batch, beginning with the widest rows."""
    order = sorted(range(len(widths)), key=lambda i: -widths[i])
    while order:
        size = min(batch_size, max(1, BATCH_TOKENS // widths[order[0]]))
        yield order[:size]
        order = order[size:]


class _GeneralDecoder:
    """Does the work of `course_utils.decoding.Decoder` with transformers, for every model.

    Prompts are padded on the left, so that each answer starts where its prompt ends:

        prefix  pad pad <user> story <assistant>   {"section": …
        prefix  <user> a longer story <assistant>  {"section": …
    """

    def __init__(self, model: Model, prefix: list[int], pad: int):
        self.model, self.prefix, self.pad = model, prefix, pad
        self.device = model.get_input_embeddings().weight.device
        self.cache = self._read_prefix()

    def answers(
        self, rests: list[list[int]], ends: list[int], max_new_tokens: int
    ) -> list[list[int]]:
        """Return the new tokens of each answer. Tokens after an end token mean nothing."""
        import torch
        from transformers import GenerationConfig

        ids, mask = self._padded(rests)
        # `generate` appends to the cache, so each batch gets a copy.
        cache = copy.deepcopy(self.cache)
        for keys_and_values in cache.values():
            keys_and_values.batch_repeat_interleave(len(rests))
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=ends,
            pad_token_id=self.pad,
        )
        with torch.no_grad():
            out = self.model.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                generation_config=config,
                **cache,
            )
        return out[:, ids.shape[1] :].tolist()

    def _read_prefix(self) -> dict[str, Any]:
        """Return the prefix's keys and values as a keyword argument of `generate`."""
        import torch

        if not self.prefix:
            return {}
        with torch.no_grad():
            ids = torch.tensor([self.prefix], device=self.device)
            out = self.model(input_ids=ids, use_cache=True, logits_to_keep=1)
        # Before version 5.24, transformers called the cache past_key_values.
        name = "cache" if hasattr(out, "cache") else "past_key_values"
        return {name: getattr(out, name)}

    def _padded(self, rests: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, (batch, width): the prefix, padding, the rest of each prompt.

        The mask depends on positions, not on tokens, because the padding token may be the end
        token.
        """
        import torch

        width = max(map(len, rests))
        ids = [self.prefix + [self.pad] * (width - len(rest)) + rest for rest in rests]
        mask = torch.ones(len(rests), len(self.prefix) + width, dtype=torch.long)
        for row, rest in zip(mask, rests, strict=True):
            row[len(self.prefix) : len(row) - len(rest)] = 0
        return torch.tensor(ids), mask


def _text(new: list[int], ends: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of new tokens up to the first end token."""
    answer = list(itertools.takewhile(lambda token: token not in ends, new))
    return tokenizer.decode(answer, skip_special_tokens=True).strip()


def _end_tokens(model: Model, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return list(dict.fromkeys(e for e in [tokenizer.eos_token_id, *ends] if e is not None))


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Put a model into eval mode (no dropout, no checkpointing) inside the with block."""
    packing = _pack_input(model.get_output_embeddings())
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        packing.remove()
        for module, mode in training.items():
            module.training = mode


def _pack_input(head: nn.Module) -> RemovableHandle:
    """Keep torch from copying the head's weights once for each row of the batch.

    `generate` passes a slice with only the last position to the head. If the weights need no
    gradient, torch multiplies this slice with one copy of the weights per row. The copies need
    0.9 GB for 16 rows of SmolLM2-135M. Torch makes no copies if the slice is contiguous.
    """
    return head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))


def mean_prompt_tokens(
    conversations: Sequence[Sequence[Mapping[str, str]]], tokenizer: PreTrainedTokenizerBase
) -> float:
    """Return the mean number of tokens in a prompt, which the model reads before it answers."""
    counts = [len(_prompt_ids(messages, tokenizer)) for messages in conversations]
    return sum(counts) / len(counts)


# -- scoring the answers -----------------------------------------------------------------------


def parse_answer(answer: str, *, lenient: bool = False) -> dict[str, str] | None:
    """Return the section and the headline of an answer, or None if they cannot be read.

    Args:
        lenient: False accepts only a single JSON object, possibly with white space around it. The
            object must have exactly the keys "section" and "headline", each once and with text as
            its value. True reads the first {...} that is a JSON object, even inside other text or a
            code fence. This object may have other keys, and its section may have capitals.
    """
    parsed = _first_object(answer) if lenient else _only_object(answer)
    if parsed is None or not all(isinstance(parsed.get(k), str) for k in ("section", "headline")):
        return None
    section = parsed["section"].strip().lower() if lenient else parsed["section"]
    return {"section": section, "headline": parsed["headline"]}


def _only_object(answer: str) -> dict | None:
    try:
        pairs = json.loads(answer, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    if not answer.strip().startswith("{") or sorted(k for k, _ in pairs) != ["headline", "section"]:
        return None
    return dict(pairs)


def _first_object(answer: str) -> dict | None:
    for brace in re.finditer("{", answer):
        try:
            return json.JSONDecoder().raw_decode(answer, brace.start())[0]
        except (ValueError, RecursionError):
            continue
    return None


def score(
    answers: Sequence[str], references: Sequence[Mapping[str, str]], *, lenient: bool = False
) -> DataFrame:
    """Score each answer against its news example.

    An answer that cannot be read scores 0 in all four columns.

    Returns:
        A table with a row for each answer. The columns valid_json, section_right and house_style
        are 0 or 1. The column rouge_l is from 0 to 1 and compares the headlines.
    """
    import pandas as pd

    one_answer_each(answers, references, "example")
    pairs = zip(answers, references, strict=True)
    rows = [
        _score_answer(parse_answer(answer, lenient=lenient), example) for answer, example in pairs
    ]
    return pd.DataFrame(rows, columns=list(METRICS), dtype=float)


def _score_answer(parsed: dict[str, str] | None, reference: Mapping[str, str]) -> list[float]:
    if parsed is None:
        return [0.0, 0.0, 0.0, 0.0]
    return [
        1.0,
        float(parsed["section"] == reference["section"]),
        float(not house_style_errors(parsed["headline"], reference["story"])),
        rouge_l(parsed["headline"], reference["headline"]),
    ]


def score_sections(answers: Sequence[str], references: Sequence[Mapping[str, str]]) -> DataFrame:
    """Score answers that should consist of the section alone, such as "sport".

    An answer counts only if it is equal to the section: "Sport" and "sport." score 0.
    """
    import pandas as pd

    one_answer_each(answers, references, "example")
    right = [
        float(answer == example["section"])
        for answer, example in zip(answers, references, strict=True)
    ]
    return pd.DataFrame({"section_right": right})


def rouge_l(candidate: str, reference: str) -> float:
    """Return the ROUGE-L F1 score of two texts, from 0 (no common word) to 1 (equal words).

    With the length L of the longest common subsequence of words (lower case, letters and digits
    only), F1 is 2 L / (words of the candidate + words of the reference) (Lin 2004, "ROUGE: A
    Package for Automatic Evaluation of Summaries").
    """
    a, b = (re.findall(r"[^\W_]+", text.lower()) for text in (candidate, reference))
    return 2 * _common_subsequence(a, b) / (len(a) + len(b)) if a and b else 0.0


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by dynamic programming row by row."""
    row = [0] * (len(b) + 1)
    for x in a:
        above = row
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


# -- intervals ---------------------------------------------------------------------------------


def summary(scores: DataFrame) -> dict[str, Interval]:
    """Return the mean and 95% interval of each column of a table of scores.

    Rates have the intervals of `wilson`, and CONTINUOUS metrics those of `bootstrap`.
    """
    return {
        metric: bootstrap(values) if metric in CONTINUOUS else wilson(values.sum(), len(values))
        for metric, values in scores.items()
    }


# -- comparisons -------------------------------------------------------------------------------


def compare(before: DataFrame, after: DataFrame) -> dict[str, Comparison]:
    """Compare two prompts or models that answered the same stories, metric by metric.

    The comparison is paired: it looks at the difference on each story. What is easy or hard for
    both models cancels, so it finds differences that two separate intervals would hide.

    The p-value is from `mcnemar` if the metric is 0 or 1, and from `sign_flip` otherwise. The
    interval of the difference is the `bootstrap` interval of the differences. Four metrics are four
    tests: if nothing changed and the metrics were independent, at least one of them would still
    have p < 0.05 with a probability of 19%.
    """
    if len(before) != len(after) or not len(before):
        raise ValueError(
            "before and after must score the same stories, at least one: got "
            f"{len(before)} and {len(after)} rows"
        )
    if not (metrics := [metric for metric in before if metric in after]):
        raise ValueError(
            f"before and after have no common metric: {list(before)} and {list(after)}"
        )
    return {metric: _compare(metric, before[metric], after[metric]) for metric in metrics}


def _compare(metric: str, before: Series, after: Series) -> Comparison:

    differences = (after.to_numpy(dtype=float) - before.to_numpy(dtype=float)).tolist()
    if missing := sum(map(math.isnan, differences)):
        raise ValueError(f"scores of {metric!r} are missing for {missing} of {len(before)} stories")
    gained, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p = sign_flip(differences) if metric in CONTINUOUS else mcnemar(gained, lost)
    return Comparison(bootstrap(differences), gained, lost, p)


# -- tables ------------------------------------------------------------------------------------


def intervals(scores: Mapping[str, DataFrame]) -> DataFrame:
    """Return the mean of each metric and the ends of its interval, with a row for each metric.

    The columns are (name, "mean"), (name, "low") and (name, "high").
    """
    import pandas as pd

    columns = {
        (name, part): {_label(m): getattr(interval, part) for m, interval in summary(s).items()}
        for name, s in scores.items()
        for part in Interval._fields
    }
    return pd.DataFrame(columns)


def before_after(
    scores: Mapping[str, DataFrame], costs: Mapping[str, Mapping[str, object]] | None = None
) -> DataFrame:
    """Return a table with a row for each metric and a column for each prompt or model.

    A cell contains the mean and its interval, such as "84% (76–90)".
    """
    import pandas as pd

    # A table of scores may lack a metric, as that of `score_sections` does.
    table = pd.DataFrame(
        {name: {_label(m): str(i) for m, i in summary(s).items()} for name, s in scores.items()}
    ).fillna("")
    for row, cells in (costs or {}).items():
        table.loc[row] = [_cell(cells.get(name, "")) for name in scores]
    return table


def comparison_table(before: DataFrame, after: DataFrame) -> DataFrame:
    """Return the results of `compare` as a table with a row for each metric.

    The columns are the difference in percentage points with its 95% interval, the numbers of
    stories gained and lost, the p-value, and the verdict.
    """
    import pandas as pd

    rows = {
        _label(metric): {
            "difference in points": c.points,
            "gained": c.gained,
            "lost": c.lost,
            "p": p_text(c.p),
            "verdict": c.verdict,
        }
        for metric, c in compare(before, after).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _label(metric: str) -> str:
    return METRICS.get(metric, metric.replace("_", " ").replace("json", "JSON"))


def _cell(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


@dataclass(frozen=True)
class SideBySide:
    """Stories with their answers, shown as HTML in a notebook."""

    stories: tuple[str, ...]
    references: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]

    def _rows(self, n: int) -> list[tuple[str, str]]:
        answers = [(name, texts[n]) for name, texts in self.answers.items()]
        return [("story", self.stories[n]), *answers, ("reference", self.references[n])]

    def _repr_html_(self) -> str:
        blocks = []
        for n in range(len(self.stories)):
            rows = "".join(
                f'<tr><th scope="row" style="text-align:left;vertical-align:top">'
                f'{html.escape(name)}</th><td style="text-align:left">{html.escape(text)}</td></tr>'
                for name, text in self._rows(n)
            )
            blocks.append(f'<table style="margin-bottom:1.5em">{rows}</table>')
        return "\n".join(blocks)


def side_by_side(
    examples: Sequence[Mapping[str, str]], answers: Mapping[str, Sequence[str]], n: int = 4
) -> SideBySide:
    """Return the first `n` stories with their references and the answers of each prompt or model.

    Args:
        answers: Name of the prompt or model → its answers in the order of the examples, such as
            {"few-shot": […], "tuned": […]}.
    """
    if wrong := [name for name, texts in answers.items() if len(texts) != len(examples)]:
        raise ValueError(
            f"there must be one answer for each example, but {wrong[0]!r} has "
            f"{len(answers[wrong[0]])} answers for {len(examples)} examples"
        )
    shown = [examples[i] for i in range(min(n, len(examples)))]
    return SideBySide(
        tuple(example["story"] for example in shown),
        tuple(f"{e['section']}: {e['headline']}" for e in shown),
        {name: tuple(texts[: len(shown)]) for name, texts in answers.items()},
    )
