"""Test that two processes train as one process does, with and without FSDP.

`accelerate launch` starts two processes on the CPU with the course's own configurations.
"""

import json
import os
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from course_utils.machine import runtime
from course_utils.machine.validation import CourseError
from course_utils.training import Recipe, TrainingError, command, load_adapters
from tests import launched
from tests.conftest import make_model
from tests.launched import EXAMPLES, RECIPE, STOP, train

ROOT = Path(__file__).parent.parent
CPU, FSDP = "configs/cpu.yaml", "configs/fsdp_qlora.yaml"
PROCESSES = 2
# The relative difference that two losses in float32 may have.
TOLERANCE = 1e-5
STEPS = RECIPE.steps(EXAMPLES, PROCESSES)
WITHOUT_FSDP = ["whole", "accumulated"]

# All tests of a group run in the same pytest process, which starts the training processes once.
pytestmark = pytest.mark.xdist_group("distributed")


def launch(config, *arguments):
    """Run a module with `accelerate launch` in two processes, and return their output."""
    program = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    done = subprocess.run(
        [*program, "--num_processes", str(PROCESSES), "--module", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the results of the runs in two processes, by name."""
    results = {}
    for config, names in {
        CPU: [*WITHOUT_FSDP, "interrupted", "resumed"],
        FSDP: ["fsdp", "fsdp, interrupted", "fsdp, resumed"],
    }.items():
        root = tmp_path_factory.mktemp("runs")
        launch(config, "tests.launched", root, *names)
        results |= {name: json.loads((root / f"{name}.json").read_text()) for name in names}
    return results


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Return a function that makes the run of a name in this process, only once."""
    root = tmp_path_factory.mktemp("single")
    return cache(lambda name: train(root, name, PROCESSES))


def column(history, key):
    return [record[key] for record in history if key in record]


def assert_same(result, run):
    """Assert that two runs have the same losses, gradient norms and final adapters."""
    for key in ("loss", "grad_norm", "validation_loss", "learning_rate"):
        ours, theirs = column(result["history"], key), column(run.history, key)
        assert len(ours) == len(theirs) > 0
        assert ours == pytest.approx(theirs, rel=TOLERANCE), key
    ours, theirs = (
        load_file(Path(folder) / "adapter_model.safetensors")
        for folder in (result["adapters"], run.adapters)
    )
    # Each of the 2 layers has A and B for 7 matrices.
    assert ours.keys() == theirs.keys() and len(ours) == 2 * 7 * 2
    for name, tensor in theirs.items():
        # Adam divides by the size of a gradient, so it increases small differences of rounding.
        assert (ours[name] - tensor).norm() <= 1e-3 * tensor.norm(), name


@pytest.mark.full
@pytest.mark.parametrize("name", WITHOUT_FSDP)
def test_two_processes_train_as_one_process_with_twice_the_batch_size(runs, single, name):
    assert_same(runs[name], single(name))


def count_steps(result):
    """Return the number of steps that each process made."""
    return [len(process) for process in result["observed"]]


@pytest.mark.full
def test_two_processes_resume_an_interrupted_run_from_the_last_checkpoint(runs, single):
    assert runs["interrupted"]["history"] is None
    assert count_steps(runs["interrupted"]) == [STOP] * PROCESSES
    assert count_steps(runs["resumed"]) == [STEPS - 4] * PROCESSES
    assert_same(runs["resumed"], single("whole"))


@pytest.mark.full
def test_resuming_with_another_number_of_processes_raises_an_error(runs, monkeypatch):
    root = Path(runs["whole"]["adapters"]).parents[2]
    monkeypatch.setitem(launched.RUNS, "whole", {"recipe": RECIPE, "resume": True})
    with pytest.raises(TrainingError, match="its run differs: processes was 2, is 1"):
        train(root, "whole")


@pytest.mark.full
def test_each_step_of_each_process_has_a_different_dropout_seed(runs):
    seeds = [seed for process in runs["whole"]["observed"] for seed, _ in process]
    assert len(seeds) == len(set(seeds)) == PROCESSES * STEPS


# -- FSDP ------------------------------------------------------------------------------------------


@pytest.mark.full
def test_fsdp_in_two_processes_trains_as_one_process(runs, single):
    assert_same(runs["fsdp"], single("whole"))


@pytest.mark.full
def test_fsdp_resumes_an_interrupted_run_from_the_last_checkpoint(runs, single):
    assert count_steps(runs["fsdp, resumed"]) == [STEPS - 4] * PROCESSES
    assert_same(runs["fsdp, resumed"], single("whole"))


@pytest.mark.full
def test_fsdp_stores_half_of_the_parameters_in_each_of_two_processes(runs):
    (complete,) = {size for process in runs["whole"]["observed"] for _, size in process}
    shares = [size for process in runs["fsdp"]["observed"] for _, size in process]
    # FSDP pads the parameters, which needs up to 1% more memory.
    assert shares == pytest.approx([complete / PROCESSES] * len(shares), rel=0.01)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_has_an_option_for_each_number_of_a_recipe():
    numbers = {f.name for f in fields(Recipe) if type(f.default) in (int, float)}
    options = {parameter.name for parameter in command.main.params}
    assert numbers - {"validate_every"} <= options


def last_record(output):
    """Return the last two lines of the command's output as a dict of texts."""
    record, adapters = output.strip().splitlines()[-2:]
    return dict(item.split(": ") for item in [*record.split(", "), adapters])


def run_command(folder, *options):
    """Run the command for 2 steps in this process, and return the last record."""
    arguments = ["--max-steps", "2", "--output-dir", folder, *options]
    done = CliRunner().invoke(command.main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return last_record(done.stdout)


def test_the_command_trains_with_its_options_and_saves_the_adapters(tiny_base, tmp_path):
    record = run_command(tmp_path, "--path", tiny_base, "--micro-batch-size", 4, "--rank", 3)
    assert record["step"] == "2"
    model = load_adapters(make_model(), record["adapters"])
    assert model.peft_config["default"].r == 3


def test_the_command_checks_whether_its_batches_fit(monkeypatch):
    def load(*_, **__):
        raise CourseError("the check was passed")

    monkeypatch.setattr(command, "load_base", load)
    monkeypatch.setattr(runtime, "free_memory", lambda device: 4_000_000_000)
    done = CliRunner().invoke(command.main, ["--model", "qwen2.5-1.5b"])
    assert done.exit_code == 1 and done.output.startswith("Error: qwen2.5-1.5b needs about ")
    done = CliRunner().invoke(command.main, ["--model", "qwen2.5-1.5b", "--micro-batch-size", "1"])
    assert done.output == "Error: the check was passed\n"


@pytest.mark.full
def test_the_command_has_the_same_loss_in_one_process_and_in_two(tiny_base, tmp_path):
    record = run_command(tmp_path / "one", "--path", tiny_base, "--micro-batch-size", 4)
    options = ["--path", tiny_base, "--micro-batch-size", 2, "--max-steps", 2]
    output = launch(
        CPU, "course_utils.training.command", *options, "--output-dir", tmp_path / "two"
    )
    # Only the main process prints the result.
    assert output.count("adapters: ") == 1
    # The compute dtype may have 16 bits, so the losses are rounded.
    loss = float(last_record(output)["loss"])
    assert loss == pytest.approx(float(record["loss"]), rel=1e-2)
    load_adapters(make_model(), last_record(output)["adapters"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "smollm2-135m", "--path", "x"], "--model and --path both name a base model"),
        (["--model", "gpt-9"], "unknown model 'gpt-9'"),
        (["--path", "nowhere"], "no model in nowhere"),
        (["--rank", "0"], "rank must be a whole number of at least 1"),
    ],
)
def test_the_command_rejects_bad_options_with_one_sentence(arguments, message):
    done = CliRunner().invoke(command.main, arguments)
    assert done.exit_code == 1 and done.output.startswith(f"Error: {message}")
