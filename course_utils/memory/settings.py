"""The choices that decide how much memory fine-tuning needs, by name, with their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from course_utils.validation import names_of, positive

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# The block sizes of bitsandbytes.
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)

# Stage → the parts that it divides among the GPUs (ZeRO, section 5; "fsdp" divides like "zero3").
SHARDED: dict[str | None, tuple[str, ...]] = {
    None: (),
    "zero1": ("optimizer",),
    "zero2": ("optimizer", "gradients"),
    "zero3": ("optimizer", "gradients", "weights"),
    "fsdp": ("optimizer", "gradients", "weights"),
}
SHARDINGS = tuple(SHARDED)


@dataclass(frozen=True)
class Precision:
    """Bytes of each number that belongs to a trainable parameter.

    Attributes:
        weight: Bytes of the parameter as the model stores it.
        gradient: Bytes of its gradient.
        master: Bytes of the float32 copy that the optimizer updates, 0 if there is none.
        state: Bytes of each number that the optimizer keeps.
        stream: Bytes of a number in the residual stream.
        value: Bytes of a number that a linear layer returns.
        source: The code or the paper that trains in this precision.
    """

    weight: int
    gradient: int
    master: int
    state: int
    stream: int
    value: int
    source: str


RECIPES = {
    "fp32": Precision(4, 4, 0, 4, 4, 4, "all in float32, as peft keeps adapters"),
    "mixed": Precision(2, 2, 4, 4, 2, 2, "ZeRO, section 3.1; the slide's 2 + 2 + 12"),
    "autocast": Precision(4, 4, 0, 4, 4, 2, "torch.autocast: float32 weights, 16-bit products"),
    "bf16": Precision(2, 2, 0, 2, 2, 2, "a model and its optimizer wholly in 16 bits"),
    "qlora-paper": Precision(2, 2, 0, 4, 2, 2, "QLoRA: 12 B a parameter, 780 GB for 65B"),
}


@dataclass(frozen=True)
class Optimizer:
    """What an optimizer stores for each trainable parameter.

    Attributes:
        states: How many numbers it keeps.
        eight_bit: Whether it keeps them in 8 bits.
        paged: Whether they may move to CPU memory.
        scratch: How many more numbers exist only while it updates the weights.
    """

    states: int
    eight_bit: bool = False
    paged: bool = False
    scratch: int = 0


OPTIMIZERS = {
    # The fused AdamW, the default of transformers' Trainer.
    "adamw": Optimizer(2),
    # The default of torch.optim.AdamW, which makes a tensor of the roots of all v.
    "adamw_foreach": Optimizer(2, scratch=1),
    "adamw8bit": Optimizer(2, eight_bit=True),
    "paged_adamw": Optimizer(2, paged=True),
    "paged_adamw8bit": Optimizer(2, eight_bit=True, paged=True),
    "sgd": Optimizer(0),
    "sgd_momentum": Optimizer(1),
}

CHOICES: dict[str, tuple[Any, ...]] = {
    "method": ("full", "lora", "qlora"),
    "compute_dtype": tuple(DTYPE_BYTES),
    "recipe": tuple(RECIPES),
    "optimizer": tuple(OPTIMIZERS),
    "attention": ("sdpa", "eager"),
    "block_size": BLOCK_SIZES,
    "sharding": SHARDINGS,
    "device": ("cuda", "cpu"),
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides about memory besides the model; `memory.estimate` describes each.

    Raises:
        ValueError: A value is not allowed; the message lists the allowed ones.
    """

    method: str = "full"
    batch_size: int = 1
    sequence_length: int = 1024
    rank: int = 16
    targets: str | tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    compute_dtype: str = "float16"
    recipe: str = "mixed"
    optimizer: str = "adamw"
    attention: str = "sdpa"
    gradient_checkpointing: bool = True
    block_size: int = 64
    double_quant: bool = False
    upcast: bool = True
    unquantized: tuple[str, ...] = ()
    accumulation: int = 1
    keep_output: bool = True
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
        for name in ("gradient_checkpointing", "double_quant", "upcast", "keep_output"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(str, allowed))
                raise ValueError(f"{name} must be one of {choices}; got {getattr(self, name)!r}")
        if self.autocast and self.compute_dtype == "float32":
            raise ValueError("autocast computes in float16 or bfloat16, not in float32")

    @classmethod
    def of(cls, method: str, options: Mapping[str, Any]) -> Settings:
        """Build the settings from the options of `memory.estimate`.

        The recipe defaults to "mixed" for full fine-tuning and to "fp32" for adapters.

        Raises:
            ValueError: An option is unknown, or its value is not allowed.
        """
        recipe = "mixed" if method == "full" else "fp32"
        try:
            return cls(method=method, **{"recipe": recipe, **options})
        except TypeError as error:
            allowed = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"{str(error).split(') ')[-1]}; options are {allowed}") from None

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.batch_size * self.sequence_length

    @property
    def trains_weights(self) -> bool:
        """Whether the model's own weights are trained, rather than adapters."""
        return self.method == "full"

    def shards(self, part: str) -> bool:
        """Whether each GPU stores only its share of "optimizer", "gradients" or "weights"."""
        return self.gpus > 1 and part in SHARDED[self.sharding]

    @property
    def precision(self) -> Precision:
        """The precision of the trainable parameters."""
        return RECIPES[self.recipe]

    @property
    def base_bytes(self) -> int:
        """Bytes of a base weight that is not quantized."""
        if self.trains_weights:
            return self.precision.weight
        if self.method == "qlora":
            return 4 if self.upcast else 2
        return DTYPE_BYTES[self.compute_dtype]

    @property
    def stream_bytes(self) -> int:
        """Bytes of a number in the residual stream: the format of the embedding."""
        return self.precision.stream if self.trains_weights else self.base_bytes

    @property
    def value_bytes(self) -> int:
        """Bytes of a number that a linear layer returns (bitsandbytes: the format of its input)."""
        return self.precision.value if self.trains_weights else self.base_bytes

    @property
    def attention_bytes(self) -> int:
        """Bytes of a number that attention reads and returns."""
        return 2 if self.autocast else self.value_bytes

    @property
    def adapter_bytes(self) -> int:
        """Bytes of a number that A and B compute with."""
        return 2 if self.autocast else 4

    @property
    def adapters_copy_input(self) -> bool:
        """Whether A reads a copy of its input even if the input has A's format already.

        peft turns the input into float32, and autocast turns it back into 16 bits. peft's 4-bit
        layers skip both copies if autocast is on, which PyTorch answers for a GPU.
        """
        return self.autocast and not (self.method == "qlora" and self.device == "cuda")

    @property
    def product_dtype(self) -> str:
        """The format that products are computed in."""
        return "bfloat16" if self.trains_weights and self.recipe == "bf16" else self.compute_dtype

    @property
    def autocast(self) -> bool:
        """Whether products run in 16 bits, whatever the format of weights and adapters."""
        return self.recipe == "autocast"
