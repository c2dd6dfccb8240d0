"""Write a model card, which is the page that describes a model on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from course_utils.files import write_text
from course_utils.models.fetch import is_repository

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

INTERVALS = (
    "The numbers in brackets are 95% confidence intervals. The change is the mean of the "
    "differences, after minus before, on the same rows."
)
NO_LICENCE = "No licence has been chosen yet, so nobody but the author may use the adapters."


class Result(NamedTuple):
    """The values of one metric before and after training.

    Attributes:
        metric: the name of the metric.
        before: the mean of the metric before training and its 95% confidence interval, as text.
        after: the mean of the metric after training and its 95% confidence interval, as text.
        change: the mean of the paired differences and its 95% confidence interval, as text. A
            positive change means that the metric is larger after training.
        p: the p-value of the change, as text, such as "0.012" or "< 0.001".
        value: the mean of the metric after training, as a number.
    """

    metric: str
    before: str
    after: str
    change: str
    p: str
    value: float


@dataclass(frozen=True)
class CardFacts:
    """The facts that `model_card` writes into a model card.

    Attributes:
        title: the name of the model.
        base: the name of the base model. If the base model is on the Hugging Face hub, the name is
            "owner/name".
        licence: the identifier of the adapters' licence, such as "apache-2.0", or None if no
            licence was chosen yet.
        data: sentences about the training data.
        recipe: a mapping from the name of each training setting to its value.
        results: the values of each metric, measured on rows that were not used for training.
        dataset: the name of the data set that contains these rows.
        measured_on: a sentence that says on which rows the metrics were measured.
        limits: sentences that say what the model can't do, and what was not measured.
        usage: instructions for using the model, as Markdown.
    """

    title: str
    base: str
    licence: str | None
    data: Sequence[str]
    recipe: Mapping[str, object]
    results: Sequence[Result]
    dataset: str
    measured_on: str
    limits: Sequence[str]
    usage: str


def model_card(facts: CardFacts) -> ModelCard:
    """Make a model card from facts about a model.

    The card begins with metadata in YAML, which the Hugging Face hub reads. The metadata includes
    the licence, the results after training, and the name of the base model if this model is on the
    hub.

    Args:
        facts: the facts about the model.

    Returns:
        The card. `str(card)` is its complete text, metadata included.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out rows",
            dataset_name=facts.dataset,
            metric_type=result.metric,
            metric_value=result.value,
        )
        for result in facts.results
    ]
    data = ModelCardData(
        base_model=facts.base if is_repository(facts.base) else None,
        license=facts.licence,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", "qlora"],
        model_name=facts.title,
        eval_results=results or None,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(facts)}")


def save_card(folder: str | Path, facts: CardFacts) -> Path:
    """Write a model card into a folder as the file README.md.

    Args:
        folder: the folder of the adapters that the card describes.
        facts: the facts about the model.

    Returns:
        The path of the file.

    Raises:
        CourseError: the file can't be written.
    """
    file = Path(folder) / "README.md"
    write_text(file, str(model_card(facts)))
    return file


def _text(facts: CardFacts) -> str:
    """Return the Markdown text that follows the metadata of a card."""
    base = facts.base
    if is_repository(base):
        base = f"[{base}](https://huggingface.co/{base})"
    sections = {
        "Results": "\n\n".join([facts.measured_on, _results(facts.results), INTERVALS]),
        "What it can't do": _items(facts.limits),
        "How to use it": facts.usage,
        "Training data": _items(facts.data),
        "Recipe": _table(("setting", "value"), [(k, str(v)) for k, v in facts.recipe.items()]),
        "Licence": facts.licence or NO_LICENCE,
    }
    about = (
        f"LoRA adapters for {base}, trained with QLoRA: the base model was frozen, and the weights "
        "of its linear layers were stored in 4 bits (NF4)."
    )
    texts = [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join([f"# {facts.title}", about, *texts]) + "\n"


def _results(results: Sequence[Result]) -> str:
    return _table(("metric", "before", "after", "change", "p"), [r[:5] for r in results])


def _items(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {' '.join(sentence.split())}" for sentence in sentences)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
