"""gpu_check: the benchmark of a CUDA card, on a CPU whose memory is counted like a card's."""

import json
import os
import subprocess
import sys

import bitsandbytes as bnb
import pytest
import torch

from course_utils.machine.measure import TensorMeter
from course_utils.machine.units import GB, MB, GiB
from course_utils.machine.validation import CourseError
from course_utils.memory import CUBLAS_WORKSPACE, SMALLEST_PAGED, ModelShape
from course_utils.memory.allocator import fresh_block
from course_utils.models import load_base, model_bytes
from tests.conftest import make_model
from workshop.benchmarks import gpu_check, runner

CPU = torch.device("cpu")


class Card(TensorMeter):
    """A meter that replaces the functions of torch.cuda.

    Attributes:
        existing: the bytes (B) of tensors that were created before the meter was started.
        total: the memory of the card in bytes (B).
        driver: the version of the driver.
    """

    existing, total, driver = 0, 16 * GB, "550.0"

    def install(self, monkeypatch):
        for name in ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        answers = {
            "memory_reserved": self.memory_allocated,
            "mem_get_info": self.mem_get_info,
            "get_device_name": lambda device: "Imitated Card (16GB)",
            "get_device_capability": lambda device: (7, 5),
            "is_bf16_supported": lambda: True,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        driver = lambda run: self.driver  # noqa: E731
        monkeypatch.setattr(gpu_check.collect_env, "get_nvidia_driver_version", driver)

    def memory_allocated(self, device):
        return self.existing + self.now

    def max_memory_allocated(self, device):
        return self.existing + self.peak

    def reset_peak_memory_stats(self, device):
        self.peak = self.now

    def mem_get_info(self, device):
        return self.total - self.memory_allocated(device), self.total


@pytest.fixture
def card(monkeypatch):
    """A card that counts the tensors of the CPU while the test runs."""
    with Card() as meter:
        meter.install(monkeypatch)
        yield meter


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
    """Mark the states that would be paged on a card; returns a list of their sizes (elements)."""
    sizes = []

    def buffer(self, p, dtype=torch.float32):
        state = torch.zeros_like(p, dtype=dtype)
        if self.is_paged and p.numel() >= 1e5:
            state.is_paged = True
            sizes.append(state.numel())
        return state

    monkeypatch.setattr(bnb.optim.optimizer.Optimizer8bit, "get_state_buffer", buffer)
    monkeypatch.setattr(bnb.optim.optimizer.Optimizer8bit, "prefetch_state", lambda self, p: None)
    monkeypatch.setattr(gpu_check, "SIZES", (5000, SMALLEST_PAGED - 1, SMALLEST_PAGED))
    return sizes


# --- without a card -------------------------------------------------------------------------------


@pytest.mark.full
def test_without_cuda_nothing_is_measured_or_written(tmp_path):
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [
        sys.executable,
        "-m",
        "workshop.benchmarks",
        "gpu_check",
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, env=hidden, cwd=runner.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("torch sees no CUDA card, so there is nothing to measure")
    assert done.stdout.count("\n") == 1
    assert not list(tmp_path.iterdir())


# --- single measurements --------------------------------------------------------------------------


def test_workspace_is_the_memory_of_a_product_without_its_result(card, monkeypatch):
    original, workspaces = torch.mm, []

    def mm(*arguments, **options):
        workspaces.append(torch.empty(CUBLAS_WORKSPACE, dtype=torch.uint8))
        return original(*arguments, **options)

    monkeypatch.setattr(torch, "mm", mm)
    assert gpu_check.cublas_workspace(CPU) == CUBLAS_WORKSPACE


def test_weights_of_a_loaded_model_agree_with_the_prediction(card, tiny):
    loaded = gpu_check.load("tiny", CPU)
    sizes = gpu_check.weights(loaded["model"], loaded["grown"], CPU)
    assert sizes["measured"] == sizes["predicted"] == model_bytes(loaded["model"])
    assert sizes["grown"] == pytest.approx(sizes["measured"], rel=0.01)


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


@pytest.mark.parametrize("number", range(4))
def test_peak_of_a_step_agrees_with_the_calculator(number, tiny, monkeypatch):
    model = gpu_check.load_base("tiny", quantization="nf4", device=CPU)[0]
    with Card() as meter:
        meter.existing = model_bytes(model)
        meter.install(monkeypatch)
        ready = gpu_check.prepare(model, CPU)
        step = ready["steps"][number]
        row = gpu_check.training(ready["model"], step, CPU)
    assert row["measured"] == pytest.approx(row["predicted"], rel=0.01)
    assert row["tokens/s"] > 0
    trained = [n for n, p in ready["model"].named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2 and all("lora_" in name for name in trained)


# --- paged optimizers -----------------------------------------------------------------------------


def test_managed_memory_is_limited_to_a_small_share_of_the_free_memory():
    gpu_check.check_managed(150 * MB, 15 * GB)
    with pytest.raises(
        CourseError, match=r"150\.00 MB .* with 14\.00 GB free .* at most 140\.00 MB"
    ):
        gpu_check.check_managed(150 * MB, 14 * GB)
    gpu_check.check_managed(256 * MB, 80 * GB)
    with pytest.raises(CourseError, match=r"at most 256\.00 MB"):
        gpu_check.check_managed(257 * MB, 80 * GB)


def test_managed_bytes_are_the_bytes_of_all_paged_states(card, paged):
    predicted = gpu_check.managed_bytes()
    rows = [gpu_check.paging(bits, CPU) for bits in gpu_check.BITS]
    assert predicted == sum(row["paged"]["paged"] for row in rows) == 2 * SMALLEST_PAGED * (1 + 4)
    assert not any(row["unpaged"]["paged"] for row in rows)


def test_nothing_is_allocated_if_too_little_memory_is_free(card, paged):
    card.total = 100 * gpu_check.managed_bytes() - 1
    with pytest.raises(CourseError, match="paged optimizers are not measured"):
        gpu_check.paging(8, CPU)
    assert not paged and card.peak == 0


@pytest.mark.parametrize("bits", gpu_check.BITS)
def test_paged_and_unpaged_updates_are_compared(bits, card, paged):
    row = gpu_check.paging(bits, CPU)
    assert row["difference"] == 0
    assert row["paged"]["paged sizes"] == [SMALLEST_PAGED]
    assert row["unpaged"]["paged sizes"] == []
    # AdamW has two states.
    assert paged == [SMALLEST_PAGED, SMALLEST_PAGED]
    count = sum(gpu_check.SIZES)
    assert row["paged"]["states"] == row["unpaged"]["states"]
    assert row["paged"]["states"] == pytest.approx(2 * count * bits // 8, rel=0.03)
    assert row["unpaged"]["allocated"] == row["unpaged"]["free"] >= row["unpaged"]["states"] - 2048


def test_difference_between_paged_and_unpaged_weights_is_measured(card, paged, monkeypatch):
    original = bnb.optim.PagedAdamW8bit.step

    def step(self):
        original(self)
        with torch.no_grad():
            self.param_groups[0]["params"][-1][0] += 0.5

    monkeypatch.setattr(bnb.optim.PagedAdamW8bit, "step", step)
    difference = gpu_check.paging(8, CPU)["difference"]
    assert difference == pytest.approx(0.5 * (1 + gpu_check.REPEATS), rel=1e-3)


# --- the report -----------------------------------------------------------------------------------


def fictitious_report():
    """Return a report without problems, whose numbers were not measured."""
    unpaged = {"states": 4_500_000, "paged": 0, "paged sizes": [], "allocated": 4_500_000}
    unpaged |= {"free": 20_971_520, "seconds": 0.0002}
    paged = {"states": 4_500_000, "paged": 4_394_304, "paged sizes": [100_000, 2_097_152]}
    paged |= {"allocated": 105_696, "free": 6_291_456, "seconds": 0.00031}
    step = {"case": "1 × 512 tokens, checkpointing", "measured": 1000 * 2**20}
    return {
        "date": "2001-02-03",
        "name": "Fictitious Card",
        "machine": "a fictitious machine",
        "model": "smollm2-1.7b",
        "settings": {"rank": 16, "repeats": 5, "workspace": 1000, "paging": [100_000, 2_097_152]},
        "card": {
            "capability": [7, 5],
            "total": 15_800_000_000,
            "free": 15_000_000_000,
            "driver": None,
            "cuda": "12.8",
            "compute dtype": "float16: compute capability 7.5 has no native bfloat16",
            "is_bf16_supported": True,
            "workspace": 1000,
        },
        "weights": {"measured": 1_032_576_416, "predicted": 1_032_576_416, "grown": 1_040_000_000},
        "steps": [step | {"predicted": 1005 * 2**20, "tokens/s": 1234.5}],
        "optimizers": [
            {"case": "8-bit AdamW", "unpaged": unpaged, "paged": paged, "difference": 0.0}
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
        ("steps", {"predicted": 989 * 2**20}, "checkpointing: the peak is off by -1.10%"),
        ("optimizers", {"difference": 0.25}, "AdamW: paging changes weights by up to 0.25"),
        ("optimizers", {"difference": float("nan")}, "paging changes weights by up to nan"),
        ("optimizers", {"paged": {"paged sizes": []}}, "AdamW: the paged states have [] elements"),
        ("card", {"failed": "RuntimeError: x"}, "the card: failed (RuntimeError: x)"),
        ("weights", {"failed": "CourseError: y"}, "weights: failed (CourseError: y)"),
        ("steps", {"failed": "OutOfMemoryError: z"}, "checkpointing: failed (OutOfMemoryError: z)"),
        ("optimizers", {"failed": "CourseError: v"}, "8-bit AdamW: failed (CourseError: v)"),
    ],
)
def test_wrong_or_failed_measurement_is_a_problem_on_the_page(part, change, message):
    report = fictitious_report()
    row = report[part][0] if isinstance(report[part], list) else report[part]
    for key, value in change.items():
        row[key] = row[key] | value if isinstance(value, dict) else value
    if "failed" in change:
        for key in set(row) - {"case", "failed"}:
            del row[key]
    (problem,) = gpu_check.problems(report)
    assert message in problem
    assert f"- {problem}" in page(report).splitlines()


def test_larger_workspace_of_cublas_is_added_to_the_prediction():
    report = fictitious_report()
    report["card"]["workspace"] += fresh_block(20 * 2**20)
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

    def run(*arguments):
        status = runner.run("gpu_check", ["--output", str(tmp_path / "out"), *arguments])
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
