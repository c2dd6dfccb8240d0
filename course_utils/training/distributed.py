"""What training in several processes needs beyond `accelerate`: see docs/bigger-machines.md.

    EvenBatches, collated      an epoch's last batches, where examples run out
    sharded, gathered, …       a model in shares (FSDP): adapters on a base in 4 bits

The loop itself, of one process or many, is in `finetuning`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, repeat
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import BatchSampler

from course_utils.models import linear4bit_layers
from course_utils.sft import IGNORE, Features


class EvenBatches(BatchSampler):
    """Equally many batches for each process, all full; -1 stands where examples have run out.

        7 examples in batches of 2, for 2 processes     0 1 | 2 3     4 5 | 6 -1
        5 examples                                      0 1 | 2 3     4 -1 | -1 -1

    accelerate itself fills up with an epoch's first examples, which then count twice.
    """

    def __init__(self, sampler, batch_size: int, processes: int):
        super().__init__(sampler, batch_size, drop_last=False)
        self.together = batch_size * processes

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.together) * self.together // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        places = chain(self.sampler, repeat(-1, -len(self.sampler) % self.together))
        while batch := list(islice(places, self.batch_size)):
            yield batch


def collated(collate_fn: Callable, rows: Sequence[Features | None]) -> dict[str, Tensor]:
    """A batch of the rows that are there; of none, one token without loss, to keep in step."""
    there = [row for row in rows if row is not None]
    return collate_fn(there or [{"input_ids": [0], "labels": [IGNORE]}])


def fsdp_wanted() -> bool:
    """Whether `accelerate launch` was told to use FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def sharded(accelerator) -> bool:
    """Whether each process holds a part of the model only (FSDP)."""
    return accelerator.distributed_type == "FSDP"


def make_ready_for_fsdp(plugin, model) -> None:
    """What FSDP asks of adapters on a base in 4 bits (peft's guide on FSDP has it from there on).

    It shards floating-point numbers only, of one dtype in each unit: so the codes lie in memory as
    if they were numbers of the dtype that the rest of the base has, as with
    bnb_4bit_quant_storage. Their bytes stay what they are, and may not be cast: autocast does
    mixed precision, FSDP none. Adapters, which are trained, get units of their own.

    Raises ValueError for a model without adapters.
    """
    from peft.utils.other import fsdp_auto_wrap_policy

    if not hasattr(model, "peft_config"):
        raise ValueError("over several GPUs with FSDP only adapters are trained: attach_adapters")
    base = model.get_base_model()
    rest = base.get_input_embeddings().weight.dtype
    for layer in linear4bit_layers(model).values():
        layer.weight.data = layer.weight.data.flatten().view(rest)[:, None]
        layer.quant_storage = layer.weight.quant_storage = rest
    vars(base).pop("hf_device_map", None)  # on a CPU still: FSDP moves each unit to its GPU
    plugin.auto_wrap_policy = fsdp_auto_wrap_policy(model)
    plugin.mixed_precision_policy = None


def gathered(accelerator) -> dict[str, Tensor] | None:
    """What FSDP has spread over the processes, whole again in the main one; else None."""
    if not sharded(accelerator):
        return None
    return accelerator.get_state_dict(accelerator._models[0])


def save_gathered(model, weights: dict[str, Tensor], folder: Path) -> None:
    """Write adapters as peft does; peft 0.21 itself finds none in a model that FSDP wraps."""
    adapter = model.active_adapter
    folder = folder if adapter == "default" else folder / adapter
    model.peft_config[adapter].save_pretrained(str(folder))
    names = [name for name in weights if f".{adapter}." in name]
    tensors = {n.replace(f".{adapter}.", "."): weights[n].contiguous() for n in names}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
