"""Compare QLoRA training with the course's loop and with TRL's and transformers' trainers.

All ways train SmolLM2-135M in NF4 with double quantization and LoRA of rank 8 on all linear layers,
with 8 news briefs per step. The loss counts only the answers. Each way trains in its own process.
The processes take turns, and a turn is one step. A second table shows how the course's
loop becomes faster: the first row uses peft's and transformers' code, and each further row adds one
change.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from benchmarks.runner import Benchmark, Report, measured_here
from benchmarks.turns import (
    Schedule,
    Turn,
    compare_with_course,
    conditions,
    in_words,
    missed_targets,
    ratios,
    take_turns,
)
from course_utils import news, runtime, sft
from course_utils.models import load_base
from course_utils.training import (
    Recipe,
    answer_loss,
    attach_adapters,
    fast_step,
    finetune,
    make_optimizer,
    set_checkpointing,
)
from course_utils.units import format_bytes

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

ROUNDS, WARM_UP = 8, 3
# The course must be at least this many times as fast as the trainers, and need less peak
# memory.
TARGET = 2
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
COMPUTE = runtime.compute_dtype("cpu")
# Number of training steps, which exceeds the number of turns of any way.
STEPS = 40


# --- the ways -------------------------------------------------------------------------------------


def base() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model that all ways train, and its tokenizer."""
    return load_base("smollm2-135m", quantization="nf4")


