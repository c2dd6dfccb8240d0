"""Compare the course's QLoRA training with the trainers of TRL and transformers.

All ways train SmolLM2-135M in NF4 with double quantization and LoRA of rank 8 on all linear layers,
with 8 news briefs per step. The loss counts only the answers. Each way trains in its own process.
The processes take turns, and a turn is one step. A second table shows how the course's
loop becomes faster: the first row uses peft's and transformers' code, and each further row adds one
change. A third table compares a step with its floor, the time of the step's matrix products alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
    by_hand,
    finetune,
    make_optimizer,
    set_checkpointing,
)
from course_utils.units import format_bytes

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

ROUNDS, WARM_UP = 8, 3
# The course must be at least this many times as fast as a trainer, and need less peak memory.
TARGETS = {"SFTTrainer": 4, "Trainer": 2}
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
COMPUTE = runtime.compute_dtype("cpu")
# Number of training steps, which exceeds the number of turns of any way.
STEPS = 40


# --- the ways -------------------------------------------------------------------------------------


def base() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model that all ways train, and its tokenizer."""
    return load_base("smollm2-135m", quantization="nf4")


def course(turn: Turn, checkpointing: bool, batch: int = Recipe.micro_batch_size) -> None:
    """Train with `finetune`, as lecture 07 does, one step in each turn of this process."""
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


# --- the course's loop, change by change ----------------------------------------------------------


