r"""Run lecture 07's training as a command, in one process or in several processes.

    python -m course_utils.training.command --output-dir checkpoints/news
    accelerate launch --config_file configs/cpu.yaml -m course_utils.training.command --max-steps 10
    accelerate launch --config_file configs/fsdp_qlora.yaml --num_processes 8 \
        -m course_utils.training.command --path models/llama-65b --rank 16 --micro-batch-size 1

The command loads a base model in NF4, attaches adapters, and trains them on the news briefs with
`finetune`. `accelerate launch` starts several processes, and each process loads the base model
separately. docs/bigger-machines.md explains training with several processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from course_utils import news
from course_utils.machine import runtime
from course_utils.machine.validation import CourseError
from course_utils.models import BASE_MODELS, SMALL_MODEL, BaseModel, check_fits, load_base
from course_utils.sft import encode_all
from course_utils.training import Recipe, Run, attach_adapters, distributed, finetune

# Only the numeric fields of `Recipe` become options. `validate_every` is excluded, because the
# command has no validation examples.
KINDS = {"int": int, "int | None": int, "float": float}
WITHOUT_OPTION = {"validate_every"}


def recipe_options(command: Callable) -> Callable:
    """Add to a command an option for each numeric field of `Recipe`, with its default and help."""
    for field in reversed(dataclasses.fields(Recipe)):
        kind = KINDS.get(str(field.type))
        if kind is None or field.name in WITHOUT_OPTION:
            continue
        # The default learning rate depends on the model, so it is not known yet.
        model_dependent = field.name == "learning_rate"
        option = click.option(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            default=None if model_dependent else field.default,
            show_default="depends on the model" if model_dependent else field.default is not None,
            help=field.metadata["help"],
        )
        command = option(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", "name", help="Name of a model, such as smollm2-135m.")
@click.option("--path", type=click.Path(path_type=Path), help="Folder of a Hugging Face model.")
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="checkpoints/train",
    show_default=True,
    help="Folder of the checkpoints.",
)
@click.option("--resume", is_flag=True, help="Continue from the newest checkpoint.")
@recipe_options
def main(
    name: str | None, path: Path | None, output_dir: Path, resume: bool, **settings: Any
) -> None:
    """Fine-tune a model in 4 bits on the course's news briefs."""
    try:
        run = train(name, path, settings, output_dir=output_dir, resume=resume)
    except (CourseError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    if run is not None:
        click.echo(", ".join(f"{key}: {value}" for key, value in run.history[-1].items()))
        click.echo(f"adapters: {run.adapters}")


def train(name: str | None, path: Path | None, settings: dict, **options: Any) -> Run | None:
    """Load a base model in 4 bits, attach adapters and train them on the news briefs.

    Args:
        name: Name of the base model, by default the small model.
        path: Folder of the base model, instead of a name.
        settings: Values of the fields of `Recipe`. If learning_rate is None, the model's is used.
        options: Further keyword arguments for `finetune`.

    Returns:
        The run in the main process, None in the other processes.
    """
    from accelerate import PartialState

    if name and path:
        raise ValueError("--model and --path both name a base model: give only one of them")
    # PartialState assigns a GPU to each process.
    state = PartialState(cpu=runtime.device().type == "cpu")
    name = name or SMALL_MODEL
    if settings["learning_rate"] is None:
        model = None if path else BASE_MODELS.get(name)
        settings = settings | {"learning_rate": (model or BaseModel).learning_rate}
    recipe = Recipe(**settings)
    sharded = distributed.fsdp_wanted()
    if not path and not sharded:
        check_fits(
            name,
            state.device,
            batch_size=recipe.micro_batch_size,
            rank=recipe.rank,
            targets=recipe.targets,
            gradient_checkpointing=recipe.gradient_checkpointing,
        )
    base, tokenizer = load_base(
        name,
        path=path,
        quantization="nf4",
        compute_dtype=runtime.compute_dtype(state.device),
        # With FSDP, the model is loaded on the CPU. Later FSDP moves its shards to the GPUs.
        device="cpu" if sharded else state.device,
        check_memory=False,
    )
    stories = [news.tuned_messages(story) for story in news.load_news()["train"]]
    model = attach_adapters(base, recipe)
    run = finetune(model, tokenizer, encode_all(stories, tokenizer), recipe=recipe, **options)
    return run if state.is_main_process else None


if __name__ == "__main__":
    main()
