"""Lesson 07: QLoRA fine-tuning, from the recipe and one step to the loop and its checkpoints."""

from course_utils.training.loop import (
    Checkpoints,
    Recipe,
    Run,
    TrainingError,
    answer_loss,
    attach_adapters,
    count_answer_tokens,
    count_tokens,
    finetune,
    load_adapters,
    make_optimizer,
    mean_loss,
    set_checkpointing,
    trainable_parameters,
    training_step,
)

__all__ = [
    "Checkpoints",
    "Recipe",
    "Run",
    "TrainingError",
    "answer_loss",
    "attach_adapters",
    "count_answer_tokens",
    "count_tokens",
    "finetune",
    "load_adapters",
    "make_optimizer",
    "mean_loss",
    "set_checkpointing",
    "trainable_parameters",
    "training_step",
]
