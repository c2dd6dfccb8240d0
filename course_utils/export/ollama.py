"""Write a Modelfile, with which Ollama runs a GGUF model and its adapters.

The first of these commands makes a model with the name "news" from a Modelfile. The second starts a
chat with this model:

    ollama create news -f Modelfile
    ollama run news

If a Modelfile has no template, Ollama compares the chat template in the GGUF file with the
templates that it knows. If none of these is similar, the model gets the user's text without any
template, which is not the format of its training data. So `save_modelfile` translates the chat
template into Ollama's format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.files import write_text
from course_utils.validation import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant")


def save_modelfile(
    file: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    model: str | Path,
    adapters: str | Path | None = None,
    *,
    system: str | None = None,
) -> Path:
    """Write a Modelfile that names a model's GGUF files and contains its chat template.

    The Modelfile also sets the temperature to 0, so that decoding is greedy, and makes each answer
    stop at the tokenizer's end token.

    Args:
        file: the path of the new file, usually named "Modelfile".
        tokenizer: the tokenizer of the model, which must have a chat template.
        model: the path of the model's GGUF file, relative to the folder of the Modelfile.
        adapters: the path of a GGUF file with adapters, also relative to the folder of the
            Modelfile, or None if the model has no adapters or if they are merged into the model.
        system: the system message that was used in training, or None. This argument is needed if
            the chat template adds a system message of its own to conversations that have none.

    Returns:
        The path of the new file.

    Raises:
        CourseError: the tokenizer has no chat template, the chat template can't be translated, or
            the file can't be written.
    """
    lines = [f"FROM ./{model}", *([f"ADAPTER ./{adapters}"] if adapters else [])]
    lines.append(f"TEMPLATE {_quoted(ollama_template(tokenizer, system=bool(system)))}")
    lines += [f"SYSTEM {_quoted(system)}"] if system else []
    lines.append("PARAMETER temperature 0")
    lines.append(f"PARAMETER stop {_quoted(tokenizer.eos_token)}")
    write_text(Path(file), "\n".join(lines) + "\n")
    return Path(file)


def ollama_template(tokenizer: PreTrainedTokenizerBase, *, system: bool = True) -> str:
    """Translate a chat template from Jinja into the template language of Go, which Ollama uses.

    The translation assumes that the chat template puts a fixed text before and after each message,
    and that these texts depend only on the role of the message. To check this, the function applies
    the original and the translation to two conversations, and compares the results.

    Args:
        tokenizer: the tokenizer with the chat template.
        system: whether the conversations begin with a system message.

    Returns:
        The text of the translated template.

    Raises:
        CourseError: the tokenizer has no chat template, the chat template changes messages, or the
            original and the translation differ on one of the two conversations.
    """
    if not tokenizer.chat_template:
        raise CourseError("the tokenizer has no chat template: pass a tokenizer that has one")
    around = _around(tokenizer)
    opening = around["assistant"][0]
    roles = ["system"] if system and "system" in around else []
    for turns in (["user"], ["user", "assistant", "user"]):
        chat = [{"role": role, "content": role[0]} for role in roles + turns]
        told = [m["content"].join(around[m["role"]]) for m in chat]
        if "".join([*told, opening]) != _rendered(tokenizer, chat, answer=True):
            hint = "" if system else "give the system message of training as `system`, or "
            raise CourseError(
                "the chat template does more than put a fixed text around each message, so it "
                f"can't be translated for Ollama: {hint}write the TEMPLATE of the Modelfile by hand"
            )
    messages = [
        f'{{{{ if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{ end }}}}'
        for role, (before, after) in around.items()
    ]
    return f"{{{{ range .Messages }}}}{''.join(messages)}{{{{ end }}}}{opening}"


def _around(tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[str, str]]:
    """Find the texts that a chat template puts before and after a message of each role.

    Returns:
        A dict from each role to the text before and the text after its message. The role "system"
        is missing if the chat template refuses system messages.

    Raises:
        CourseError: the chat template changes the content of a message, or it changes earlier
            messages when another message follows them.
    """
    from jinja2 import TemplateError

    around: dict[str, tuple[str, str]] = {}
    chat: list[dict[str, str]] = []
    text = ""
    for role in ROLES:
        content = f"the {role}'s message"
        try:
            longer = _rendered(tokenizer, [*chat, {"role": role, "content": content}])
        except TemplateError:
            if role == "system":  # This chat template refuses system messages.
                continue
            raise
        before, found, after = longer.removeprefix(text).partition(content)
        if not longer.startswith(text) or not found:
            raise CourseError(
                "the chat template changes messages, so it can't be translated for Ollama: write "
                "the TEMPLATE of the Modelfile by hand"
            )
        around[role] = (before, after)
        chat, text = [*chat, {"role": role, "content": content}], longer
    return around


def _rendered(
    tokenizer: PreTrainedTokenizerBase, chat: Sequence[Mapping[str, str]], answer: bool = False
) -> str:
    """Apply a chat template, and remove the BOS token if llama.cpp will add it again.

    Args:
        tokenizer: the tokenizer with the chat template.
        chat: the messages of the conversation.
        answer: whether the text ends with the beginning of the assistant's next message.
    """
    text = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=answer)
    adds_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(tokenizer.bos_token) if adds_bos else text


def _quoted(text: str) -> str:
    return f'"""{text}"""'
