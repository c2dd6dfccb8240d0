"""Compare all exported forms of a tuned model, and broken exports, on the 96 test stories.

    course bench parity                       train lecture 07's adapters first, if they are missing
    course bench parity --adapters FOLDER     use saved adapters

The reference is the model as it was trained: adapters on NF4 weights, in transformers. All other
forms answer the same 96 stories. The report compares each form with the reference in three ways: by
the tokens of the prompts, by the answers, and by the probabilities of each token of the right
answers (KL divergence). Then the benchmark exports the model with a common mistake on purpose, one
mistake at a time, and measures these exports in the same way. All exported files are kept in
build/benchmarks/parity. The form in Q4_K_M needs the package llama-cpp-python, and is left out
without it.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from operator import eq
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

from torch import Tensor
from transformers import AutoTokenizer

from course_utils import evaluation, export, news, sft
from course_utils.export import gguf_files
from course_utils.machine.units import format_bytes
from course_utils.models import fetch_base, load_base
from course_utils.parity import divergences, of_engine, of_model, probabilities
from course_utils.serving import Engine
from course_utils.training import Recipe, attach_adapters, finetune, load_adapters
from workshop.benchmarks.runner import RESULTS, ROOT, Benchmark, Report, measured_here, table

FOLDER = RESULTS / "parity"
DATA = ROOT / "course_utils" / "data" / "parity.json"
REFERENCE = "adapters on NF4 (as trained)"
# The KL divergence is measured on every fourth story: on 24 stories, three from each section. The
# answers to these stories have more than 600 tokens.
KL_STORIES = slice(None, None, 4)
# The exports with a mistake have this format. Its rounding errors are too small to hide the
# mistakes.
FORMAT = "Q8_0"
RIGHT = f"dequantized {FORMAT} + adapters"
# The name of another family's chat template in llama.cpp. This template contains neither
# <|im_start|> nor <|im_end|>, which SmolLM2's template puts around each message.
WRONG_TEMPLATE = "llama2"
NEW_TOKENS = 40
SCORES = ("valid_json", "section_right", "house_style")


@dataclass
class Subject:
    """A loaded form of the tuned model.

    Attributes:
        answers: a function from conversations to the model's answers.
        probabilities: a function from the token ids of a prompt and of an answer to the
            probabilities for each token of the answer, of shape (answer, vocab).
        token_ids: a function from a conversation to the token ids of its prompt.
    """

    answers: Callable[[Sequence[Any]], list[str]]
    probabilities: Callable[[list[int], list[int]], Tensor]
    token_ids: Callable[[Any], list[int]]
    files: Sequence[Path]
    close: Callable[[], None] = field(default=lambda: None)


@cache
def stories() -> list[dict]:
    """Return the 96 test stories of the news briefs."""
    return news.load_news()["test"].to_list()


@cache
def chats() -> list[Any]:
    """Return a conversation for each test story. Each ends with the story, without an answer."""
    return [news.tuned_messages(story, answered=False) for story in stories()]


@cache
def right_answers() -> list[list[int]]:
    """Return the token ids of the right answer to each of KL_STORIES. Each ends with <|im_end|>."""
    tokenizer = AutoTokenizer.from_pretrained(fetch_base())
    chosen = map(news.answer, stories()[KL_STORIES])
    return [sft.answer_ids(answer, tokenizer) for answer in chosen]


# --- the files ------------------------------------------------------------------------------------


def trained(adapters: Path) -> Path:
    """Return the folder of the adapters. If it is missing, train lecture 07's adapters first."""
    if not adapters.is_dir():
        model, tokenizer = load_base(quantization="nf4")
        model = attach_adapters(model, Recipe())
        train = [news.tuned_messages(story) for story in news.load_news()["train"]]
        rows = sft.encode_all(train, tokenizer)
        run = finetune(model, tokenizer, rows, output_dir=FOLDER / "training")
        assert run.adapters, "a finished run has saved its adapters"
        export.save_adapters(run.adapters, adapters)
    return adapters


def made(name: str, make: Callable[[Path], object]) -> Path:
    """Return the path of a file or folder in FOLDER. If it is missing, `make` writes it first."""
    path = FOLDER / name
    if not path.exists():
        make(path)
    return path


