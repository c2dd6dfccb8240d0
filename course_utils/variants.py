"""Compare ranks, learning rates and variants of LoRA on a tiny Llama, in seconds per trial.

    Trial ──> prepare: adapters on the pretrained Llama ──> train ──> losses

The Llama reads bytes instead of tokens. It is pretrained on the course's news stories (the source)
and fine-tuned on their headlines (the target). Its weights were never quantized, unlike those of
the course's SmolLM2, whose file has 4 bits. So 4-bit formats can be compared fairly.

References: LoRA (Hu et al. 2021, arXiv 2106.09685), rsLoRA (Kalajdzievski 2023, arXiv 2312.03732),
DoRA (Liu et al. 2024, arXiv 2402.09353), PiSSA (Meng et al. 2024, arXiv 2404.02948), LoRA+ (Hayou
et al. 2024, arXiv 2402.12354), LoftQ (Li et al. 2023, arXiv 2310.08659).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from course_utils import news
from course_utils.machine.validation import one_of, positive
from course_utils.models.llama import adapter_of, linears
from course_utils.quantization import fp4_codebook, nf4_codebook, quantize, quantize_linear

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.optim import Optimizer
    from transformers import LlamaForCausalLM

LENGTH, BATCH = 64, 16
# Steps of pretraining and of fine-tuning, and the learning rate of pretraining.
PRETRAINING_STEPS, STEPS, PRETRAINING_RATE = 600, 50, 5e-3
# Each loss is measured on at most this many bytes.
MEASURED = 8_000
# LoRA+ trains B with a learning rate that is this many times as high as that of A.
LORA_PLUS_RATIO = 16
FORMATS = ("nf4-dq", "nf4", "fp4", "int4")
# The options of peft's LoraConfig that make each variant of LoRA.
VARIANTS: dict[str, dict[str, Any]] = {
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
    "LoRA+": {},
    "LoftQ": {},
}
WAYS = ("full", "lora", *FORMATS, *VARIANTS)
TARGETS = {"all-linear": "all-linear", "q and v": ["q_proj", "v_proj"]}


@dataclass(frozen=True)
class Trial:
    """The settings of one fine-tuning run of the tiny Llama.

    Attributes:
        way: what is trained. "full" trains all weights, "lora" LoRA on unquantized weights. "nf4",
            "nf4-dq" (with double quantization), "fp4" and "int4" train LoRA on weights that are
            rounded to this format in blocks of 64. The other ways are variants of LoRA: LoftQ on
            weights in NF4, all others on unquantized weights.
        alpha: adapters are scaled by alpha / rank, or by alpha / √rank with rsLoRA.
    """

    way: str = "lora"
    learning_rate: float = 8e-3
    rank: int = 8
    alpha: int = 16
    targets: str = "all-linear"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("way", self.way, WAYS)
        one_of("targets", self.targets, tuple(TARGETS))
        positive("rank", self.rank)
        positive("alpha", self.alpha)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate!r}")


def run(trial: Trial) -> dict[str, float]:
    """Fine-tune the tiny Llama with the settings of a trial, and measure it.

    Returns:
        The number of trained parameters ("trained") and three losses in nats per byte: on the
        validation headlines ("validation"), on the test headlines ("target") and on test stories
        ("source").
    """
    data = texts()
    model = prepare(trial)
    optimizer = make_optimizer(model, trial)
    train(model, data["headlines", "train"], optimizer, STEPS, trial.seed)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"trained": trained, **losses(model)}


def losses(model: nn.Module) -> dict[str, float]:
    """Return the losses of a model in nats per byte, by the names in `run`."""
    measured = {
        "validation": ("headlines", "validation"),
        "target": ("headlines", "test"),
        "source": ("stories", "test"),
    }
    return {name: loss_on(model, texts()[key]) for name, key in measured.items()}


@torch.no_grad()
def loss_on(model: nn.Module, text: Tensor) -> float:
    """Return the loss of a model on the first bytes of a text, in nats per byte."""
    return _loss(model, text[:MEASURED].unfold(0, LENGTH + 1, LENGTH)).item()


# -- the model and its texts -----------------------------------------------------------------------


@cache
def texts() -> dict[tuple[str, str], Tensor]:
    """Return the bytes of the stories and headlines of each split, by (kind, split)."""
    return {
        (kind, split): torch.tensor(list("\n".join(part[column]).encode()))
        for split, part in news.load_news().items()
        for kind, column in (("stories", "story"), ("headlines", "headline"))
    }


@cache
def pretrained() -> LlamaForCausalLM:
    """Pretrain the tiny Llama on the stories, once in a process. This takes about 20 s."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    optimizer = AdamW(model.parameters(), PRETRAINING_RATE, weight_decay=0.1)
    train(model, texts()["stories", "train"], optimizer, PRETRAINING_STEPS, seed=0)
    return model


