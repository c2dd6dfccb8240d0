"""Lecture 07's training as a command, in one process or in several (docs/bigger-machines.md).

    python -m course_utils.training.command --output-dir checkpoints/news
    accelerate launch --config_file configs/cpu.yaml -m course_utils.training.command --max-steps 10
    accelerate launch --config_file configs/fsdp_qlora.yaml --num_processes 8 \\
        -m course_utils.training.command --path models/llama-65b --rank 16 --micro-batch-size 1

The base is loaded in NF4, gets adapters, and learns the news briefs by `finetuning.finetune`. What
starts several processes is `accelerate launch`; each reads the base for itself.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from course_utils import news, runtime
from course_utils.models import BASE_MODELS, BaseModel, default_name, load_base
from course_utils.sft import encode_all
from course_utils.training import Recipe, attach_adapters, distributed, finetune
from course_utils.validation import CourseError

ABOUT = {
    "rank": "Of the adapters.",
    "alpha": "The update is alpha / rank times B A.",
    "dropout": "In front of the adapters, a share.",
    "learning_rate": "Its peak; default: what suits the model.",
    "warmup": "Share of all steps.",
    "weight_decay": "AdamW's.",
    "max_grad_norm": "Gradients are clipped to it.",
    "micro_batch_size": "Examples at a time, in each process.",
    "accumulation": "Micro-batches a step.",
    "epochs": "Passes over the stories.",
    "max_steps": "Instead of epochs.",
    "seed": "Of adapters, order and dropout.",
}


def _recipe_options(command):
    """An option for each field of `Recipe` that `ABOUT` describes, with the recipe's default."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    for name in reversed(ABOUT):
        default = None if name == "learning_rate" else defaults[name]
        kind = int if defaults[name] is None else type(defaults[name])
        option = click.option(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=default,
            show_default=default is not None,
            help=ABOUT[name],
        )
        command = option(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", "name", help="A model that the course knows by name.")
@click.option("--path", type=click.Path(path_type=Path), help="Folder of a Hugging Face model.")
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="checkpoints/train",
    show_default=True,
    help="Checkpoints are written there.",
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint.")
@click.option("--save-every", type=click.IntRange(min=1), help="In steps; default: at the end.")
@_recipe_options
def main(
    name: str | None,
    path: Path | None,
    output_dir: Path,
    resume: bool,
    save_every: int | None,
    **choices,
) -> None:
    """Fine-tune a model in 4 bits on the course's news briefs."""
    try:
        run = train(
            name, path, choices, output_dir=output_dir, resume=resume, save_every=save_every
        )
    except (CourseError, ValueError) as fault:
        raise click.ClickException(str(fault)) from None
    if run is not None:
        click.echo(", ".join(f"{what}: {value}" for what, value in run.history[-1].items()))
        click.echo(f"adapters: {run.adapters}")


def train(name: str | None, path: Path | None, choices: dict, **options):
    """Load, attach, train: the run of the main process, None in the others.

    name, path: of the base, as in `load_base`. choices: fields of `Recipe`; a learning rate of None
    means the model's. options: of `finetune`.
    Raises ValueError and CourseError as these do, and ValueError for a name beside a path.
    """
    from accelerate import PartialState

    if name and path:
        raise ValueError("--model and --path both name a base: give one of them")
    state = PartialState(cpu=runtime.device().type == "cpu")  # takes this process to its own GPU
    name = name if name or path else default_name(state.device)
    known = BASE_MODELS.get(name, BaseModel(hub=""))
    rate = choices["learning_rate"]
    recipe = Recipe(**choices | {"learning_rate": known.learning_rate if rate is None else rate})
    base, tokenizer = load_base(
        name,
        path=path,
        quantization="nf4",
        compute_dtype=runtime.compute_dtype(state.device),
        device="cpu"
        if distributed.fsdp_wanted()
        else state.device,  # FSDP itself takes its shards to GPUs
    )
    stories = [news.tuned_messages(story) for story in news.load_news()["train"]]
    model = attach_adapters(base, recipe)
    run = finetune(model, tokenizer, encode_all(stories, tokenizer), recipe=recipe, **options)
    return run if state.is_main_process else None


if __name__ == "__main__":
    main()