def merged(adapters: Path, into: str) -> Path:
    """Return the folder of the model merged into "dequantized" or "original" bfloat16 weights."""
    return made(f"merged-{into}", lambda new: export.save_merged(adapters, new, into=into))


def merged_gguf(adapters: Path, stored_as: str) -> Path:
    """Return the GGUF file of the model whose adapters are merged into the dequantized weights."""
    model = merged(adapters, "dequantized")
    return made(f"merged-{stored_as}.gguf", lambda new: export.save_gguf(model, new, stored_as))


def q4_k_m(adapters: Path) -> Path:
    """Return the GGUF file of the merged model that llama.cpp has rounded to Q4_K_M."""
    source = merged_gguf(adapters, "F16")
    return made("merged-Q4_K_M.gguf", lambda new: export.quantize_gguf(source, new, "Q4_K_M"))


def base_gguf(adapters: Path, weights: str, stored_as: str) -> Path:
    """Return the GGUF file of the base model without adapters.

    Args:
        adapters: the folder of the adapters, which names the base model.
        weights: "original" for the weights of the base model, or "dequantized" for the same weights
            after NF4 has rounded them.
        stored_as: the format of the file, as in `export.save_gguf`.
    """
    base = export.read_adapters(adapters).base_folder()
    if weights == "dequantized":
        base = made("base-dequantized", partial(export.save_dequantized, base))
    name = f"base-{weights}-{stored_as}.gguf"
    return made(name, lambda new: export.save_gguf(base, new, stored_as))


def adapter_gguf(adapters: Path) -> Path:
    """Return the GGUF file of the adapters."""
    return made("adapters.gguf", lambda new: export.save_adapter_gguf(adapters, new))


def unordered(name: str, save: Callable[[Path], object]) -> Path:
    """Return a file in which the rows of q and k have Hugging Face's order.

    This is a mistake, because llama.cpp expects the rows in its own order.
    """
    with patch.object(gguf_files, "interleave", lambda rows, _: rows):
        return made(name, save)


def unscaled_adapters(adapters: Path) -> Path:
    """Return a GGUF file of the adapters with the wrong value α = r, so that the scale α/r is 1."""
    from transformers import AutoConfig

    saved = export.read_adapters(adapters)
    config = AutoConfig.from_pretrained(saved.base_folder())
    tensors = export.adapter_tensors(saved, config, float(saved.config.lora_alpha))
    wrong = float(saved.config.r)
    return made("unscaled.gguf", lambda new: export.write_adapter_gguf(new, config, wrong, tensors))


# --- the forms ------------------------------------------------------------------------------------


def in_transformers(model: Any, tokenizer: Any, files: Sequence[Path]) -> Subject:
    """Return the Subject for a transformers model."""
    return Subject(
        lambda some: evaluation.generate(model, tokenizer, some, max_new_tokens=NEW_TOKENS),
        of_model(model),
        lambda chat: sft.prompt_ids(chat, tokenizer),
        files,
    )


def as_trained(adapters: Path) -> Subject:
    """Load the reference: the base model in NF4 with the adapters, as they were trained."""
    model, tokenizer = load_base(quantization="nf4")
    model = load_adapters(model, adapters).eval()
    weights = sorted(export.read_adapters(adapters).base_folder().glob("*.safetensors"))
    files = [adapters / "adapter_model.safetensors", *weights]
    return in_transformers(model, tokenizer, files)


def merged_16(adapters: Path, into: str) -> Subject:
    """Load the model that was merged into "dequantized" or "original" weights, in bfloat16."""
    folder = merged(adapters, into)
    model, tokenizer = load_base(path=folder)
    return in_transformers(model, tokenizer, sorted(folder.glob("*.safetensors")))


def merged_4(adapters: Path, into: str) -> Subject:
    """Load the base model in NF4, and merge the adapters."""
    model, tokenizer = load_base(quantization="nf4")
    model = export.merge(load_adapters(model, adapters), into, "nf4").eval()
    return in_transformers(model, tokenizer, [])


