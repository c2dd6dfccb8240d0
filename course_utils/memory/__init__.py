"""Estimate how many bytes fine-tuning needs, part by part, before a model is loaded.

    weights       the model as it is stored: 32, 16 or 4 bits per parameter, constants included
    adapters      LoRA's matrices A and B
    gradients     one number for each trainable parameter
    optimizer     Adam's two moments, and the float32 master copy if the recipe has one
    activations   the tensors that autograd stores for the backward pass
    transient     all other tensors at the peak, minus what the parts above lack then
    ───────────
    total         the bytes in memory at the peak of a training step

Memory can peak in three phases of a training step, and `estimate` returns the largest sum:

    the loss            logits, softmax, gradients of these two      if all logits are in memory
    a layer's backward  one layer's activations, their gradients     runs with long sequences
    the update          all gradients and the optimizer states       full fine-tuning

To read the code, start with `plan` (a model and its settings), continue with `weights`,
`activations`, `output` and `step`, which compute bytes from a plan, and end with `estimates`,
`search` and `advice`. Each formula follows the code that allocates the bytes. These modules need
only Python's standard library. Only reading a config from the hub needs another package.

The formulas know the model types in `FAMILIES`. `trace` runs the real code of any causal model on
tensors without numbers, and needs PyTorch. `fit` uses the formulas if they know the model, and a
trace otherwise. The command `course fit` prints what `fit` returns.

The tests check that a trace gives exactly the bytes that are measured on a CPU. They also check
that formulas and traces give the same bytes (tests/test_memory.py names the exceptions). They also
compare estimates with memory measured on a Tesla T4.

Sources: ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054); LoRA (Hu et al. 2021, arXiv 2106.09685);
QLoRA (Dettmers et al. 2023, arXiv 2305.14314); selective recomputation (Korthikanti et al. 2022,
arXiv 2205.05198); checkpointing (Chen et al. 2016, arXiv 1604.06174).
"""

from course_utils.memory.advice import Alternative, alternatives
from course_utils.memory.estimates import Estimate, estimate, timeline
from course_utils.memory.families import FAMILIES, PRESETS, TRACED
from course_utils.memory.gpus import GPU, GPUS, MORE_GPUS, RESERVE, USABLE, usable_bytes
from course_utils.memory.plan import Plan, Trainable
from course_utils.memory.search import SEARCH_LIMIT, largest, largest_number
from course_utils.memory.settings import (
    BLOCK_SIZES,
    DTYPE_BYTES,
    OPTIMIZERS,
    RECIPES,
    SHARDINGS,
    Optimizer,
    Precision,
    Settings,
)
from course_utils.memory.shapes import ModelShape
from course_utils.memory.step import (
    CUBLAS_WORKSPACE,
    LOSS,
    UPDATE,
    StepPhase,
)
from course_utils.memory.terms import GROUPS, LOGITS, PARTS, REST, WORK, MemoryTerm
from course_utils.memory.weights import (
    SMALLEST_8BIT,
    SMALLEST_PAGED,
    nf4_bytes,
    paged_bytes,
    state_bytes,
)
