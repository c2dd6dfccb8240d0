"""Check the values that a reader chooses for a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from course_utils.validation import check_number

# The model of the slides, of which only the number of parameters, seven billion, is known.
SLIDE = "7b"
METHODS = {
    "full": "full fine-tuning",
    "lora": "LoRA on a 16-bit base",
    "qlora": "QLoRA on an NF4 base",
}
MAX_SEQUENCES, MAX_TOKENS, MAX_RANK = 1024, 131_072, 1024
CHECKPOINTING, DOUBLE, UPCAST = "gradient checkpointing", "double quantization", "float32 upcast"


@dataclass(frozen=True, kw_only=True)
class StepChoices:
    """The values chosen for a training step in `memory_explorer` and `paging_explorer`.

    Attributes:
        model: SLIDE, or a name from `memory.PRESETS`.
        method: A key of METHODS. "lora" and "qlora" put float32 adapters on all linear layers.
        optimizer: As in `memory.estimate`.
        gpu: A name from `memory.GPUS`.
        batch_size: Number of sequences in one batch.
        sequence_length: Number of tokens in each sequence.
        rank: Rank of the adapters; ignored in full fine-tuning.
        gradient_checkpointing: As in `memory.estimate`.
        recipe: As in `memory.estimate`; used only for full fine-tuning.
        double_quant: As in `memory.estimate`; used only for QLoRA.
        upcast: As in `memory.estimate`; used only for QLoRA.

    Raises:
        ValueError: A value is out of range.
    """

    model: str
    method: str
    optimizer: str
    gpu: str
    batch_size: int
    sequence_length: int
    rank: int
    gradient_checkpointing: bool
    recipe: str = "fp32"
    double_quant: bool = True
    upcast: bool = False

    def __post_init__(self) -> None:
        check_number("batch size", self.batch_size, MAX_SEQUENCES)
        check_number("tokens", self.sequence_length, MAX_TOKENS)
        if self.method != "full":
            check_number("rank r", self.rank, MAX_RANK)

    @property
    def method_options(self) -> dict[str, Any]:
        """The options of `memory.estimate` that depend on the chosen method."""
        if self.method == "full":
            return {"recipe": self.recipe}
        adapters = {"rank": self.rank, "targets": "all-linear"}
        if self.method == "lora":
            return adapters
        return adapters | {"double_quant": self.double_quant, "upcast": self.upcast}


@dataclass(frozen=True, kw_only=True)
class MemoryChoices(StepChoices):
    """The values that a reader chooses in `memory_explorer`.

    Attributes:
        attention: As in `memory.estimate`.
    """

    attention: str

    @property
    def options(self) -> dict[str, Any]:
        """The options of `memory.estimate` for these choices, except the batch size."""
        return self.method_options | {
            "optimizer": self.optimizer,
            "attention": self.attention,
            "sequence_length": self.sequence_length,
            "gradient_checkpointing": self.gradient_checkpointing,
        }