def in_llama_cpp(
    model: Path,
    adapters: Path | None = None,
    *,
    template: str | None = None,
    twice: bool = False,
) -> Subject:
    """Load a GGUF model with llama.cpp.

    Args:
        adapters: the GGUF file of the adapters, or None for a model without adapters.
        template: the name of a chat template that replaces the one in the GGUF file.
        twice: whether each prompt begins with two BOS tokens instead of one.
    """
    engine = Engine(model, {"news": adapters} if adapters else None, chat_template=template)
    name = "news" if adapters else None
    bos = engine.token_ids("<|im_start|>") if twice else []

    def token_ids(chat: Any) -> list[int]:
        return bos + engine.token_ids(engine.prompt(chat))

    def answers(some: Sequence[Any]) -> list[str]:
        if not twice:
            return engine.answers(some, name, max_new_tokens=NEW_TOKENS)
        done = (engine.complete(token_ids(chat), name, n_predict=NEW_TOKENS) for chat in some)
        return [answer["content"].strip() for answer in done]

    return Subject(
        answers,
        of_engine(engine, name),
        token_ids,
        [model, *([adapters] if adapters else [])],
        engine.close,
    )


def forms(adapters: Path) -> dict[str, Callable[[], Subject]]:
    """Return a dict from the name of each form to the function that loads it.

    The first form is the reference, because the others are compared with it.
    """

    def whole(kind: str) -> Subject:
        return in_llama_cpp(merged_gguf(adapters, kind))

    def with_adapters(weights: str, kind: str) -> Subject:
        return in_llama_cpp(base_gguf(adapters, weights, kind), adapter_gguf(adapters))

    found: dict[str, Callable[[], Subject]] = {
        REFERENCE: partial(as_trained, adapters),
        "merged into dequantized, bfloat16": partial(merged_16, adapters, "dequantized"),
        "merged into original, bfloat16": partial(merged_16, adapters, "original"),
        "merged into dequantized, NF4": partial(merged_4, adapters, "dequantized"),
        "merged into original, NF4": partial(merged_4, adapters, "original"),
        "merged, F16": partial(whole, "F16"),
        "merged, Q8_0": partial(whole, "Q8_0"),
        "merged, Q4_0": partial(whole, "Q4_0"),
        "merged, Q4_K_M": lambda: in_llama_cpp(q4_k_m(adapters)),
        "dequantized F16 + adapters": partial(with_adapters, "dequantized", "F16"),
        RIGHT: partial(with_adapters, "dequantized", FORMAT),
        "dequantized Q4_0 + adapters": partial(with_adapters, "dequantized", "Q4_0"),
        "original Q8_0 + adapters": partial(with_adapters, "original", "Q8_0"),
        "original Q4_1 + adapters": partial(with_adapters, "original", "Q4_1"),
        "original Q4_0 + adapters": partial(with_adapters, "original", "Q4_0"),
    }
    if not importlib.util.find_spec("llama_cpp"):
        print("without Q4_K_M: run `pip install llama-cpp-python` to measure it, too")
        del found["merged, Q4_K_M"]
    return found


def mistakes(adapters: Path) -> dict[str, Callable[[], Subject]]:
    """Return a dict from each mistake's name to a function that loads an export with the mistake.

    All these exports have the format FORMAT and run in llama.cpp. Each has only one mistake.
    """

    def base() -> Path:
        return base_gguf(adapters, "dequantized", FORMAT)

    def model() -> Path:
        return merged(adapters, "dequantized")

    def right(**options: Any) -> Subject:
        return in_llama_cpp(base(), adapter_gguf(adapters), **options)

    return {
        "adapters: q and k in Hugging Face's order": lambda: in_llama_cpp(
            base(),
            unordered("unordered.gguf", lambda new: export.save_adapter_gguf(adapters, new)),
        ),
        "model: q and k in Hugging Face's order": lambda: in_llama_cpp(
            unordered("unordered-merged.gguf", lambda new: export.save_gguf(model(), new, FORMAT))
        ),
        "scale lost (α/r = 1 instead of 2)": lambda: in_llama_cpp(
            base(), unscaled_adapters(adapters)
        ),
        "BOS twice": partial(right, twice=True),
        f"wrong chat template ({WRONG_TEMPLATE})": partial(right, template=WRONG_TEMPLATE),
        "wrong base (the merged model)": lambda: in_llama_cpp(
            merged_gguf(adapters, FORMAT), adapter_gguf(adapters)
        ),
        "adapters not applied": lambda: in_llama_cpp(base()),
    }


