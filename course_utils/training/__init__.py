"""Fine-tune a model with QLoRA (lecture 07), from the settings of a run to its checkpoints.

Read `loop` first, and then the other modules in the order of this list:

    recipe          all settings of a training run
    adapters        LoRA adapters on a frozen base model
    batches         how the examples are divided into micro-batches
    step            the loss and one optimizer step
    loop            `finetune`, the training loop
    watch           what the model has learned so far, shown while it trains
    checkpoints     saved states from which a run can continue
    loss            a cross-entropy that needs little memory
    by_hand         a faster training step for CPUs, written out without autograd
    precision       the dtype in which a run computes
"""

from course_utils.training.adapters import (
    attach_adapters,
    load_adapters,
    set_checkpointing,
    strength,
    temporary_adapters,
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
from course_utils.training.watch import Watch, answer_token_kinds, loss_by_kind, token_losses
