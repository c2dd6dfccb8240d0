"""Estimate how many bytes fine-tuning needs, part by part, before a model is loaded.

    weights       the model as it is stored: 32, 16 or 4 bits per parameter, constants included
    adapters      LoRA's matrices A and B
    gradients     one number for each trainable parameter
    optimizer     Adam's two moments, and the float32 master copy if the recipe has one
    activations   the tensors that autograd stores for the backward pass
    transient     all other tensors at the peak, minus a correction (see below)
    ───────────
    total         the bytes in memory at the peak of a training step

The first five lines count each part in full, even if the part is not in memory at the peak. For
example, the activations no longer exist when the weights are updated. `transient` subtracts the
bytes that are missing at the peak, so that the six lines add up to the total. Therefore `transient`
can be negative. `torch.cuda.max_memory_allocated` reports the total minus the states that a paged
optimizer may move to CPU memory.

Memory can peak in three phases of a training step. `estimate` adds up the bytes in memory in each
of these phases and describes the phase with the largest sum. The table shows which tensors are
large in each phase, and which runs often have their peak in this phase:

    the loss            logits, their softmax, a gradient of each    runs with large vocabularies
    a layer's backward  one layer's activations, their gradients     runs with long sequences
    the update          all gradients and the optimizer states       full fine-tuning

`timeline` lists every phase of the step, layer by layer. To read the code, start with the module
`plan` (a model and its settings), continue with `weights`, `activations` and `step`, which compute
bytes from a plan, and end with `estimates`, `search` and `advice`. The module `families`
reads the config of a model. The package needs only Python's standard library, except to read a
config from the hub.

Each formula follows the code that allocates the bytes: transformers' model classes, peft's LoRA
layers, bitsandbytes' 4-bit layers, PyTorch's kernels and its caching allocator. The tests compare
the estimates with memory measured on a CPU and on a Tesla T4.

Sources: ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054); LoRA (Hu et al. 2021, arXiv 2106.09685);
QLoRA (Dettmers et al. 2023, arXiv 2305.14314); selective recomputation (Korthikanti et al. 2022,
arXiv 2205.05198); checkpointing (Chen et al. 2016, arXiv 1604.06174).
"""

from course_utils.memory.advice import Alternative, alternatives
from course_utils.memory.estimates import Estimate, estimate, timeline
from course_utils.memory.families import FAMILIES, PRESETS
from course_utils.memory.gpus import GPU, GPUS, RESERVE, usable_bytes
from course_utils.memory.plan import Plan, Trainable
from course_utils.memory.search import SEARCH_LIMIT, kv_cache_bytes, largest, largest_number
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

__all__ = [
    "BLOCK_SIZES",
    "CUBLAS_WORKSPACE",
    "DTYPE_BYTES",
    "FAMILIES",
    "GPU",
    "GPUS",
    "GROUPS",
    "LOGITS",
    "LOSS",
    "OPTIMIZERS",
    "PARTS",
    "PRESETS",
    "RECIPES",
    "RESERVE",
    "REST",
    "SEARCH_LIMIT",
    "SHARDINGS",
    "SMALLEST_8BIT",
    "SMALLEST_PAGED",
    "UPDATE",
    "WORK",
    "Alternative",
    "Estimate",
    "MemoryTerm",
    "ModelShape",
    "Optimizer",
    "Plan",
    "Precision",
    "Settings",
    "StepPhase",
    "Trainable",
    "alternatives",
    "estimate",
    "kv_cache_bytes",
    "largest",
    "largest_number",
    "nf4_bytes",
    "paged_bytes",
    "state_bytes",
    "timeline",
    "usable_bytes",
]
