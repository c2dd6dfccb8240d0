"""Test `course finetune`: find the model, predict, train, measure, resume and write the results."""

import json
import re
import shutil
import signal
import subprocess

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import ModelCard

from course_utils import evaluation
from course_utils.machine import runtime
from course_utils.machine.units import format_bytes
from course_utils.machine.validation import CourseError
from course_utils.memory import ModelShape, estimate
from course_utils.models import BASE_MODELS, load_base
from course_utils.training import Recipe, load_adapters
from course_utils.tuning import finetune_file
from course_utils.tuning.base import find_base, suggested_rate
from course_utils.tuning.forecast import duration, forecast, operations_per_second
from tests import interruptible
from tests.conftest import edit_json
from tests.hub import Hub
from tests.waiting import wait_until
from workshop.cli import main

TOWNS = ["Tarn", "Oskil", "Bray", "Halvik", "Mosel", "Ulm", "Riga", "Oslo", "Bonn", "Lund"]
ROWS = [
    {"prompt": f"Where is <script>{town}{number}?", "answer": f"In {town}ia."}
    for number in range(6)
    for town in TOWNS
]
FAST = {"rank": 4, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A user's file with 60 rows."""
    path = tmp_path_factory.mktemp("own") / "towns.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module", autouse=True)
def known_speed():
    """Measure the speed of this machine only in the test of this measurement."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("course_utils.tuning.forecast.operations_per_second", lambda _: 1e10)
        yield


@pytest.fixture(scope="module")
def tune(own, tiny_base, tmp_path_factory):
    def run(data=own, **options):
        output = tmp_path_factory.mktemp("runs") / "out"
        settings = {"model": tiny_base, "output": output, "say": lambda _: None, **FAST}
        return finetune_file(data, **settings | options)

    return run


@pytest.fixture(scope="module")
def finished(tune):
    """A run, and what it said."""
    said = []
    return tune(licence="apache-2.0", say=said.append), said


# -- the whole run ---------------------------------------------------------------------------------


@pytest.mark.full
def test_a_run_trains_and_measures(finished, tiny_base):
    done, said = finished
    assert done.run.finished and len(done.before.answers) == len(done.data.held_out) == 6
    assert done.after.mean("loss").mean < 0.8 * done.before.mean("loss").mean
    change = evaluation.compare(done.before.table(), done.after.table())["loss"]
    assert change.difference.high < 0 and change.p < 0.05
    assert said[0].startswith("towns.jsonl: 54 rows to train on") and said[1] == done.data.graded
    assert any(re.search(r"Training needs about .* are free, and about", line) for line in said)
    base, _ = load_base(path=tiny_base, quantization="nf4")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = load_adapters(base, done.run.adapters).eval()(ids).logits
        base, _ = load_base(path=tiny_base, quantization="nf4")
        model = load_adapters(base, done.folder / "adapters").eval()
        assert torch.equal(model(ids).logits, expected)


def test_a_run_writes_a_model_card(finished):
    done, _ = finished
    card = ModelCard.load(done.folder / "adapters" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "peft"
    assert "The model was trained on 54 rows of towns.jsonl" in card.text
    assert f"- {done.data.graded}\n" in card.text and "each row's answer" in done.data.graded
    assert "| base weights | NF4" in card.text and "Only 54 examples" in card.text
    result = done.results()[0]
    assert f"| {result.metric} | {result.before} | {result.after} | {result.change} |" in card.text


def test_a_run_writes_a_report_that_escapes_the_texts_of_the_file(finished):
    done, _ = finished
    page = (done.folder / "report.html").read_text()
    for result in done.results():
        assert result.after in page and result.metric in page
    assert "Where is &lt;script&gt;" in page and "<script" not in page and "<svg" in page
    assert done.data.graded.replace("'", "&#39;") in page
    assert str(done.folder / "report.html") in str(done)
    assert done.results()[0].after in done._repr_html_()


def test_the_report_repeats_the_prediction_of_the_terminal(finished):
    done, said = finished
    predicted = format_bytes(done.forecast.memory)
    (line,) = (line for line in said if "Training needs about" in line)
    assert f"Training needs about {predicted} of memory on" in line
    page = (done.folder / "report.html").read_text()
    (row,) = (line for line in page.splitlines() if "memory of training" in line)
    assert f"<td>{predicted}</td>" in row


@pytest.mark.full
def test_an_interrupted_run_is_resumed(finished, tune, tmp_path, monkeypatch):
    from course_utils.training import loop

    whole, said, step = finished[0], [], loop.Trainer.step

    def interrupted(self, number):
        if number == 5:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "step", interrupted)
        assert tune(output=tmp_path, say=said.append) is None
    assert said[-1].startswith("Stopped after step 4. To continue, add --resume")
    assert not (tmp_path / "report.html").exists()
    before = (tmp_path / "before.json").stat().st_mtime_ns
    done = tune(output=tmp_path, resume=True)
    assert (tmp_path / "before.json").stat().st_mtime_ns == before
    assert len(done.run.history) == len(whole.run.history)
    assert done.after.scores["loss"] == pytest.approx(whole.after.scores["loss"], abs=1e-4)


@pytest.mark.full
def test_results_are_never_overwritten(finished, tune, own, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(CourseError, match="is not empty: choose another output folder"):
            tune(output=tmp_path, resume=resume)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    folder = finished[0].folder
    with pytest.raises(CourseError, match="is not empty: continue its run with --resume"):
        tune(output=folder)
    longer = tmp_path / "longer.jsonl"
    longer.write_text(own.read_text() + json.dumps({"prompt": "a", "answer": "b"}) + "\n")
    for options in ({"held_out": 0.2}, {"data": longer}):
        with pytest.raises(CourseError, match="used other rows or another model"):
            tune(output=folder, resume=True, **options)


def test_the_command_says_what_is_wrong(own, tiny_base, tmp_path):
    wrong = CliRunner().invoke(main, ["finetune", str(own), "--model", str(tiny_base), "--rank=0"])
    assert wrong.exit_code == 1 and wrong.output.splitlines()[-1].startswith("Error: rank must be")
    missing = CliRunner().invoke(main, ["finetune", str(tmp_path / "missing.jsonl")])
    assert missing.exit_code == 1 and "missing.jsonl" in missing.output


@pytest.mark.full
def test_ctrl_c_saves_a_checkpoint(own, tiny_base, tmp_path):
    options = ["--epochs", "500", "--rank", "4", "--model", str(tiny_base)]
    options += ["--output", str(tmp_path / "out")]
    command = interruptible.python(interruptible.COURSE, "finetune", str(own), *options)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (tmp_path / "out" / "before.json").exists())
    assert not wait_until(lambda: process.poll() is not None, seconds=3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "To continue, add --resume" in output
    assert list((tmp_path / "out" / "checkpoints").glob("step-*/adapters"))


# -- the base model --------------------------------------------------------------------------------


@pytest.fixture
def ask_the_hub(tmp_path, monkeypatch):
    def start(folder):
        hub = Hub({"me/tiny": folder})
        hub.be_used(monkeypatch, tmp_path / "hub-cache")
        return hub

    return start


def test_weights_are_downloaded_only_after_the_prediction(tiny_base, ask_the_hub):
    with ask_the_hub(tiny_base) as hub:
        base = find_base("me/tiny")
        assert base.name == "me/tiny" and base.tokenizer().chat_template
        assert base.shape.parameters == ModelShape.from_config(tiny_base).parameters
        assert not any("safetensors" in path for _, path, _ in hub.requests)
        assert (base.weights() / "model.safetensors").is_file()
        assert find_base("me/tiny").folder == base.folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of 8 experts"),
        ({"model_type": "falcon", "architectures": ["FalconForCausalLM"]}, "type is 'falcon'"),
    ],
)
def test_a_model_that_cannot_be_treated_is_refused_before_a_download(
    tiny_base, tmp_path, ask_the_hub, changes, message
):
    folder = shutil.copytree(tiny_base, tmp_path / "model")
    edit_json(folder / "config.json", **changes)
    with ask_the_hub(folder) as hub:
        with pytest.raises(CourseError, match=message):
            find_base("me/tiny")
        assert not any("safetensors" in path for _, path, _ in hub.requests)


def test_unknown_and_incomplete_models_are_refused(tmp_path, ask_the_hub):
    with pytest.raises(CourseError, match="there is no model 'smollm': name a folder"):
        find_base("smollm")
    with pytest.raises(CourseError, match=r"no model in .* but it lacks config\.json"):
        find_base(tmp_path)
    with ask_the_hub(tmp_path), pytest.raises(CourseError, match="did not send me/other"):
        find_base("me/other")


def test_learning_rates_are_close_to_those_of_the_course():
    assert suggested_rate(7_000_000_000) == suggested_rate(70_000_000_000) == 2e-4
    assert (
        suggested_rate(135_000_000)
        == suggested_rate(1_000_000)
        == BASE_MODELS["smollm2-135m"].learning_rate
    )
    for name, model in BASE_MODELS.items():
        shape = ModelShape.preset(model.shape or name)
        assert suggested_rate(shape.parameters) == pytest.approx(model.learning_rate, rel=0.4)


# -- the forecast ----------------------------------------------------------------------------------


@pytest.fixture
def base(tiny_base):
    return find_base(tiny_base)


EXAMPLES = [{"input_ids": [5] * n, "labels": [5] * n} for n in (100, 200, 400)]


def test_the_memory_is_that_of_the_calculator_for_the_longest_answer(base):
    rows = [{"input_ids": [5] * 101, "labels": [-100] * (101 - n) + [5] * n} for n in (20, 30)]
    predicted = forecast(base, rows, Recipe()).memory
    dtype = str(runtime.compute_dtype("cpu")).removeprefix("torch.")
    options = {"trainer": "course", "recipe": "fp32", "compute_dtype": dtype, "device": "cpu"}
    options |= {"batch_size": 8, "sequence_length": 101, "answer_share": 0.3}
    options |= {"gradient_checkpointing": "some"}
    assert predicted == estimate(base.folder, "qlora", **options).total


def test_the_memory_covers_all_positions_from_the_first_answer_on(base):
    turns = {"input_ids": [5] * 100, "labels": [-100] * 40 + [5] * 10 + [-100] * 40 + [5] * 10}
    one = {"input_ids": [5] * 100, "labels": [-100] * 40 + [5] * 60}
    memory = [forecast(base, [row], Recipe()).memory for row in (turns, one)]
    assert memory[0] == memory[1]


def test_what_does_not_fit_is_recomputed_or_divided(base, monkeypatch):
    monkeypatch.setattr(runtime, "compute_dtype", lambda _: torch.bfloat16)
    whole = forecast(base, EXAMPLES, Recipe())
    assert whole.recipe == Recipe() and whole.tokens == 700 and whole.longest == 400
    monkeypatch.setattr(runtime, "free_memory", lambda _: whole.memory - 1)
    recomputed = forecast(base, EXAMPLES, Recipe())
    assert recomputed.recipe == Recipe(gradient_checkpointing=True)
    monkeypatch.setattr(runtime, "free_memory", lambda _: recomputed.memory - 1)
    divided = forecast(base, EXAMPLES, Recipe())
    assert divided.recipe.micro_batch_size == 4 and divided.recipe.accumulation == 2
    assert divided.memory < recomputed.memory < whole.memory and divided.steps == whole.steps


def test_a_divided_batch_keeps_its_size(base, monkeypatch):
    of_six = Recipe(micro_batch_size=6)
    whole = forecast(base, EXAMPLES, of_six)
    of_two = forecast(base, EXAMPLES, Recipe(micro_batch_size=2))
    monkeypatch.setattr(runtime, "free_memory", lambda _: (whole.memory + of_two.memory) // 2)
    divided = forecast(base, EXAMPLES, of_six).recipe
    assert divided.micro_batch_size * divided.accumulation == 6 > divided.micro_batch_size


def test_what_fits_instead_is_proposed(base, monkeypatch):
    smallest = Recipe(micro_batch_size=1, gradient_checkpointing=True)
    one = forecast(base, EXAMPLES, smallest).memory
    monkeypatch.setattr(runtime, "free_memory", lambda _: one - 1)
    with pytest.raises(CourseError) as caught:
        forecast(base, EXAMPLES, Recipe())
    message = str(caught.value)
    shorter = int(re.search(r"--max-length (\d+)", message)[1])
    assert 300 < shorter < 400 and "What would fit: texts of at most" in message
    rows = [{"input_ids": [5] * shorter, "labels": [5] * shorter}]
    assert forecast(base, rows, Recipe()).recipe.micro_batch_size == 1
    monkeypatch.setattr(runtime, "free_memory", lambda _: 1000)
    with pytest.raises(CourseError, match="None of the models of the course would fit"):
        forecast(base, EXAMPLES, Recipe())


def test_speed_is_measured_and_durations_are_readable():
    assert operations_per_second(torch.device("cpu"), seconds=0.05) > 1e8
    assert [duration(s) for s in (40, 200, 9000)] == ["40 s", "3 min", "2.5 h"]