def course(turn: Turn, checkpointing: bool, batch: int = Recipe.micro_batch_size) -> None:
    """Train with lecture 07's loop; each step is a turn."""
    model, tokenizer = base()
    recipe = Recipe(max_steps=STEPS, gradient_checkpointing=checkpointing, micro_batch_size=batch)
    model = attach_adapters(model, recipe)

    def on_step(history: list[dict]) -> None:
        turn.end(tokens=history[-1]["tokens"], loss=history[-1]["loss"])
        turn.begin()

    turn.begin()
    with tempfile.TemporaryDirectory() as folder:
        finetune(
            model,
            tokenizer,
            features(tokenizer),
            recipe=recipe,
            output_dir=folder,
            on_step=on_step,
        )


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
        "bf16": COMPUTE is torch.bfloat16,
        "use_cpu": True,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def turns_callback(turn: Turn, tokens: str) -> TrainerCallback:
    """Return a trainer's callback that makes each step a turn.

    Args:
        turn: the turns of this worker.
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
                turn.end(tokens=new, loss=float(logs["loss"]))

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
    """Train with transformers' Trainer and peft, prepared as in peft's guide to quantization."""
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


# --- the course's loop, change by change ----------------------------------------------------------


def library_loss(model: PeftModel, batch: dict) -> torch.Tensor:
    """Return transformers' own loss, with the logits of all tokens, even of prompts and padding."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits.float()
    targets = batch["labels"][:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum")


def torch_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy loss, computed with a float32 copy of all logits."""
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


def make_step(changes: int) -> Callable[[int], dict]:
    """Return a training step with the first changes of CHANGES.

    Args:
        changes: the number of changes, in addition to the first line of CHANGES.

    Returns:
        A function that trains on the batch with a given number, and returns the number of tokens
        and the loss.
    """
    answer_only, autocast, packed, linear, chunked = (changes > n for n in range(5))
    model, tokenizer = base()
    recipe = Recipe(max_steps=STEPS)
    model = attach_adapters(model, recipe).train()
    set_checkpointing(model, False)
    optimizer = make_optimizer(model, recipe)
    collate, rows = sft.collator(tokenizer, packed), features(tokenizer)
    faster = partial(fast_step.fast_path, model) if packed else nullcontext
    autocast &= not linear
    if not linear:
        patch.object(fast_step, "_lora_layers", lambda _: ()).start()
    if not chunked:
        patch("course_utils.training.step.cross_entropy", torch_loss).start()

    def step(number: int) -> dict:
        some = rows[number * recipe.micro_batch_size :][: recipe.micro_batch_size]
        batch = collate(some)
        with faster():
            with torch.autocast("cpu", COMPUTE, enabled=autocast):
                loss = (answer_loss if answer_only else library_loss)(model, batch)
            loss /= (batch["labels"] != sft.IGNORE).sum()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return {"tokens": sum(len(row["input_ids"]) for row in some), "loss": loss.item()}

    return step


def step_in_turns(turn: Turn, changes: int) -> None:
    """Train with the first changes of CHANGES; each step is a turn."""
    step = make_step(changes)
    for number in range(STEPS):
        turn.begin()
        turn.end(**step(number))


def profiled(turn: Turn, changes: int) -> None:
    """Profile one step in each turn: milliseconds and calls of each kind of operation."""
    from torch.profiler import ProfilerActivity, profile

    step = make_step(changes)
    for number in range(WARM_UP):
        step(number)
    for number in range(WARM_UP, STEPS):
        turn.begin()
        with profile(activities=[ProfilerActivity.CPU]) as measured:
            step(number)
        kinds = {kind: [0.0, 0] for kind in (*KINDS, ELSE)}
        for event in measured.key_averages():
            kind = next((k for k, names in KINDS.items() if event.key in names), ELSE)
            kinds[kind][0] += event.self_cpu_time_total / 1e3
            kinds[kind][1] += event.count if event.key.startswith(OPERATIONS) else 0
        turn.end(kinds=kinds)


ELSE = "all other operations"
OPERATIONS = ("aten::", "bitsandbytes::")
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm"),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::index_select", "aten::index_fill_"),
    "attention with torch's kernel": (
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "sums and elementwise products": (
        *("aten::mul", "aten::mul_", "aten::add", "aten::add_", "aten::sub", "aten::div"),
        *("aten::neg", "aten::sum", "aten::pow", "aten::mean"),
    ),
    "exponentials": (
        *("aten::_softmax", "aten::_softmax_backward_data", "aten::silu", "aten::silu_backward"),
        *("aten::_log_softmax", "aten::_log_softmax_backward_data"),
        *("aten::exp_", "aten::logsumexp", "aten::exp"),
    ),
    "dequantization": (
        *("bitsandbytes::dequantize_4bit", "bitsandbytes::dequantize_blockwise"),
        "bitsandbytes::gemm_4bit",
    ),
}

CHANGES = (
    "peft and transformers: adapters in float32, logits of all tokens",
    "logits of the answer tokens only",
    "adapters computed in bfloat16 by autocast",
    "no padding: examples packed into one row, attention computed for each example",
    "`lora_linear`: base and adapter in one function, handwritten backward pass, no autocast",
    "`cross_entropy` computed in chunks",
)

WAYS: dict[str, Callable[[Turn], None]] = {
    "course": partial(course, checkpointing=True),
    "SFTTrainer": partial(sft_trainer, checkpointing=True),
    "Trainer": partial(trainer, checkpointing=True),
    "course, no checkpointing": partial(course, checkpointing=False),
    "SFTTrainer, no checkpointing": partial(sft_trainer, checkpointing=False),
    "Trainer, no checkpointing": partial(trainer, checkpointing=False),
}
PROFILES = {
    "before": partial(profiled, changes=2),
    "after": partial(profiled, changes=len(CHANGES) - 1),
}
PARTS = {f"change {n}": partial(step_in_turns, changes=n) for n in range(len(CHANGES))}


# --- the report -----------------------------------------------------------------------------------


def way(name: str) -> Callable[[Turn], None]:
    """Return the function that a worker process runs for a way."""
    return (WAYS | PARTS | PROFILES)[name]


def measure() -> Iterator[Report]:
    """Measure the ways, the changes of the course's loop, and the profiles of a step."""
    turns = partial(take_turns, "benchmarks.training", schedule=Schedule(ROUNDS, WARM_UP))
    yield {
        **measured_here("trl"),
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "ways": turns(WAYS),
        "parts": turns(PARTS),
        "profiles": take_turns("benchmarks.training", PROFILES, Schedule(rounds=5, warm_up=0)),
    }


def rate(piece: dict) -> float:
    """Return the tokens/s of a step, without padding."""
    return piece["tokens"] / piece["seconds"]


def peer_table(report: dict) -> str:
    """Return a table that compares the ways, with and without checkpointing."""
    return compare_with_course(report["ways"], "tokens/s", rate)


def part_table(report: dict) -> str:
    """Return a table of CHANGES; each row includes the changes of the rows above it."""
    lines = ["| | tokens/s | speed-up over the row above | peak memory |", "|---|--:|--:|--:|"]
    above = None
    for what, result in zip(CHANGES, report["parts"].values(), strict=True):
        pieces = result["pieces"]
        gain = f"× {median(ratios(pieces, above, rate)):.2f}" if above else ""
        speed = in_words(map(rate, pieces))
        lines.append(f"| {what} | {speed} | {gain} | {format_bytes(result['peak'])} |")
        above = pieces
    return "\n".join(lines)


def profile_table(report: dict) -> str:
    """Return a table of the median time and calls in a step, before and after the changes."""
    lines = ["| operations: ms (number) | before | after |", "|---|--:|--:|"]
    for kind in (*KINDS, ELSE):
        cells = []
        for result in report["profiles"].values():
            ms, calls = zip(*(piece["kinds"][kind] for piece in result["pieces"]), strict=True)
            cells.append(f"{median(ms):.0f} ({median(calls):,.0f})")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def problems(report: Report) -> list[str]:
    """Return the trainers against which the course misses its target in speed or memory."""
    found = missed_targets(report, TARGET, rate, ("SFTTrainer", "Trainer"))
    ways = report["ways"]
    for setting in ("", ", no checkpointing"):
        ours = ways[f"course{setting}"]["peak"]
        for peer in ("SFTTrainer", "Trainer"):
            if ways[f"{peer}{setting}"]["peak"] <= ours:
                found.append(f"{peer}{setting}: the peak memory is not higher than the course's")
    return found


BENCHMARK = Benchmark(
    measure,
    {"peers": peer_table, "parts": part_table, "profile": profile_table},
    conditions=lambda report: conditions(
        report, f"{report['rounds']} steps of each method; the methods alternate"
    ),
    problems=problems,
)
