"""Lesson 07: QLoRA fine-tuning, from the recipe and one step to the loop and its checkpoints.

The modules, in the order in which to read them:

    recipe          every choice of a run
    adapters        LoRA adapters on a frozen base
    batches         which examples are read together
    step            the loss and one optimizer step
    loop            `finetune`: the training loop, read this first
    checkpoints     saved states, from which a run continues
    fast_step       the step on a CPU with fewer passes over memory
    distributed     devices, several processes, FSDP
    command         the command line
"""

from course_utils.training.adapters import (
    attach_adapters,
    load_adapters,
    set_checkpointing,
    trainable_parameters,
)
from course_utils.training.checkpoints import Checkpoints, TrainingError
from course_utils.training.loop import Run, Trainer, finetune
from course_utils.training.recipe import Recipe
from course_utils.training.step import (
    answer_loss,
    count_answer_tokens,
    count_tokens,
    make_optimizer,
    mean_loss,
    training_step,
)

__all__ = [
    "Checkpoints",
    "Recipe",
    "Run",
    "Trainer",
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
