"""Runs of the training loop on a tiny NF4 model, alike in one process and in several.

    accelerate launch --config_file configs/cpu.yaml --module tests.launched FOLDER NAME …

makes the runs of these names (of `RUNS`) one after another in FOLDER; the main process writes what
came of each to FOLDER/NAME.json. tests/test_distributed.py makes the same runs in one process,
whose micro-batches are as large as those of all processes together.
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
EXAMPLES, VALIDATION = 13, 5  # neither fills the last batches of two processes
RECIPE = Recipe(
    rank=4,
    micro_batch_size=2,
    learning_rate=1e-2,
    epochs=2,
    compute_dtype=torch.float32,
    validate_every=3,
)
FAST, PLAIN = replace(RECIPE, fast=True), replace(RECIPE, fast=False)
# Steps after which a run is interrupted. It was saved two steps before.
STOP = 6
# The runs named "spread" use FSDP.
RUNS = {
    "fast": {"recipe": FAST},
    "fast, accumulated": {"recipe": replace(FAST, accumulation=2)},
    "plain": {"recipe": PLAIN},
    "plain, accumulated": {"recipe": replace(PLAIN, accumulation=2)},
    "stopped": {"recipe": replace(FAST, save_every=4), "stop": STOP},
    "resumed": {"recipe": FAST, "folder": "stopped", "resume": True},
    "spread": {"recipe": RECIPE},
    "spread, stopped": {"recipe": replace(RECIPE, save_every=4), "stop": STOP},
    "spread, resumed": {"recipe": RECIPE, "folder": "spread, stopped", "resume": True},
}


def trained(root: Path, name: str, processes: int = 1):
    """The run of this name; its micro-batches stand for those of so many processes."""
    options = {"folder": name, "stop": None} | RUNS[name]
    recipe, folder, stop = (options.pop(key) for key in ("recipe", "folder", "stop"))
    recipe = replace(recipe, micro_batch_size=processes * recipe.micro_batch_size)
    options |= {"recipe": recipe, "output_dir": root / folder}
    model = attach_adapters(tiny_base(), recipe)
    train, validation = random_examples(EXAMPLES, 1), random_examples(VALIDATION, 2)
    with interrupted(after=stop):
        return finetune(model, TOKENIZER, train, validation, **options)


@contextmanager
def interrupted(after: int | None):
    """Ctrl-C in this process once it has made so many steps; never for None."""
    step, done = loop.training_step, itertools.count()

    def interrupting(*args):
        if next(done) == after:
            raise KeyboardInterrupt
        return step(*args)

    with mock.patch.object(loop, "training_step", interrupting):
        yield


# -- in each process -------------------------------------------------------------------------------


def be_late() -> None:
    """Let all processes but the main one take long to write their part of a checkpoint."""
    save = accelerate.accelerator.save_accelerator_state

    def slowly(*args, **kwargs):
        time.sleep(0 if PartialState().is_main_process else 0.3)
        return save(*args, **kwargs)

    accelerate.accelerator.save_accelerator_state = slowly


def watch() -> list[tuple[int, int]]:
    """From now on, of each step: the seed that dropout depends on, and bytes of parameters here."""
    seen, step = [], loop.training_step

    def watched(accelerator, model, *args):
        storages = [parameter.untyped_storage() for parameter in model.parameters()]
        held = sum({storage.data_ptr(): storage.size() for storage in storages}.values())
        seen.append((torch.initial_seed(), held))
        return step(accelerator, model, *args)

    loop.training_step = watched
    return seen


def allow_fsdp_on_cpu() -> None:
    """Let accelerate use FSDP without a GPU: it hands over to torch's FSDP, which can do it.

    accelerate shards on GPUs only, and gives FSDP a device "cpu:0", which it doesn't know. It also
    moves what it saves to CPU memory: there already, it would be freed with the shard.
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
    be_late()
    seen = watch()
    if any(name.startswith("spread") for name in names):
        allow_fsdp_on_cpu()
    for name in names:
        seen.clear()
        try:
            run = trained(root, name)
            result = {"history": run.history, "adapters": str(run.adapters)}
        except KeyboardInterrupt:
            result = {"history": None}
        result["seen"] = gather_object([list(seen)])  # of each process
        if PartialState().is_main_process:
            (root / f"{name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