def library_loss(model: PeftModel, batch: dict) -> torch.Tensor:
    """Return transformers' own loss, with the logits of all tokens, even of prompts and padding."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits.float()
    targets = batch["labels"][:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum")


def make_step(changes: int, checkpointing: bool = False) -> Callable[[int], dict]:
    """Return a training step with the first few changes of the list CHANGES.

    Args:
        changes: the number of changes. The first line of CHANGES is the step without changes, so it
            doesn't count.
        checkpointing: whether activations are recomputed in the backward pass.

    Returns:
        A function that trains on the batch with a given number, and returns the number of tokens
        and the loss.
    """
    answer_only, autocast, hand, buffers, stripes, fused = (changes > n for n in range(6))
    model, tokenizer = base()
    recipe = Recipe(max_steps=STEPS)
    model = attach_adapters(model, recipe).train()
    set_checkpointing(model, checkpointing)
    optimizer = make_optimizer(model, recipe, fused=fused)
    if not stripes:
        patch.object(by_hand, "STRIPES", 1).start()
    llama = by_hand.LlamaByHand(model, checkpointing) if hand else None
    collate, rows = sft.collator(tokenizer, packed=hand), features(tokenizer)

    def loss_sum(batch: dict, scale: torch.Tensor) -> torch.Tensor:
        if llama:
            return llama.backward(batch, scale)
        with torch.autocast("cpu", COMPUTE, enabled=autocast):
            loss = (answer_loss if answer_only else library_loss)(model, batch)
        (loss * scale).backward()
        return loss

    def step(number: int) -> dict:
        some = rows[number * recipe.micro_batch_size :][: recipe.micro_batch_size]
        batch = collate(some)
        scale = 1 / (batch["labels"][:, 1:] != sft.IGNORE).sum()
        loss = loss_sum(batch, scale) * scale
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if not buffers:
            runtime.clear_buffers()
        return {"tokens": sum(len(row["input_ids"]) for row in some), "loss": loss.item()}

    return step


def step_in_turns(turn: Turn, changes: int, checkpointing: bool = False) -> None:
    """Train with the first `changes` of CHANGES, one step in each turn of this process."""
    step = make_step(changes, checkpointing)
    for number in range(STEPS):
        turn.begin()
        turn.end(**step(number))


class Products(TorchDispatchMode):
    """Records all matrix products, and runs products of the same shapes again.

    Attributes:
        calls: For each product its function, and the shapes, strides and dtypes of its tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []
        self.memory: dict[tuple, torch.Tensor] = {}

    def __torch_dispatch__(self, func: Any, _: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in KINDS["matrix products"]:
            self.calls.append(
                (func, [_form(arg) for arg in args], {k: _form(v) for k, v in kwargs.items()})
            )
        return func(*args, **kwargs)

    @torch.inference_mode()
    def run(self) -> None:
        """Run all recorded matrix products again, on random matrices."""
        for func, args, kwargs in self.calls:
            func(*map(self._filled, args), **{k: self._filled(v) for k, v in kwargs.items()})

    def _filled(self, form: Any) -> Any:
        if not isinstance(form, tuple):
            return form
        if form not in self.memory:
            size, stride, dtype = form
            tensor = torch.empty_strided(size, stride, dtype=dtype)
            self.memory[form] = tensor.normal_(std=0.01)
        return self.memory[form]


def _form(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return tuple(value.shape), value.stride(), value.dtype


def floor(turn: Turn, checkpointing: bool) -> None:
    """Measure the matrix products of one training step in each turn.

    A turn first runs the whole step to record its products. Only running them again counts.
    """
    step = make_step(LAST, checkpointing)
    for number in range(STEPS):
        turn.begin()
        with Products() as products:
            result = step(number)
        products.run()  # allocates and fills the matrices
        started = time.perf_counter()
        products.run()
        turn.end(**result, seconds=time.perf_counter() - started)


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
    "matrix products": (
        *("aten::mm", "aten::addmm", "aten::addmm_"),
        *("aten::bmm", "aten::baddbmm", "aten::baddbmm_"),
    ),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::index_select", "aten::index_fill_"),
    "attention with torch's kernel": (
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "sums and elementwise products": (
        *("aten::mul", "aten::mul_", "aten::add", "aten::add_", "aten::sub", "aten::div"),
        *("aten::neg", "aten::sum", "aten::pow", "aten::mean", "aten::addcmul_", "aten::div_"),
        *("aten::square_", "aten::linalg_vector_norm", "aten::sub_"),
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
    "`LlamaByHand`: no autograd, no padding, with new memory in each step",
    "large tensors live from step to step",
    "attention in three stripes",
    "one fused kernel for AdamW",
)

LAST = len(CHANGES) - 1
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
    "after": partial(profiled, changes=LAST),
}
FLOORS = {
    name: partial(way, checkpointing=checkpointing)
    for checkpointing, setting in ((True, ""), (False, ", no checkpointing"))
    for name, way in (
        (f"step{setting}", partial(step_in_turns, changes=LAST)),
        (f"its matrix products alone{setting}", floor),
    )
}
PARTS = {f"change {n}": partial(step_in_turns, changes=n) for n in range(len(CHANGES))}


# --- the report -----------------------------------------------------------------------------------


def way(name: str) -> Callable[[Turn], None]:
    """Return the function that a worker process runs for a way."""
    return (WAYS | PARTS | FLOORS | PROFILES)[name]


def measure() -> Iterator[Report]:
    """Measure the ways, the changes of the course's loop, its floor, and the profiles of a step."""
    turns = partial(take_turns, "benchmarks.training", schedule=Schedule(ROUNDS, WARM_UP))
    yield {
        **measured_here("trl"),
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "ways": turns(WAYS),
        "parts": turns(PARTS),
        "floors": turns(FLOORS),
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


def floor_table(report: dict) -> str:
    """Return a table of the time of a step and the time of its matrix products alone.

    It has rows with and without checkpointing.
    """
    lines = ["| | ms | share of the step |", "|---|--:|--:|"]
    step: list[dict] = []
    for name, result in report["floors"].items():
        pieces = result["pieces"]
        alone = "alone" in name
        pairs = zip(pieces, step, strict=True) if alone else ()
        share = median([p["seconds"] / s["seconds"] for p, s in pairs] or [1])
        ms = in_words(1e3 * piece["seconds"] for piece in pieces)
        lines.append(f"| {name} | {ms} | {share:.0%} |")
        step = pieces
    return "\n".join(lines)


def profile_table(report: dict) -> str:
    """Return a table of the median time and the number of calls in a step, by kind of operation."""
    lines = ["| operations: ms (number) | before | after |", "|---|--:|--:|"]
    for kind in (*KINDS, ELSE):
        cells = []
        for result in report["profiles"].values():
            ms, calls = zip(*(piece["kinds"][kind] for piece in result["pieces"]), strict=True)
            cells.append(f"{median(ms):.0f} ({median(calls):,.0f})")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    shares = [
        median(
            piece["kinds"]["matrix products"][0] / sum(ms for ms, _ in piece["kinds"].values())
            for piece in result["pieces"]
        )
        for result in report["profiles"].values()
    ]
    lines.append(f"| share of the matrix products | {' | '.join(f'{s:.0%}' for s in shares)} |")
    return "\n".join(lines)


def problems(report: Report) -> list[str]:
    """Return the trainers against which the course misses its target in speed or memory."""
    found = []
    for peer, target in TARGETS.items():
        found += missed_targets(report, target, rate, (peer,))
    ways = report["ways"]
    for setting in ("", ", no checkpointing"):
        ours = ways[f"course{setting}"]["peak"]
        for peer in ("SFTTrainer", "Trainer"):
            if ways[f"{peer}{setting}"]["peak"] <= ours:
                found.append(f"{peer}{setting}: the peak memory is not higher than the course's")
    return found


BENCHMARK = Benchmark(
    measure,
    {"peers": peer_table, "parts": part_table, "floor": floor_table, "profile": profile_table},
    conditions=lambda report: conditions(
        report, f"{report['rounds']} steps of each method; the methods alternate"
    ),
    problems=problems,
)
