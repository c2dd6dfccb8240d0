"""The choices that decide how much memory fine-tuning takes, by name, with their bytes."""

from __future__ import annotations

from dataclasses import dataclass

from course_utils.validation import names_of, positive

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # those of bitsandbytes
SHARDINGS = (None, "zero1", "zero2", "zero3", "fsdp")


@dataclass(frozen=True)
class Recipe:
    """Bytes of each part of one trainable parameter, optimizer states aside.

    weight, gradient: as the model holds them. master: a float32 copy that the optimizer updates.
    state: bytes of each number that the optimizer keeps. stream, value: bytes of a number in the
    residual stream, and of one that a linear layer returns.
    """

    weight: int
    gradient: int
    master: int
    state: int
    stream: int
    value: int
    source: str


RECIPES = {
    "fp32": Recipe(4, 4, 0, 4, 4, 4, "all in float32, as peft keeps adapters"),
    "mixed": Recipe(2, 2, 4, 4, 2, 2, "ZeRO, section 3.1; the slide's 2 + 2 + 12"),
    "autocast": Recipe(4, 4, 0, 4, 4, 2, "torch.autocast: float32 weights, 16-bit products"),
    "bf16": Recipe(2, 2, 0, 2, 2, 2, "a model and its optimizer wholly in 16 bits"),
    "qlora-paper": Recipe(2, 2, 0, 4, 2, 2, "QLoRA: 12 B a parameter, 780 GB for 65B"),
}


@dataclass(frozen=True)
class Optimizer:
    """states: numbers kept for each parameter; eight_bit: those in 8 bits; paged: they may move to
    CPU memory; scratch: numbers for each parameter that live during the update only.
    """

    states: int
    eight_bit: bool = False
    paged: bool = False
    scratch: int = 0


OPTIMIZERS = {
    "adamw": Optimizer(2),  # fused, as the Trainer of transformers has it
    "adamw_foreach": Optimizer(2, scratch=1),  # torch.optim.AdamW's default: a root of all v
    "adamw8bit": Optimizer(2, eight_bit=True),
    "paged_adamw": Optimizer(2, paged=True),
    "paged_adamw8bit": Optimizer(2, eight_bit=True, paged=True),
    "sgd": Optimizer(0),
    "sgd_momentum": Optimizer(1),
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides about memory besides the model; `memory.estimate` describes each.

    Raises ValueError for a value that is not allowed, saying which are.
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
        for name, allowed in (
            ("method", ("full", "lora", "qlora")),
            ("compute_dtype", DTYPE_BYTES),
            ("recipe", RECIPES),
            ("optimizer", OPTIMIZERS),
            ("attention", ("sdpa", "eager")),
            ("block_size", BLOCK_SIZES),
            ("sharding", SHARDINGS),
            ("device", ("cuda", "cpu")),
        ):
            if getattr(self, name) not in tuple(allowed):
                choices = ", ".join(map(str, allowed))
                raise ValueError(f"{name} must be one of {choices}; got {getattr(self, name)!r}")
        if self.autocast and self.compute_dtype == "float32":
            raise ValueError("autocast computes in float16 or bfloat16, not in float32")

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.batch_size * self.sequence_length

    @property
    def trains_weights(self) -> bool:
        """Whether the model's own weights are trained, rather than adapters."""
        return self.method == "full"

    @property
    def base_bytes(self) -> int:
        """Bytes of a base weight that is not quantized."""
        if self.trains_weights:
            return RECIPES[self.recipe].weight
        if self.method == "qlora":
            return 4 if self.upcast else 2
        return DTYPE_BYTES[self.compute_dtype]

    @property
    def stream_bytes(self) -> int:
        """Bytes of a number in the residual stream: the format of the embedding."""
        return RECIPES[self.recipe].stream if self.trains_weights else self.base_bytes

    @property
    def value_bytes(self) -> int:
        """Bytes of a number that a linear layer returns (bitsandbytes: the format of its input)."""
        return RECIPES[self.recipe].value if self.trains_weights else self.base_bytes

    @property
    def attention_bytes(self) -> int:
        """Bytes of a number that attention reads and returns."""
        return 2 if self.autocast else self.value_bytes

    @property
    def adapter_bytes(self) -> int:
        """Bytes of a number that A and B compute with."""
        return 2 if self.autocast else 4

    @property
    def reads_as_is(self) -> bool:
        """Whether A reads what is in its format already, rather than a copy made on the way.

        peft turns it into float32 first, and autocast back; peft's 4-bit layers ask whether
        autocast is on, which PyTorch answers for a GPU.
        """
        return not self.autocast or (self.method == "qlora" and self.device == "cuda")

    @property
    def product_dtype(self) -> str:
        """The format that products are computed in."""
        return "bfloat16" if self.trains_weights and self.recipe == "bf16" else self.compute_dtype

    @property
    def autocast(self) -> bool:
        """Whether products run in 16 bits, whatever the format of weights and adapters."""
        return self.recipe == "autocast"


@dataclass(frozen=True)
class Line:
    """One line of the arithmetic: a part, what of it, bytes (B), the formula, and its source."""

    part: str
    what: str
    size: int
    formula: str
    source: str