def train(  # noqa: PLR0913
    model: nn.Module, text: Tensor, optimizer: Optimizer, steps: int, seed: int, batch: int = BATCH
) -> None:
    """Train a model to predict the next byte in random windows of a text.

    The learning rate rises from a twenty-fifth of the optimizer's to this rate, and then falls.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=steps, cycle_momentum=False
    )
    windows, generator = text.unfold(0, LENGTH + 1, 1), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(windows), (batch,), generator=generator)
        optimizer.zero_grad()
        _loss(model, windows[chosen]).backward()
        optimizer.step()
        schedule.step()


def _loss(model: Callable, windows: Tensor) -> Tensor:
    """Return the mean loss in nats per byte; windows are (batch, LENGTH + 1)."""
    logits = model(input_ids=windows[:, :-1]).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


# -- adapters, formats and optimizers --------------------------------------------------------------


def prepare(trial: Trial) -> nn.Module:
    """Return a copy of the pretrained Llama with the trial's format and adapters, untrained."""
    from peft import LoraConfig, get_peft_model

    model = copy.deepcopy(pretrained())
    if trial.way == "full":
        return model
    name = "nf4" if trial.way == "LoftQ" else trial.way
    for layer in linears(model) if name in FORMATS else ():
        layer.weight.data = rounded(layer.weight.data, name)
    config = LoraConfig(
        r=trial.rank,
        lora_alpha=trial.alpha,
        target_modules=TARGETS[trial.targets],
        task_type="CAUSAL_LM",
        **VARIANTS.get(trial.way, {}),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(trial.seed)
        adapted = get_peft_model(model, config)
    if trial.way == "LoftQ":
        start_at_rounding_error(adapted)
    return adapted


@torch.no_grad()
def start_at_rounding_error(model: PeftModel) -> None:
    """Start each adapter where it best corrects the rounding of its layer, as LoftQ does.

    The best correction of a rank is given by the largest singular values of W − Q(W). This is one
    iteration of LoftQ, as in peft's `replace_lora_weights_loftq`. peft's function needs a GPU, and
    it ignores the scale alpha / rank.
    """
    for layer, original in zip(linears(model.get_base_model()), linears(pretrained()), strict=True):
        if hasattr(layer, "lora_A"):
            A, B, scale = adapter_of(layer)
            error = original.weight - layer.base_layer.weight
            left, sizes, right = torch.linalg.svd(error, full_matrices=False)
            roots = (sizes[: len(A)] / scale).sqrt()
            A.copy_(roots[:, None] * right[: len(A)])
            B.copy_(left[:, : len(A)] * roots)


def rounded(weight: Tensor, name: str) -> Tensor:
    """Return a weight with the values that it has in a 4-bit format, in blocks of 64."""
    if name == "int4":
        return quantize_linear(weight, bits=4, block_size=64).dequantize()
    codebook = fp4_codebook() if name == "fp4" else nf4_codebook()
    return quantize(weight, codebook, double_quant=name == "nf4-dq").dequantize()


def make_optimizer(model: nn.Module, trial: Trial) -> Optimizer:
    """Return AdamW without weight decay, with two learning rates for LoRA+."""
    if trial.way == "LoRA+":
        from peft.optimizers import create_loraplus_optimizer

        return create_loraplus_optimizer(
            model, AdamW, lr=trial.learning_rate, loraplus_lr_ratio=LORA_PLUS_RATIO, weight_decay=0
        )
    trainable = [p for p in model.parameters() if p.requires_grad]
    return AdamW(trainable, trial.learning_rate, weight_decay=0)
