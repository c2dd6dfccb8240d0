"""Compare the course's QLoRA training with TRL's SFTTrainer, and with transformers' Trainer.

All ways train SmolLM2-135M in NF4 with double quantization and LoRA of rank 8 on all linear layers,
with 8 news briefs per step. The loss counts only the answers. Each way trains in its own process.
The processes take turns, and a turn is one step.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from course_utils import news, sft
from course_utils.machine import runtime
from course_utils.models import load_base
from course_utils.training import Recipe, attach_adapters, finetune
from workshop.benchmarks.runner import Benchmark, Report, measured_here
from workshop.benchmarks.turns import Turn, Way, compare_with_course, conditions, take_turns

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

ROUNDS, WARM_UP = 5, 1
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
# Number of training steps, which exceeds the number of turns of any way.
STEPS = 40


# --- the ways -------------------------------------------------------------------------------------


def base() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model that all ways train, and its tokenizer."""
    return load_base("smollm2-135m", quantization="nf4")


def course(turn: Turn, checkpointing: bool | Literal["some"]) -> None:
    """Train with `finetune`, as lecture 07 does, one step in each turn of this process."""
    model, tokenizer = base()
    recipe = Recipe(max_steps=STEPS, gradient_checkpointing=checkpointing)
    step_in_turns(turn, attach_adapters(model, recipe), tokenizer, features(tokenizer), recipe)


def step_in_turns(
    turn: Turn, model: Any, tokenizer: Any, rows: Sequence[sft.Features], recipe: Recipe
) -> None:
    """Train with `finetune`, one step in each turn of this process."""

    def on_step(history: list[dict]) -> None:
        turn.end(tokens=history[-1]["tokens"])
        turn.begin()

    turn.begin()
    with tempfile.TemporaryDirectory() as folder:
        finetune(model, tokenizer, rows, recipe=recipe, output_dir=folder, on_step=on_step)


def features(tokenizer: PreTrainedTokenizerBase) -> list[sft.Features]:
    """Return the training stories, encoded as in lecture 07."""
    stories = news.load_news()["train"]
    return sft.encode_all([news.tuned_messages(story) for story in stories], tokenizer)


def trainer_options(checkpointing: bool) -> dict[str, Any]:
    """Return the options of SFTTrainer and Trainer that differ from the trainers' defaults."""
    return {
        "per_device_train_batch_size": Recipe.micro_batch_size,
        "learning_rate": Recipe.learning_rate,
        "max_steps": STEPS,
        "gradient_checkpointing": checkpointing,
        "bf16": runtime.compute_dtype("cpu") is torch.bfloat16,
        "use_cpu": True,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def turns_callback(turn: Turn, tokens: str) -> TrainerCallback:
    """Return a trainer's callback that makes each step a turn.

    Args:
        tokens: the key of the number of tokens in the trainer's log.
    """
    from transformers import TrainerCallback

    class TurnsCallback(TrainerCallback):
        seen = 0

        def on_step_begin(self, *_: object, **__: object) -> None:
            turn.begin()

        def on_log(self, *_: object, logs: dict[str, Any], **__: object) -> None:
            if "loss" in logs:
                new = int(logs[tokens]) - self.seen
                self.seen += new
                turn.end(tokens=new)

    return TurnsCallback()


def sft_trainer(turn: Turn, checkpointing: bool) -> None:
    """Train with TRL's SFTTrainer, which masks the prompt and casts the adapters to bfloat16."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = base()
    pairs = [news.tuned_messages(story) for story in news.load_news()["train"]]
    rows = [{"prompt": pair[:-1], "completion": pair[-1:]} for pair in pairs]
    with tempfile.TemporaryDirectory() as folder:
        SFTTrainer(
            model,
            SFTConfig(folder, **trainer_options(checkpointing)),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(**LORA),
            callbacks=[turns_callback(turn, "num_tokens")],
        ).train()


def trainer(turn: Turn, checkpointing: bool) -> None:
    """Train with transformers' Trainer and a model prepared as in peft's guide to quantization."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model, tokenizer = base()
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    options = trainer_options(checkpointing) | {"include_num_input_tokens_seen": "non_padding"}
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            get_peft_model(model, LoraConfig(**LORA)),
            TrainingArguments(folder, **options),
            train_dataset=Dataset.from_list(features(tokenizer)),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            processing_class=tokenizer,
            callbacks=[turns_callback(turn, "num_input_tokens_seen")],
        ).train()


WAYS: dict[str, Way] = {
    "course": partial(course, checkpointing="some"),
    "SFTTrainer": partial(sft_trainer, checkpointing=True),
    "course, no checkpointing": partial(course, checkpointing=False),
    "SFTTrainer, no checkpointing": partial(sft_trainer, checkpointing=False),
    "course, all recomputed": partial(course, checkpointing=True),
}
TRAINER: dict[str, Way] = {
    "Trainer": partial(trainer, checkpointing=True),
    "Trainer, no checkpointing": partial(trainer, checkpointing=False),
}


# --- the report -----------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that measures more than the table of README.md."""
    parser.add_argument(
        "--all", action="store_true", dest="more", help="also measure transformers' Trainer"
    )


def measure(more: bool) -> Iterator[Report]:
    """Measure the course and SFTTrainer with and without checkpointing."""
    yield {
        **measured_here("trl"),
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "ways": take_turns(WAYS | TRAINER if more else WAYS, ROUNDS, WARM_UP),
    }


def rate(piece: dict) -> float:
    """Return the tokens/s of a step, without padding."""
    return piece["tokens"] / piece["seconds"]


BENCHMARK = Benchmark(
    measure,
    {"peers": lambda report: compare_with_course(report["ways"], "tokens/s", rate)},
    conditions=lambda report: conditions(
        report, f"{report['rounds']} steps of each method; the methods alternate"
    ),
    add_options=add_options,
)
