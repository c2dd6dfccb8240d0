"""Write a Modelfile, with which Ollama runs a GGUF model and its adapters.

    ollama create news -f Modelfile
    ollama run news

If a Modelfile has no template, Ollama compares the chat template in the GGUF file with templates
that it knows. If none of these is similar, the model sees the text of the user without any
template, and answers worse. So `save_modelfile` translates the chat template.
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
    """Write a Modelfile that names the files of a model, and sets its chat template.

    It also sets greedy decoding.

    Args:
        file: the new file, usually named "Modelfile".
        tokenizer: the tokenizer of the model, with a chat template.
        model: GGUF file of the model, as a path from the folder of the Modelfile.
        adapters: GGUF file of adapters, if they are not merged into the model.
        system: the system message that the model was tuned with. It is needed if the chat template
            writes a system message of its own when a conversation has none.

    Returns:
        The new file.

    Raises:
        CourseError: the chat template can't be translated, or the file can't be written.
    """
    lines = [f"FROM ./{model}", *([f"ADAPTER ./{adapters}"] if adapters else [])]
    lines.append(f"TEMPLATE {_quoted(ollama_template(tokenizer, system=bool(system)))}")
    lines += [f"SYSTEM {_quoted(system)}"] if system else []
    lines.append("PARAMETER temperature 0")
    lines.append(f"PARAMETER stop {_quoted(tokenizer.eos_token)}")
    write_text(Path(file), "\n".join(lines) + "\n")
    return Path(file)


def ollama_template(tokenizer: PreTrainedTokenizerBase, *, system: bool = True) -> str:
    """Translate a chat template from Jinja to the template language of Ollama, which is Go's.

    The translation assumes that a template writes a fixed text before and after each message,
    which only depends on the role. It is compared with the chat template on two conversations.

    Args:
        tokenizer: the tokenizer with the chat template.
        system: whether each conversation has a system message.

    Raises:
        CourseError: the tokenizer has no chat template, or a translated conversation differs.
    """
    if not tokenizer.chat_template:
        raise CourseError("the tokenizer has no chat template, so a Modelfile can't have one")
    around = _around(tokenizer)
    opening = around["assistant"][0]
    roles = ["system"] if system and "system" in around else []
    for turns in (["user"], ["user", "assistant", "user"]):
        chat = [{"role": role, "content": role[0]} for role in roles + turns]
        told = [m["content"].join(around[m["role"]]) for m in chat]
        if "".join([*told, opening]) != _rendered(tokenizer, chat, answer=True):
            hint = "" if system else "give the system message of training as `system`, or "
            raise CourseError(
                "the chat template writes more than a fixed text around each message, so it can't "
                f"be translated for Ollama: {hint}write the TEMPLATE of the Modelfile by hand"
            )
    messages = [
        f'{{{{ if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{ end }}}}'
        for role, (before, after) in around.items()
    ]
    return f"{{{{ range .Messages }}}}{''.join(messages)}{{{{ end }}}}{opening}"


def _around(tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[str, str]]:
    """Return the text that a chat template writes before and after a message of each role."""
    from jinja2 import TemplateError

    around: dict[str, tuple[str, str]] = {}
    chat: list[dict[str, str]] = []
    text = ""
    for role in ROLES:
        content = f"the {role}'s message"
        try:
            longer = _rendered(tokenizer, [*chat, {"role": role, "content": content}])
        except TemplateError:
            if role == "system":  # The model was trained without system messages.
                continue
            raise
        before, found, after = longer.removeprefix(text).partition(content)
        if not longer.startswith(text) or not found:
            raise CourseError(
                "the chat template changes earlier messages, so it can't be translated"
            )
        around[role] = (before, after)
        chat, text = [*chat, {"role": role, "content": content}], longer
    return around


def _rendered(
    tokenizer: PreTrainedTokenizerBase, chat: Sequence[Mapping[str, str]], answer: bool = False
) -> str:
    """Return the text of a conversation, without the BOS token that llama.cpp adds itself."""
    text = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=answer)
    adds_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(tokenizer.bos_token) if adds_bos else text


def _quoted(text: str) -> str:
    return f'"""{text}"""'
