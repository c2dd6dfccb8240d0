"""Tests of the presets `trainer` of `memory`: a step of each library itself, on a CPU."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments

from course_utils.machine.measure import TensorMeter, optimizer_bytes
from course_utils.memory.settings import ANSWER_CHUNK, TILE, Settings
from course_utils.memory.trace import trace
from course_utils.models import load_base, model_bytes
from course_utils.models.load import nf4_config
from course_utils.training import Recipe, attach_adapters, loss, make_optimizer, training_step
from course_utils.training.adapters import set_checkpointing
from course_utils.training.precision import make_accelerator
from tests.steps import SIZES, SPECIAL, config_of

# The vocabulary of Qwen3 here is larger than a tile of TRL's loss. Each model gets one batch shape.
LARGE = SIZES | SPECIAL | {"vocab_size": 33_000, "head_dim": 32}
CONFIGS = {"llama": config_of("grouped"), "qwen3": AutoConfig.for_model("qwen3", **LARGE)}
SHAPES = {"llama": (2, 64), "qwen3": (1, 100)}
LORA = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
BF16 = torch.bfloat16


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    """Return the folders of tiny models in bfloat16."""
    folders = {name: tmp_path_factory.mktemp(name) for name in CONFIGS}
    for name, folder in folders.items():
        AutoModelForCausalLM.from_config(CONFIGS[name], dtype=BF16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


def by_trl(folder, method, dtype="bfloat16", **options):
    """Return an `SFTTrainer` that loads a model in `dtype`; None is TRL's default."""
    trl = pytest.importorskip("trl", reason="no trl: pip install -e '.[benchmarks]'")
    from datasets import Dataset

    loading = {"model_init_kwargs": {"dtype": dtype}} if dtype else {}
    return trl.SFTTrainer(
        str(folder),
        trl.SFTConfig(folder, use_cpu=True, report_to="none", **loading, **options),
        train_dataset=Dataset.from_list([{"text": "a story"}]),
        peft_config=None if method == "full" else LORA,
        quantization_config=nf4_config(BF16) if method == "qlora" else None,
    )


def by_transformers(folder, method, **options):
    """Return a `Trainer` of a model in the format of its checkpoint."""
    quantized = {"quantization_config": nf4_config(BF16)} if method == "qlora" else {}
    model = AutoModelForCausalLM.from_pretrained(folder, **quantized)
    model = model if method == "full" else get_peft_model(model, LORA)
    return Trainer(model, TrainingArguments(folder, use_cpu=True, report_to="none", **options))


def measured(model, optimizer, step):
    """Return the bytes of the second step, with the model and the states of the optimizer."""
    step()
    with TensorMeter() as meter:
        step()
    return model_bytes(model) + optimizer_bytes(optimizer) + meter.peak


def traced(name, method, trainer, **said):
    rows, length = SHAPES[name]
    options = {"batch_size": rows, "sequence_length": length, "device": "cpu"} | said
    return trace(CONFIGS[name].to_dict(), method, trainer=trainer, **options).total


STORED, CHECKPOINTED = ({"gradient_checkpointing": on} for on in (False, True))


@pytest.mark.full
@pytest.mark.parametrize(
    ("make", "name", "method", "options", "said"),
    [
        (by_trl, "qwen3", "full", {"dtype": None}, {}),
        (by_trl, "llama", "full", {}, {"recipe": "bf16"}),
        (by_trl, "llama", "lora", {}, {}),
        (by_trl, "llama", "lora", {"dtype": None, "bf16": False}, {"compute_dtype": "float32"}),
        (by_trl, "llama", "qlora", {}, {}),
        (by_trl, "qwen3", "qlora", {}, {}),
        (by_trl, "qwen3", "qlora", {"dtype": None} | STORED, {"upcast": True} | STORED),
        (by_transformers, "llama", "full", {}, {}),
        (by_transformers, "qwen3", "lora", {}, {}),
        (by_transformers, "qwen3", "qlora", {}, {}),
        (by_transformers, "llama", "lora", {"bf16": True}, {"recipe": "autocast"}),
        (by_transformers, "llama", "qlora", CHECKPOINTED, CHECKPOINTED),
    ],
)
def test_a_library_needs_what_its_preset_says(make, name, method, options, said, saved):
    trainer = make(saved[name], method, **options)
    model = trainer.model.train()
    if trainer.args.gradient_checkpointing:
        model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    model, optimizer = trainer.accelerator.prepare(model, trainer.create_optimizer())
    ids = torch.randint(3, 250, SHAPES[name])
    batch = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}

    def step():
        trainer.training_step(model, dict(batch), torch.tensor(ids[:, 1:].numel()))
        optimizer.step()
        optimizer.zero_grad()

    size = measured(trainer.model, optimizer.optimizer, step)
    # The sum of the losses, before it is divided by the number of tokens, and an int64 constant.
    assert size - traced(name, method, make.__name__.removeprefix("by_"), **said) == 4 + 8


