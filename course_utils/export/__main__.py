"""Export a folder of adapters with one command: python -m course_utils.export --help."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

import click

from course_utils import export
from course_utils.machine.files import write_text
from course_utils.machine.validation import CourseError

_adapters = click.argument("adapters", type=click.Path(path_type=Path))
_folder = click.argument("folder", type=click.Path(path_type=Path))
_format = click.option(
    "--format",
    "stored_as",
    type=click.Choice(list(export.GGUF_FORMATS)),
    default="Q8_0",
    show_default=True,
)


@click.group()
def main() -> None:
    """Export QLoRA adapters, merged into the dequantized weights of their base model."""


@main.command()
@_adapters
@_folder
def merged(adapters: Path, folder: Path) -> None:
    """Write a folder that transformers, vLLM and SGLang can load."""
    click.echo(f"Written: {export.save_merged(adapters, folder)}")


@main.command()
@_adapters
@click.argument("file", type=click.Path(path_type=Path))
@_format
def gguf(adapters: Path, file: Path, stored_as: str) -> None:
    """Write a GGUF file for llama.cpp and LM Studio."""
    _save_gguf(adapters, file, stored_as)


def _save_gguf(adapters: Path, file: Path, stored_as: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model = export.save_merged(adapters, Path(scratch) / "merged")
        click.echo(f"Written: {export.save_gguf(model, file, stored_as)}")


@main.command()
@_adapters
@_folder
@_format
def ollama(adapters: Path, folder: Path, stored_as: str) -> None:
    """Write a GGUF file and a Modelfile for Ollama."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(export.read_adapters(adapters).base_folder())
    text = export.modelfile("./model.gguf", tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    _save_gguf(adapters, folder / "model.gguf", stored_as)
    write_text(folder / "Modelfile", text)
    click.echo(f"Next: ollama create NAME -f {shlex.quote(str(folder / 'Modelfile'))}")


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        raise SystemExit(f"Error: {error}") from None