# --- measuring ------------------------------------------------------------------------------------


def measure(adapters: Path) -> Iterator[Report]:
    """Measure all forms and all mistakes, and yield the report after each measurement."""
    adapters = trained(adapters)
    report: Report = {"forms": {}, "mistakes": {}}
    reference: dict[str, Any] = {}
    for part, loaders in {"forms": forms(adapters), "mistakes": mistakes(adapters)}.items():
        for name, load in loaders.items():
            print(name, flush=True)
            facts = facts_of(load())
            reference = reference or facts
            report[part][name] = compared(facts, reference)
            yield report | measured_here("xllamacpp")


def facts_of(subject: Subject) -> dict[str, Any]:
    """Measure a form, and free its memory.

    Returns:
        A dict with the prompts as tokens, the answers, the bytes of the files, and for each of
        KL_STORIES the probabilities for each token of the right answer, of shape (answer, vocab).
    """
    prompts = [subject.token_ids(chat) for chat in chats()]
    answers = subject.answers(chats())
    found = probabilities(subject.probabilities, prompts[KL_STORIES], right_answers())
    subject.close()
    return {
        "prompts": prompts,
        "answers": answers,
        "probabilities": found,
        "bytes": sum(file.stat().st_size for file in subject.files),
    }


def compared(facts: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """Compare a form with the reference.

    Returns:
        A dict with these items:
            divergences: the KL divergence from the reference for each of KL_STORIES, in nats, mean
                over the tokens of the right answer
            stop: the probability of the end token after the right answer, for each of KL_STORIES
            equal_prompts: the number of stories whose prompt has the same tokens as the reference's
            equal_answers: the number of stories whose answer is the same text as the reference's
            scores: a dict from each metric in SCORES to a list with 0 or 1 for each story
            bytes: the total size of the files in bytes (B)
    """
    scores = evaluation.score(facts["answers"], stories())
    found = divergences(reference["probabilities"], facts["probabilities"]).tolist()
    ends = zip(facts["probabilities"], right_answers(), strict=True)
    return {
        "divergences": [round(x, 6) for x in found],
        "stop": [round(rows[-1, ids[-1]].item(), 6) for rows, ids in ends],
        "equal_prompts": sum(map(eq, facts["prompts"], reference["prompts"])),
        "equal_answers": sum(map(eq, facts["answers"], reference["answers"])),
        "scores": {metric: scores[metric].astype(int).tolist() for metric in SCORES},
        "bytes": facts["bytes"],
    }


# --- the report -----------------------------------------------------------------------------------


def forms_table(report: Report) -> str:
    """Return a table with a row for each form."""
    return _table(report["forms"], "form")


def mistakes_table(report: Report) -> str | None:
    """Return a table with a row for each mistake, after a row for the correct export."""
    if RIGHT not in report["forms"]:
        return None
    rows = {f"none: {RIGHT}": report["forms"][RIGHT]} | report["mistakes"]
    return _table(rows, "mistake")


def _table(results: dict[str, dict], kind: str) -> str:
    head = [
        *(kind, "prompts equal", "KL (nats)", "stops", "answers equal"),
        *(evaluation.METRICS[metric] for metric in SCORES),
        "on disk",
    ]
    rows = []
    for name, result in results.items():
        count = len(stories())
        rates = (sum(result["scores"][metric]) / count for metric in SCORES)
        rows.append(
            [
                name,
                f"{result['equal_prompts']} of {count}",
                f"{fmean(result['divergences']):.4f}",
                f"{fmean(result['stop']):.2f}",
                f"{result['equal_answers']} of {count}",
                *(f"{rate:.0%}" for rate in rates),
                format_bytes(result["bytes"]) if result["bytes"] else "–",
            ]
        )
    return table(head, rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option `--adapters`, which names a folder of saved adapters."""
    parser.add_argument("--adapters", type=Path, default=FOLDER / "adapters", metavar="FOLDER")


BENCHMARK = Benchmark(
    measure, {"forms": forms_table, "mistakes": mistakes_table}, add_options=add_options, data=DATA
)