@pytest.mark.full
@pytest.mark.parametrize(("name", "method"), [("llama", "lora"), ("qwen3", "qlora")])
def test_the_course_needs_what_its_preset_says(name, method, saved):
    (rows, length), recipe = SHAPES[name], Recipe()
    model, _ = load_base(path=saved[name], quantization={"qlora": "nf4"}.get(method), device="cpu")
    model = attach_adapters(model, recipe).train()
    set_checkpointing(model, on=True)
    accelerator = make_accelerator(model, BF16)
    wrapped = accelerator.prepare_model(model)
    optimizer = accelerator.prepare_optimizer(make_optimizer(wrapped, recipe, fused=True))
    answers = math.ceil((length - 1) / 4)
    ids = torch.randint(3, 250, (rows, length))
    labels = torch.where(torch.arange(length) < length - answers, -100, ids)
    batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    arguments = accelerator, wrapped, optimizer, [batch], recipe
    size = measured(model, optimizer.optimizer, lambda: training_step(*arguments))
    # Besides a few sums, each answer token's target, mask, indices and probability are not traced,
    # nor are the positions of each row and their rotary tables, which the trace has once.
    missing = size - traced(name, method, "course", answer_share=0.25)
    tables = 8 * rows * length + 2 * 2 * (rows - 1) * length * model.config.head_dim
    assert 0 <= missing <= 24 + (8 + 1 + 16 + 4) * rows * answers + tables


@pytest.mark.full
def test_trl_has_the_defaults_of_its_preset(saved):
    trainer = by_trl(saved["llama"], "qlora")
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    defaults = {"loss_type": "nll", "bf16": True, "optim": "adamw_torch_fused"}
    defaults |= {"gradient_checkpointing": True, "activation_offloading": False}
    assert {name: getattr(trainer.args, name) for name in defaults} == defaults
    assert (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE) == TILE
    adapters = {p.dtype for p in trainer.model.parameters() if p.requires_grad}
    assert adapters == {BF16}, "QLoRA's adapters"


def test_transformers_and_the_course_have_the_defaults_of_their_presets(tmp_path):
    arguments = TrainingArguments(tmp_path, use_cpu=True)
    assert (arguments.bf16, arguments.optim) == (False, "adamw_torch_fused")
    assert not arguments.gradient_checkpointing
    assert Recipe().gradient_checkpointing
    assert loss.CHUNK == ANSWER_CHUNK


@pytest.mark.parametrize(
    ("trainer", "method", "options", "recipe", "optimizer"),
    [
        ("course", "qlora", {}, "autocast", "paged_adamw8bit"),
        ("course", "qlora", {"device": "cpu"}, "autocast", "adamw"),
        ("course", "lora", {"compute_dtype": "float32", "device": "cpu"}, "fp32", "adamw"),
        ("trl", "qlora", {"compute_dtype": "float32"}, "bf16", "adamw"),
        ("transformers", "full", {"compute_dtype": "float32"}, "fp32", "adamw"),
    ],
)
def test_a_preset_depends_on_device_and_format(trainer, method, options, recipe, optimizer):
    settings = Settings.of(method, {"trainer": trainer} | options)
    assert (settings.recipe, settings.optimizer) == (recipe, optimizer)
