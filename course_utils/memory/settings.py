"""Define the settings that determine how much memory fine-tuning needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from course_utils.machine.validation import names_of, positive

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# The block sizes that bitsandbytes supports.
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)

# The parts that each stage of sharding divides among the GPUs (ZeRO, section 5). "fsdp" divides the
# same parts as "zero3".
SHARDED: dict[str | None, tuple[str, ...]] = {
    None: (),
    "zero1": ("optimizer",),
    "zero2": ("optimizer", "gradients"),
    "zero3": ("optimizer", "gradients", "weights"),
    "fsdp": ("optimizer", "gradients", "weights"),
}
SHARDINGS = tuple(SHARDED)

# TRL 1.16 computes the logits of one tile at a time, with TILE[0] tokens and TILE[1] vocabulary
# tokens. The course converts ANSWER_CHUNK logits to float32 at a time (its module
# course_utils.training.loss calls this number CHUNK).
TILE, ANSWER_CHUNK = (4096, 32768), 2**20


@dataclass(frozen=True)
class Precision:
    """The bytes of one parameter, gradient, optimizer state and activation in a recipe.

    Attributes:
        weight: Bytes of a trainable parameter in the model.
        gradient: Bytes of its gradient.
        master: Bytes of its float32 copy, which the optimizer updates; 0 without such a copy.
        state: Bytes of each state that the optimizer stores for it.
        stream: Bytes of a number in the residual stream.
        value: Bytes of a number that a linear layer returns.
        source: The code or the paper that uses this precision.
    """

    weight: int
    gradient: int
    master: int
    state: int
    stream: int
    value: int
    source: str


RECIPES = {
    "fp32": Precision(4, 4, 0, 4, 4, 4, "all in float32, as peft stores adapters"),
    "mixed": Precision(2, 2, 4, 4, 2, 2, "ZeRO, section 3.1; the slide's 2 + 2 + 12"),
    "autocast": Precision(4, 4, 0, 4, 4, 2, "torch.autocast: float32 weights, 16-bit products"),
    "bf16": Precision(2, 2, 0, 2, 2, 2, "a model and its optimizer wholly in 16 bits"),
    "qlora-paper": Precision(2, 2, 0, 4, 2, 2, "inferred: QLoRA's 780 GB for 65B parameters"),
}


@dataclass(frozen=True)
class Optimizer:
    """The numbers that an optimizer stores for each trainable parameter.

    Attributes:
        states: How many numbers (states) the optimizer stores for each parameter.
        paged: Whether the states may move to CPU memory.
        scratch: How many more numbers per parameter exist only during the update.
    """

    states: int
    eight_bit: bool = False
    paged: bool = False
    scratch: int = 0


OPTIMIZERS = {
    # This is the fused AdamW of PyTorch, the default of transformers' Trainer.
    "adamw": Optimizer(2),
    # On a GPU, torch.optim.AdamW uses this variant by default. Each update temporarily stores the
    # square roots of all second moments.
    "adamw_foreach": Optimizer(2, scratch=1),
    "adamw8bit": Optimizer(2, eight_bit=True),
    "paged_adamw": Optimizer(2, paged=True),
    "paged_adamw8bit": Optimizer(2, eight_bit=True, paged=True),
    "sgd": Optimizer(0),
    "sgd_momentum": Optimizer(1),
}

# What each trainer does by default, in the versions that constraints.txt pins; this is measured by
# tests/test_trainers.py. The first dict contains options, the second the recipe of each method.
#   trl           SFTTrainer: bfloat16 autocast, logits in tiles, QLoRA's adapters in bfloat16. Full
#                 fine-tuning has float32 weights. With adapters, the weights that are not quantized
#                 have `compute_dtype` (16 bits in QLoRA), as with model_init_kwargs={"dtype":
#                 "bfloat16"}. Without it, TRL loads them in float32; for QLoRA, set `upcast`.
#   transformers  Trainer: no autocast, no gradient checkpointing, all logits. A model keeps the
#                 format of its checkpoint, and peft's adapters are float32. With bf16=True, the
#                 recipe is "autocast".
#   course        `finetune` with autograd: autocast, float32 adapters, logits only for tokens whose
#                 next token belongs to an answer, and on a GPU paged 8-bit Adam.
TRAINERS: dict[str | None, tuple[dict[str, Any], dict[str, str]]] = {
    None: ({"loss": "logits"}, {"full": "mixed", "lora": "fp32", "qlora": "fp32"}),
    "trl": ({"loss": "tiled"}, {"full": "autocast", "lora": "autocast", "qlora": "bf16"}),
    "transformers": (
        {"loss": "logits", "gradient_checkpointing": False},
        {"full": "bf16", "lora": "fp32", "qlora": "fp32"},
    ),
    "course": (
        {"loss": "answers", "optimizer": "paged_adamw8bit"},
        {"full": "autocast", "lora": "autocast", "qlora": "autocast"},
    ),
}

CHOICES: dict[str, tuple[Any, ...]] = {
    "method": ("full", "lora", "qlora"),
    "trainer": tuple(TRAINERS),
    "loss": ("logits", "tiled", "answers"),
    "compute_dtype": tuple(DTYPE_BYTES),
    "recipe": tuple(RECIPES),
    "optimizer": tuple(OPTIMIZERS),
    "attention": ("sdpa", "eager"),
    "block_size": BLOCK_SIZES,
    "sharding": SHARDINGS,
    "device": ("cuda", "cpu"),
    "gradient_checkpointing": (True, "some", False),
}


@dataclass(frozen=True)
class Settings:
    """The settings that determine how much memory fine-tuning of a given model needs.

    The docstring of `memory.estimate` describes each setting.
    """

    method: str = "full"
    trainer: str | None = None
    batch_size: int = 1
    sequence_length: int = 2048
    rank: int = 8
    targets: str | tuple[str, ...] = "all-linear"
    compute_dtype: str = "bfloat16"
    recipe: str = "mixed"
    loss: str = "logits"
    answer_share: float = 1.0
    optimizer: str = "adamw"
    attention: str = "sdpa"
    gradient_checkpointing: bool | Literal["some"] = True
    block_size: int = 64
    double_quant: bool = True
    upcast: bool = False
    unquantized: tuple[str, ...] = ()
    accumulation: int = 1
    keep_output: bool = False
    gpus: int = 1
    sharding: str | None = None
    device: str = "cuda"

    def __post_init__(self) -> None:
        for name in ("batch_size", "sequence_length", "rank", "accumulation", "gpus"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        for name in ("targets", "unquantized"):
            value = getattr(self, name)
            if value != "all-linear":
                object.__setattr__(self, name, names_of(name, value))
        for name in ("double_quant", "upcast", "keep_output"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        share = self.answer_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f"answer_share must be a number above 0 and at most 1, got {share!r}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(str, allowed))
                raise ValueError(f"{name} must be one of {choices}; got {getattr(self, name)!r}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.gradient_checkpointing == "some" and self.trainer != "course":
            raise ValueError('gradient_checkpointing="some" needs the trainer "course"')
        in_float16 = self.trains_weights and self.recipe in ("mixed", "qlora-paper")
        if self.compute_dtype == "float32" and (self.autocast or in_float16):
            raise ValueError(
                f"the recipe {self.recipe} computes in float16 or bfloat16, not in float32: choose "
                "another compute_dtype or another recipe"
            )

    @classmethod
    def of(cls, method: str, options: Mapping[str, Any]) -> Settings:
        """Build the settings from the options of `memory.estimate`.

        The trainer sets the defaults of some options (see `TRAINERS`). The default trainer is "trl"
        for adapters. For full fine-tuning, the default is None: mixed precision with 16 bytes per
        parameter, as on the slides.
        """
        chosen = {"trainer": None if method == "full" else "trl", **options}
        if chosen["trainer"] in TRAINERS and method in CHOICES["method"]:
            common, recipes = TRAINERS[chosen["trainer"]]
            preset = {"recipe": recipes[method], **common}
            if chosen.get("device") == "cpu":
                preset.pop("optimizer", None)
            # With compute_dtype="float32", autocast is off, and fully trained weights are float32.
            in_float32 = chosen.get("compute_dtype") == "float32"
            if in_float32 and (method == "full" or preset["recipe"] == "autocast"):
                preset["recipe"] = "fp32"
            chosen = preset | chosen
        try:
            return cls(method=method, **chosen)
        except TypeError as error:
            allowed = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"{str(error).split(') ')[-1]}; options are {allowed}") from None

    @property
    def tokens(self) -> int:
        """The number of tokens in one micro-batch."""
        return self.batch_size * self.sequence_length

    @property
    def loss_tokens(self) -> int:
        """The number of a micro-batch's tokens for which logits are computed."""
        if self.loss == "logits":
            return self.tokens
        share = self.answer_share if self.loss == "answers" else 1
        return self.batch_size * max(1, math.ceil(share * (self.sequence_length - 1)))

    @property
    def trains_weights(self) -> bool:
        """Whether the weights of the model itself are trained, instead of adapters."""
        return self.method == "full"

    def shards(self, part: str) -> bool:
        """Return whether each GPU stores only a fraction of `part` (see `SHARDED`)."""
        return self.gpus > 1 and part in SHARDED[self.sharding]

    @property
    def precision(self) -> Precision:
        """The bytes that the chosen recipe uses for each kind of number."""
        return RECIPES[self.recipe]

    @property
    def keeps_products(self) -> bool:
        """Whether the course's step by hand keeps the results of its dearest products."""
        by_hand = self.device == "cpu" and not self.trains_weights
        in_16_bits = self.compute_dtype != "float32"
        return by_hand and in_16_bits and self.gradient_checkpointing == "some"

    @property
    def load_dtype(self) -> str:
        """The number format in which the model's weights are loaded."""
        if self.trains_weights:
            return "float32" if self.precision.weight == 4 else self.product_dtype
        # In QLoRA, only the 4-bit layers compute in float32.
        coded = self.method == "qlora" and self.compute_dtype == "float32"
        return "bfloat16" if coded else self.compute_dtype

    @property
    def base_bytes(self) -> int:
        """The bytes of each unquantized weight of the base model."""
        if self.trains_weights:
            return self.precision.weight
        if self.method == "qlora":
            return 4 if self.upcast else 2
        return DTYPE_BYTES[self.compute_dtype]

    @property
    def stream_bytes(self) -> int:
        """The bytes of a number in the residual stream, which has the embedding's number format."""
        return self.precision.stream if self.trains_weights else self.base_bytes

    @property
    def value_bytes(self) -> int:
        """The bytes of a number in a linear layer's output. In 4-bit layers, that of the input."""
        return self.precision.value if self.trains_weights else self.base_bytes

    @property
    def attention_bytes(self) -> int:
        """The bytes of a number that attention reads or returns."""
        return 2 if self.autocast else self.value_bytes

    @property
    def adapter_bytes(self) -> int:
        """The bytes of a number in the matrix products of an adapter's A and B."""
        return 2 if self.autocast else self.precision.weight

    @property
    def adapters_copy_input(self) -> bool:
        """Whether the adapter's matrix A reads a copy of an input that needs no conversion.

        Under autocast, peft converts the input to float32, and autocast converts this copy to 16
        bits. peft's 4-bit layers skip this, but they detect autocast only on a GPU.
        """
        in_float32 = self.autocast and self.precision.weight == 4
        return in_float32 and not (self.method == "qlora" and self.device == "cuda")

    @property
    def product_dtype(self) -> str:
        """The number format in which matrix products are computed."""
        return "bfloat16" if self.trains_weights and self.recipe == "bf16" else self.compute_dtype

    @property
    def autocast(self) -> bool:
        """Whether autocast computes matrix products in 16 bits, even if the weights are float32."""
        # TRL's QLoRA runs under autocast. If all numbers have 16 bits, autocast changes nothing.
        widened = self.trainer == "trl" and self.recipe == "bf16" and self.upcast
        return self.recipe == "autocast" or (widened and self.compute_dtype != "float32")
