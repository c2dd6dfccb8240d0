"""Train a tiny NF4 model in one or more processes.

    accelerate launch --config_file configs/cpu.yaml --module tests.launched FOLDER NAME …

trains the runs of these names (see `RUNS`) one after another. The main process writes the result of
each run to FOLDER/NAME.json. tests/test_distributed.py trains the same runs in one process, with
micro-batches that are as large as those of all processes together.
"""

import itertools
import json
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import accelerate.accelerator
import torch
from accelerate import DistributedType, PartialState
from accelerate.utils import gather_object
from torch.distributed.fsdp import FullyShardedDataParallel

from course_utils.models import tiny_base
from course_utils.training import Recipe, attach_adapters, finetune, loop
from tests.conftest import random_examples

TOKENIZER = SimpleNamespace(pad_token_id=0)
# Neither number is a multiple of the examples that two processes read at a time.
EXAMPLES, VALIDATION = 13, 5
RECIPE = Recipe(
    rank=4,
    micro_batch_size=2,
    learning_rate=1e-2,
    epochs=2,
    compute_dtype=torch.float32,
    validate_every=3,
)
# The number of steps after which a run is interrupted. Its last checkpoint is from step 4.
STOP = 6
# The runs whose names begin with "fsdp" use FSDP.
RUNS = {
    "whole": {"recipe": RECIPE},
    "accumulated": {"recipe": replace(RECIPE, accumulation=2)},
    "interrupted": {"recipe": replace(RECIPE, save_every=4), "stop": STOP},
    "resumed": {"recipe": RECIPE, "folder": "interrupted", "resume": True},
    "fsdp": {"recipe": RECIPE},
    "fsdp, interrupted": {"recipe": replace(RECIPE, save_every=4), "stop": STOP},
    "fsdp, resumed": {"recipe": RECIPE, "folder": "fsdp, interrupted", "resume": True},
}


def train(root: Path, name: str, processes: int = 1):
    """Return the run of this name, whose micro-batches are `processes` times as large."""
    options = {"folder": name, "stop": None} | RUNS[name]
    recipe, folder, stop = (options.pop(key) for key in ("recipe", "folder", "stop"))
    recipe = replace(recipe, micro_batch_size=processes * recipe.micro_batch_size)
    options |= {"recipe": recipe, "output_dir": root / folder}
    model = attach_adapters(tiny_base(), recipe)
    train, validation = random_examples(EXAMPLES, 1), random_examples(VALIDATION, 2)
    with interrupt(after=stop):
        return finetune(model, TOKENIZER, train, validation, **options)


@contextmanager
def interrupt(after: int | None):
    """Raise KeyboardInterrupt after this number of steps in the with block, or never for None."""
    step, number = loop.training_step, itertools.count()

    def interrupted(*args):
        if next(number) == after:
            raise KeyboardInterrupt
        return step(*args)

    with mock.patch.object(loop, "training_step", interrupted):
        yield


# -- in each process -------------------------------------------------------------------------------


def delay_saving() -> None:
    """Let all processes except the main process write their part of a checkpoint later."""
    save = accelerate.accelerator.save_accelerator_state

    def save_later(*args, **kwargs):
        time.sleep(0 if PartialState().is_main_process else 0.3)
        return save(*args, **kwargs)

    accelerate.accelerator.save_accelerator_state = save_later


def observe_steps() -> list[tuple[int, int]]:
    """Return a list to which each later step appends two numbers.

    The numbers are the random seed of dropout and the bytes of the parameters in this process.
    """
    observed, step = [], loop.training_step

    def observed_step(accelerator, model, *args):
        storages = [parameter.untyped_storage() for parameter in model.parameters()]
        size = sum({storage.data_ptr(): storage.size() for storage in storages}.values())
        observed.append((torch.initial_seed(), size))
        return step(accelerator, model, *args)

    loop.training_step = observed_step
    return observed


def allow_fsdp_on_cpu() -> None:
    """Let accelerate use torch's FSDP without a GPU.

    By default accelerate uses FSDP only on GPUs. It passes the device "cpu:0" to FSDP, which does
    not know this device. It also moves saved tensors to the CPU. Tensors that are already on the
    CPU would then be freed together with the shards.
    """
    PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
    make, saving = FullyShardedDataParallel.__init__, FullyShardedDataParallel.state_dict_type

    def on_cpu(self, *args, **kwargs):
        make(self, *args, **(kwargs | {"device_id": torch.device("cpu")}))

    def in_place(module, kind, *configs):
        for config in configs:
            config.offload_to_cpu = False
        return saving(module, kind, *configs)

    FullyShardedDataParallel.__init__ = on_cpu
    FullyShardedDataParallel.state_dict_type = staticmethod(in_place)


def main(root: Path, names: list[str]) -> None:
    PartialState(cpu=True)
    delay_saving()
    observed = observe_steps()
    if any(name.startswith("fsdp") for name in names):
        allow_fsdp_on_cpu()
    for name in names:
        observed.clear()
        try:
            run = train(root, name)
            result = {"history": run.history, "adapters": str(run.adapters)}
        except KeyboardInterrupt:
            result = {"history": None}
        # The list of each process.
        result["observed"] = gather_object([list(observed)])
        if PartialState().is_main_process:
            (root / f"{name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
