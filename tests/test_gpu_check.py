"""gpu_check: the benchmark of a CUDA card, on a CPU whose memory is counted like a card's."""

import json
import sys

import bitsandbytes as bnb
import pytest
import torch

from course_utils.machine.measure import TensorMeter
from course_utils.machine.units import GB, GiB
from course_utils.machine.validation import CourseError
from course_utils.memory import CUBLAS_WORKSPACE, SMALLEST_PAGED, ModelShape
from course_utils.memory.allocator import fresh_block
from course_utils.models import load_base
from tests.conftest import make_model
from workshop.benchmarks import gpu_check, runner

pytestmark = pytest.mark.usefixtures("frozen_imports")

CPU = torch.device("cpu")


@pytest.fixture
def card(monkeypatch):
    """Replace the functions of torch.cuda: a card with 16 GB holds the tensors of the CPU."""
    with TensorMeter() as meter:
        answers = {
            "memory_allocated": lambda device: meter.now,
            "memory_reserved": lambda device: meter.now,
            "max_memory_allocated": lambda device: meter.peak,
            "reset_peak_memory_stats": lambda device: setattr(meter, "peak", meter.now),
            "mem_get_info": lambda device: (16 * GB - meter.now, 16 * GB),
            "get_device_name": lambda device: "Imitated Card (16GB)",
            "get_device_capability": lambda device: (7, 5),
            "is_bf16_supported": lambda: True,
            "synchronize": lambda device: None,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(gpu_check.collect_env, "get_nvidia_driver_version", lambda run: "550.0")
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    """The folder of a tiny model whose logits determine the peak, as in the real models."""
    folder = tmp_path_factory.mktemp("base")
    make_model(vocab_size=4096).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(base, monkeypatch):
    """Replace the real model by the tiny model, and use steps with few tokens."""

    def load_tiny(name, **options):
        return load_base(path=base, **options)

    monkeypatch.setattr(gpu_check, "load_base", load_tiny)
    monkeypatch.setattr(gpu_check, "BATCHES", ((1, 64), (2, 96)))


@pytest.fixture
def paged(monkeypatch):
    """Mark the states that would be paged on a card."""

    def buffer(self, p, dtype=torch.float32):
        state = torch.zeros_like(p, dtype=dtype)
        if self.is_paged and p.numel() >= 1e5:
            state.is_paged = True
        return state

    monkeypatch.setattr(bnb.optim.optimizer.Optimizer8bit, "get_state_buffer", buffer)
    monkeypatch.setattr(bnb.optim.optimizer.Optimizer8bit, "prefetch_state", lambda self, p: None)
    monkeypatch.setattr(gpu_check, "SIZES", (5000, SMALLEST_PAGED - 1, SMALLEST_PAGED))


# --- without a card -------------------------------------------------------------------------------


def test_without_cuda_nothing_is_measured_or_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "out")
    assert runner.run("gpu_check", []) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("torch sees no CUDA card, so there is nothing to measure")
    assert printed.count("\n") == 1 and not list(tmp_path.iterdir())


# --- single measurements --------------------------------------------------------------------------


def test_only_steps_that_fit_the_card_are_chosen():
    shape = ModelShape.preset("smollm2-1.7b")
    options = gpu_check.settings(CPU) | {"device": "cuda", "compute_dtype": "float16"}
    on_a_t4 = gpu_check.fitting(shape, int(14.5 * GiB), options)
    assert len(on_a_t4) == 2 * len(gpu_check.BATCHES)
    small = gpu_check.fitting(shape, 3 * GiB, options)
    assert [gpu_check.step_name(step) for step in small] == ["1 × 512 tokens, checkpointing"]
    assert all(step.fits(3 * GiB) for step in small)
    with pytest.raises(CourseError, match=r"the card has 1\.07 GB; try --model smollm2-135m"):
        gpu_check.fitting(shape, GiB, options)


def test_difference_between_paged_and_unpaged_weights_is_measured(paged, monkeypatch):
    original = bnb.optim.PagedAdamW8bit.step

    def step(self):
        original(self)
        with torch.no_grad():
            self.param_groups[0]["params"][-1][0] += 0.5

    monkeypatch.setattr(bnb.optim.PagedAdamW8bit, "step", step)
    difference = gpu_check.paging(8, CPU)["difference"]
    assert difference == pytest.approx(0.5 * gpu_check.REPEATS, rel=1e-3)


# --- the report -----------------------------------------------------------------------------------


def fictitious_report():
    """Return a report without problems, whose numbers were not measured."""
    step = {"case": "1 × 512 tokens, checkpointing", "measured": 1000 * 2**20}
    return {
        "date": "2001-02-03",
        "name": "Fictitious Card",
        "machine": "a fictitious machine",
        "model": "smollm2-1.7b",
        "card": {
            "compute capability": "7.5",
            gpu_check.WORKSPACE: CUBLAS_WORKSPACE,
        },
        "weights": {"measured": 1_032_576_416, "predicted": 1_032_576_416},
        "steps": [step | {"predicted": 1005 * 2**20, "tokens/s": 1234.5}],
        "optimizers": [
            {"case": "8-bit AdamW", "paged": [SMALLEST_PAGED, 2_097_152], "difference": 0.0}
        ],
    }


