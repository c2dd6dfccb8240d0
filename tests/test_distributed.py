"""Several processes train as one does: the same losses and adapters, with and without FSDP.

Two processes on the CPU, over gloo, started by `accelerate launch` with the course's own configs.
"""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin, patch_environment
from accelerate.utils.launch import prepare_multi_gpu_env
from click.testing import CliRunner
from safetensors.torch import load_file
from torch.distributed.fsdp import BackwardPrefetch, ShardingStrategy, StateDictType

from course_utils.training import Recipe, TrainingError, command, load_adapters
from tests import launched
from tests.conftest import make_model
from tests.launched import EXAMPLES, RECIPE, STOP, trained

ROOT = Path(__file__).parent.parent
CPU, FSDP = "configs/cpu.yaml", "configs/fsdp_qlora.yaml"
PROCESSES = 2
TOLERANCE = 1e-5  # relative, of a loss in float32
STEPS = RECIPE.steps(EXAMPLES, PROCESSES)
TOGETHER = ["fast", "fast, accumulated", "plain", "plain, accumulated"]


def launch(config, *arguments):
    """What `accelerate launch` prints; fails with it unless all processes end well."""
    program = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    done = subprocess.run(
        [*program, "--num_processes", str(PROCESSES), "--module", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Name → what came of a run in two processes."""
    found = {}
    for config, names in {
        CPU: [*TOGETHER, "stopped", "resumed"],
        FSDP: ["spread", "spread, stopped", "spread, resumed"],
    }.items():
        root = tmp_path_factory.mktemp("runs")
        launch(config, "tests.launched", root, *names)
        found |= {name: json.loads((root / f"{name}.json").read_text()) for name in names}
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """name → the same run in this process, made once."""
    root, made = tmp_path_factory.mktemp("alone"), {}

    def run(name):
        if name not in made:
            made[name] = trained(root, name, PROCESSES)
        return made[name]

    return run


def of(history, key):
    return [record[key] for record in history if key in record]


def assert_same(result, run):
    """Losses, norms of gradients, and the adapters in the end."""
    for key in ("loss", "grad_norm", "validation_loss", "learning_rate"):
        ours, theirs = of(result["history"], key), of(run.history, key)
        assert len(ours) == len(theirs) > 0
        assert ours == pytest.approx(theirs, rel=TOLERANCE), key
    ours, theirs = (
        load_file(Path(folder) / "adapter_model.safetensors")
        for folder in (result["adapters"], run.adapters)
    )
    assert ours.keys() == theirs.keys() and len(ours) == 28  # A and B of 7 layers, twice
    for name, tensor in theirs.items():
        # Adam divides by the size of a gradient, and so makes much of a little rounding
        assert (ours[name] - tensor).norm() <= 1e-3 * tensor.norm(), name


@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_train_as_one_with_twice_the_batch(runs, alone, name):
    assert_same(runs[name], alone(name))


def test_as_many_tokens_are_read(runs, alone):
    """A process that has run out of examples reads one token a batch, without loss."""
    for name in TOGETHER:
        ours, theirs = of(runs[name]["history"], "tokens"), of(alone(name).history, "tokens")
        idle = RECIPE.steps(EXAMPLES) * RECIPE.epochs
        assert all(0 <= a - b <= idle for a, b in zip(ours, theirs, strict=True))


def steps_made(result):
    """Steps of each process."""
    return [len(process) for process in result["seen"]]


def test_an_interrupted_run_goes_on_from_the_last_checkpoint(runs, alone):
    assert runs["stopped"]["history"] is None
    assert steps_made(runs["stopped"]) == [STOP] * PROCESSES
    assert steps_made(runs["resumed"]) == [STEPS - 4] * PROCESSES
    assert_same(runs["resumed"], alone("fast"))


def test_another_number_of_processes_can_not_resume(runs, monkeypatch):
    root = Path(runs["fast"]["adapters"]).parents[2]
    monkeypatch.setitem(launched.RUNS, "fast", {"recipe": launched.FAST, "resume": True})
    with pytest.raises(TrainingError, match="its run differs: processes was 2, is 1"):
        trained(root, "fast")


def test_each_process_has_dropout_of_its_own(runs):
    seeds = [seed for process in runs["fast"]["seen"] for seed, _ in process]
    assert len(seeds) == len(set(seeds)) == PROCESSES * STEPS


# -- FSDP ------------------------------------------------------------------------------------------


def test_fsdp_trains_as_one_process_does(runs, alone):
    assert_same(runs["spread"], alone("plain"))


def test_fsdp_goes_on_from_the_last_checkpoint(runs, alone):
    assert steps_made(runs["spread, resumed"]) == [STEPS - 4] * PROCESSES
    assert_same(runs["spread, resumed"], alone("plain"))


def test_fsdp_leaves_each_process_its_share_of_the_bytes(runs):
    """Before each step; 1% for what FSDP rounds up."""
    (whole,) = {held for process in runs["plain"]["seen"] for _, held in process}
    shares = [held for process in runs["spread"]["seen"] for _, held in process]
    assert shares == pytest.approx([whole / PROCESSES] * len(shares), rel=0.01)


def test_accelerate_reads_the_fsdp_config_as_it_is_meant():
    arguments = launch_command_parser().parse_args(["--config_file", str(ROOT / FSDP), "script"])
    arguments, _, _ = _validate_launch_command(arguments)
    assert arguments.use_fsdp and arguments.num_processes == 2 and arguments.num_machines == 1
    environment = prepare_multi_gpu_env(arguments)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    names = {name: value for name, value in environment.items() if name.startswith("FSDP_")}
    with patch_environment(**names):
        plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 1
    assert plugin.sharding_strategy == ShardingStrategy.FULL_SHARD
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert plugin.backward_prefetch == BackwardPrefetch.BACKWARD_PRE
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    assert plugin.mixed_precision_policy is None and not plugin.cpu_offload.offload_params
    for off in ("use_orig_params", "sync_module_states", "cpu_ram_efficient_loading"):
        assert getattr(plugin, off) is False, off
    assert plugin.activation_checkpointing is False and plugin.forward_prefetch is False


# -- the command -----------------------------------------------------------------------------------


def last_row(printed):
    """The command's last lines as a dict of text."""
    row, adapters = printed.strip().splitlines()[-2:]
    return dict(item.split(": ") for item in [*row.split(", "), adapters])


def test_the_command_trains_alike_in_one_process_and_in_two(tiny_base, tmp_path):
    options = ["--path", str(tiny_base), "--max-steps", "2", "--micro-batch-size"]
    one = CliRunner().invoke(command.main, [*options, "4", "--output-dir", str(tmp_path / "one")])
    assert one.exit_code == 0, one.output
    two = launch(
        CPU, "course_utils.training.command", *options, 2, "--output-dir", tmp_path / "two"
    )
    assert two.count("adapters: ") == 1  # the main process alone says what came of it
    ours, theirs = last_row(two), last_row(one.stdout)
    assert ours["step"] == theirs["step"] == "2"
    assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-2)  # may be 16 bits
    load_adapters(make_model(), ours["adapters"])


def test_each_number_of_a_recipe_is_an_option():
    numbers = {f.name for f in fields(Recipe) if type(f.default) in (int, float)}
    others = {"name", "path", "output_dir", "resume", "max_steps", "save_every"}
    assert {parameter.name for parameter in command.main.params} == numbers | others


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "smollm2-135m", "--path", "x"], "--model and --path both name a base"),
        (["--model", "gpt-9"], "unknown model 'gpt-9'"),
        (["--path", "nowhere"], "no model in nowhere"),
        (["--rank", "0"], "rank must be a whole number of at least 1"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message):
    done = CliRunner().invoke(command.main, arguments)
    assert done.exit_code == 1 and done.output.startswith(f"Error: {message}")
