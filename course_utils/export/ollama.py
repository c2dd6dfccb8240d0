"""Write a Modelfile, with which Ollama runs a GGUF model.

Ollama's templates are in Go's syntax, so `modelfile` translates the chat template. The translation
assumes that a chat template puts fixed texts before, between and after the messages:

    start  SYSTEM  then  USER  ask  ASSISTANT  next  USER  ask
    first                USER  ask                               without a system message
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.export.gguf_files import save_gguf
from course_utils.export.merged import save_merged
from course_utils.export.saved import read_adapters
from course_utils.machine.files import write_text
from course_utils.machine.validation import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKS = {"system": "Mark1", "user": "Mark2", "assistant": "Mark3"}
BY_HAND = "write the TEMPLATE of the Modelfile by hand"


def save_for_ollama(adapters: str | Path, folder: str | Path, stored_as: str = "Q8_0") -> Path:
    """Write model.gguf, the model with its adapters merged, and a Modelfile into a folder."""
    from transformers import AutoTokenizer

    folder = Path(folder)
    text = modelfile(
        "./model.gguf", AutoTokenizer.from_pretrained(read_adapters(adapters).base_folder())
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        save_gguf(save_merged(adapters, Path(scratch) / "m"), folder / "model.gguf", stored_as)
    write_text(folder / "Modelfile", text)
    return folder


def modelfile(
    gguf: str | Path, tokenizer: PreTrainedTokenizerBase, system: str | None = None
) -> str:
    """Return a Modelfile: the chat template in Go's syntax, the end token and greedy decoding.

    Args:
        gguf: the path of the GGUF file, relative to the folder of the Modelfile.
        system: the system message for conversations that have none. If it is None, such
            conversations get the chat template's own default, if it has one.
    """
    first, ask = _fixed_texts(tokenizer, "user")
    try:
        start, then, _, next_, _ = _fixed_texts(tokenizer, "system", "user", "assistant", "user")
        opening = f"{start}{{{{ .Content }}}}{then}"
    except _Refused:  # The chat template has no system messages, so Ollama leaves them out.
        _, _, next_, _ = _fixed_texts(tokenizer, "user", "assistant", "user")
        start, then, opening = None, "", first
    for roles in (["user"], ["user", "assistant", "user", "assistant", "user"]):
        turns = [ask, *[next_, ask] * (len(roles) // 2)]
        same = _fixed_texts(tokenizer, *roles) == [first, *turns]
        if start is not None:
            same &= _fixed_texts(tokenizer, "system", *roles) == [start, then, *turns]
        if not same or '"""' in first + opening + ask + next_:
            raise CourseError(f"the chat template can't be translated for Ollama: {BY_HAND}")
    template = (
        '{{ range $i, $_ := .Messages }}{{ if eq .Role "system" }}'
        f"{opening}"
        '{{ else if eq .Role "user" }}{{ if eq $i 0 }}'
        f"{first}{{{{ end }}}}{{{{ .Content }}}}{ask}"
        f"{{{{ else }}}}{{{{ .Content }}}}{next_}{{{{ end }}}}{{{{ end }}}}"
    )
    added = tokenizer.added_tokens_decoder
    ids = tokenizer(next_, add_special_tokens=False)["input_ids"]
    stop = next((str(added[i]) for i in ids if i in added), tokenizer.eos_token)
    lines = [f"FROM {gguf}", f'TEMPLATE """{template}"""']
    lines += [f'SYSTEM """{system}"""'] if system else []
    # The most probable token is chosen, also if it is a repetition.
    greedy = ("PARAMETER temperature 0", "PARAMETER repeat_penalty 1")
    return "\n".join([*lines, f'PARAMETER stop "{stop}"', *greedy]) + "\n"


class _Refused(CourseError):
    """A chat template refuses a system message."""


def _fixed_texts(tokenizer: PreTrainedTokenizerBase, *roles: str) -> list[str]:
    """Return the texts before, between and after the messages of a conversation."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise CourseError("the tokenizer has no chat template: pass a tokenizer that has one")
    chat = [{"role": role, "content": MARKS[role]} for role in roles]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise _Refused(f"the chat template refuses a conversation: {BY_HAND}") from error
    if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        text = text.removeprefix(tokenizer.bos_token)  # llama.cpp adds the BOS token itself.
    if re.findall("Mark[1-3]", text) != [MARKS[role] for role in roles] or "{{" in text:
        raise CourseError(f"the chat template changes messages: {BY_HAND}")
    return re.split("Mark[1-3]", text)