def page(report):
    """Return the report as Markdown."""
    return runner.page("gpu_check", gpu_check.BENCHMARK, report)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("weights", {"predicted": 1_032_576_417}, "weights: off by +1 B"),
        ("steps", {"predicted": 1011 * 2**20}, "checkpointing: the peak is off by +1.10%"),
        ("optimizers", {"difference": 0.25}, "AdamW: paging changes weights by up to 0.25"),
        ("optimizers", {"difference": float("nan")}, "paging changes weights by up to nan"),
        ("optimizers", {"paged": []}, "AdamW: the paged states have [] elements"),
        ("card", {"failed": "RuntimeError: x"}, "the card: failed (RuntimeError: x)"),
        ("weights", {"failed": "CourseError: y"}, "weights: failed (CourseError: y)"),
        ("optimizers", {"failed": "CourseError: v"}, "8-bit AdamW: failed (CourseError: v)"),
    ],
)
def test_wrong_or_failed_measurement_is_a_problem_on_the_page(part, change, message):
    report = fictitious_report()
    row = report[part][0] if isinstance(report[part], list) else report[part]
    row |= change
    if "failed" in change:
        for key in set(row) - {"case", "failed"}:
            del row[key]
    (problem,) = gpu_check.problems(report)
    assert message in problem
    assert f"- {problem}" in page(report).splitlines()


def test_larger_workspace_of_cublas_is_added_to_the_prediction():
    report = fictitious_report()
    report["card"][gpu_check.WORKSPACE] += fresh_block(20 * 2**20)
    assert gpu_check.extra_workspace(report) == 40 * 2**20
    (problem,) = gpu_check.problems(report)
    assert "off by +4.50%" in problem
    assert "1,045.0 (+4.50%)" in page(report)


# --- the whole benchmark --------------------------------------------------------------------------


def saved(folder):
    """Return the report and the page that a run has saved."""
    data = folder / "out" / "gpu_check.json"
    text = data.with_suffix(".md").read_text(encoding="utf-8")
    return json.loads(data.read_text(encoding="utf-8")), text


@pytest.fixture
def run(card, paged, tiny, monkeypatch, tmp_path):
    """Return a function that runs the benchmark, and returns its exit status and its report."""
    monkeypatch.setattr(gpu_check, "find_card", lambda: CPU)
    monkeypatch.setattr(gpu_check, "REPEATS", 1)
    here = {"date": "2001-02-03", "machine": "an imitated machine"}
    monkeypatch.setattr(gpu_check, "measured_here", lambda: here)
    monkeypatch.setattr(gpu_check, "fetch_base", lambda name: None)
    # Matrix products on a CPU need no workspace.
    monkeypatch.setattr(gpu_check, "CUBLAS_WORKSPACE", 0)

    monkeypatch.setattr(runner, "RESULTS", tmp_path / "out")

    def run(*arguments):
        status = runner.run("gpu_check", list(arguments))
        report, text = saved(tmp_path)
        assert text == page(report)
        return status, report

    return run


@pytest.mark.full
def test_whole_benchmark(run, capsys):
    status, report = run("--model", "smollm2-135m")
    assert gpu_check.problems(report) == [] and status == 0
    assert report["model"] == "smollm2-135m"
    assert len(report["steps"]) == 4 and len(report["optimizers"]) == 2
    output = capsys.readouterr().out
    assert "measuring: 1 × 64 tokens, checkpointing" in output
    assert "all measurements succeeded and agree with the predictions." in output


@pytest.mark.full
@pytest.mark.parametrize("function", ["load_base", "attach_adapters", "cublas_workspace"])
def test_failed_part_does_not_stop_the_other_parts(run, monkeypatch, function):
    def fail(*_, **__):
        raise ImportError("a library is too old")

    monkeypatch.setattr(gpu_check, function, fail)
    status, report = run()
    problems = gpu_check.problems(report)
    assert status == 1 and problems
    assert all("failed (ImportError: a library is too old)" in problem for problem in problems)
    assert [row["difference"] for row in report["optimizers"]] == [0, 0]


@pytest.mark.full
def test_measurements_are_kept_if_bitsandbytes_ends_the_process(run, monkeypatch, tmp_path):
    # bitsandbytes' C code ends the process if it can't allocate managed memory.
    monkeypatch.setattr(gpu_check, "paging", lambda *_: sys.exit(1))
    with pytest.raises(SystemExit):
        run()
    report, text = saved(tmp_path)
    assert len(report["steps"]) == 4
    (problem,) = gpu_check.problems(report)
    assert problem == "paged optimizers: failed (the process ended before this measurement)"
    assert problem in text
