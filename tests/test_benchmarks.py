"""The benchmarks: how they are run, how they measure, and which targets they check."""

import doctest
import importlib.metadata
import json
import math
import re
import shutil

import psutil
import pytest
import torch
from safetensors.torch import load_file

from course_utils.machine.validation import CourseError
from course_utils.memory import PRESETS, ModelShape, estimate
from course_utils.training import Recipe
from tests.conftest import make_model
from workshop.benchmarks import __main__ as bench
from workshop.benchmarks import (
    calculators,
    grading,
    lora_against_full,
    neighbours,
    news_adapters,
    runner,
)
from workshop.benchmarks.evidence import claims

# --- the runner -----------------------------------------------------------------------------------

PAGE = """# A page

<!-- speed table: begin -->
{table}
<!-- speed table: end -->

<!-- speed made: begin -->
{made}
<!-- speed made: end -->

<!-- other table: begin -->
old
<!-- other table: end -->
"""


@pytest.fixture
def course(monkeypatch, tmp_path):
    """A course folder with a page that quotes the benchmark `speed`."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (tmp_path / "README.md").write_text("Nothing is quoted here.\n")
    (docs / "page.md").write_text(PAGE.format(table="old", made="old"))
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "DOCS", docs)
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "build")
    monkeypatch.setattr(runner, "about", lambda name: "How fast it is.")
    return tmp_path


def speed(monkeypatch, **options):
    """Replace all benchmarks by a fictitious one, which measures 3 m/s by default."""
    report = {"date": "2026-11-27", "machine": "a machine", "speed": 3}
    fields = {
        "measure": lambda: [report],
        "tables": {"table": lambda report: f"| {report['speed']} m/s |", "later": lambda _: None},
        "conditions": lambda report: "Downhill.",
        "problems": lambda report: ["too slow"] if report["speed"] < 3 else [],
    }
    benchmark = runner.Benchmark(**fields | options)
    monkeypatch.setattr(runner, "find", lambda name: benchmark)


def test_report_is_saved_and_quoted_between_its_marks(course, monkeypatch, capsys):
    speed(monkeypatch)
    assert runner.run("speed", []) == 0
    made = "Downhill. Made by `python -m workshop.benchmarks speed` on 2026-11-27: a machine."
    quoted = PAGE.format(table="| 3 m/s |", made=made)
    assert (course / "docs" / "page.md").read_text() == quoted
    assert json.loads((course / "build" / "speed.json").read_text())["speed"] == 3
    page = (course / "build" / "speed.md").read_text()
    assert "| 3 m/s |" in page and page in capsys.readouterr().out


def test_option_texts_uses_the_last_report_without_measuring(course, monkeypatch, capsys):
    def measure():
        raise AssertionError("something was measured")

    speed(monkeypatch, measure=measure)
    assert runner.run("speed", ["--texts"]) == 1
    assert "there is no report in" in capsys.readouterr().err
    (course / "build").mkdir()
    (course / "build" / "speed.json").write_text('{"speed": 5}')
    assert runner.run("speed", ["--texts"]) == 0
    assert "| 5 m/s |" in (course / "docs" / "page.md").read_text()


@pytest.mark.parametrize(
    ("reports", "error", "status", "message"),
    [
        ([{"speed": 2}], None, 1, "too slow\n"),
        ([{"speed": 4}], CourseError("the road is closed"), 1, "the road is closed\n"),
        ([{"speed": 4}], KeyboardInterrupt(), 1, "speed.json, if any.\n"),
        (
            *([{"speed": 4}], importlib.metadata.PackageNotFoundError("trl"), 1),
            "the package trl is missing: install the extras of the benchmarks with "
            "`pip install -e '.[test,bench]'`\n",
        ),
        ([], runner.NothingToMeasure("there is no road here"), 0, "there is no road here\n"),
    ],
    ids=["missed", "error", "interrupted", "package", "nothing"],
)
def test_reports_are_kept_and_errors_and_missed_targets_are_printed(
    course, monkeypatch, capsys, reports, error, status, message
):
    def measure():
        yield from reports
        if error:
            raise error

    speed(monkeypatch, measure=measure)
    assert runner.run("speed", []) == status
    printed = capsys.readouterr()
    assert (printed.err if status else printed.out).endswith(message)
    page = (course / "docs" / "page.md").read_text()
    assert all(f"| {report['speed']} m/s |" in page for report in reports)
    assert (course / "build").exists() is bool(reports)


def test_every_mark_on_a_page_belongs_to_a_benchmark():
    """A mark with a typing error would never be renewed."""
    known = set()
    for name in runner.names():
        known |= {f"{name} {key}" for key in (*runner.find(name).tables, "made")}
    for path in runner.quoting_pages():
        text = path.read_text(encoding="utf-8")
        marks = re.findall("<!-- (.*): begin -->", text)
        assert marks == re.findall("<!-- (.*): end -->", text)
        assert {mark for mark in marks if mark.split()[0] in runner.names()} <= known, path


def test_the_suite_names_benchmarks():
    assert set(bench.SUITE) <= set(runner.names())


# --- memory calculators ---------------------------------------------------------------------------


def test_calculator_above_its_error_bound_is_a_problem():
    row = {"measured": 1000, "this course": 1000, "fitcheck": 1100, "accelerate": None}
    report = {name: [dict(row)] for name in calculators.WORST}
    assert calculators.problems(report) == []
    report["weights"][0]["this course"] = 1001
    assert calculators.problems(report) == ["weights: off by 0.10%, more than 0.00%"]


def test_fitcheck_gets_the_settings_of_the_measured_runs():
    case = next(case for case in calculators.t4_cases() if "sdpa" in case["case"])
    options = calculators.fitcheck_options(case)
    assert (options["batch_size"], options["seq_len"], options["lora_rank"]) == (2, 512, 32)
    assert options["grad_checkpoint"] and options["flash_attn"] and not options["double_quant"]


def test_accelerate_estimates_the_model_without_its_head():
    sizes = calculators.ask_accelerate(PRESETS["tinyllama-1.1b"])
    shape = ModelShape.preset("tinyllama-1.1b")
    without_head = shape.parameters - shape.vocab * shape.hidden
    assert sizes["float32"]["weights"] == pytest.approx(4 * without_head, rel=1e-6)
    assert sizes["float32"]["training"] == 4 * sizes["float32"]["weights"]


def test_fitcheck_estimates_a_measured_run():
    pytest.importorskip("fitcheck", reason="needs the extra `bench`")
    case = next(calculators.t4_cases())
    answer = calculators.ask_fitcheck(PRESETS["tinyllama-1.1b"], case)
    assert answer["total"] == pytest.approx(case["measured"], rel=0.05)


def test_peak_of_a_tiny_model_agrees_with_the_estimate():
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    calculators.step(model, optimizer, 4)
    options = {"recipe": "fp32", "device": "cpu", "gradient_checkpointing": False}
    options["keep_output"] = True
    predicted = estimate(model.config.to_dict(), "full", sequence_length=200, **options)
    assert calculators.peak_bytes(model, optimizer, 200) == pytest.approx(predicted.total, rel=0.01)


def test_examples_in_the_docs_print_what_they_show():
    docs = (runner.DOCS / "memory-calculator.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", docs, re.S)
    examples = doctest.DocTestParser().get_doctest("".join(blocks), {}, "docs", None, 0)
    output = []
    result = doctest.DocTestRunner().run(examples, out=output.append)
    assert result.attempted and not result.failed, "".join(output)


# --- grading --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_grading_of_few_submissions_is_measured():
    if not shutil.which("bwrap"):
        pytest.skip("there is no bubblewrap")
    (report,) = grading.measure(count=4)
    text = runner.page("grading", grading.BENCHMARK, report)
    assert "the same points in all 24 graded cells" in text


# --- busy neighbours ------------------------------------------------------------------------------


def test_busy_programs_run_until_the_end_of_the_block():
    before = psutil.Process().children()
    with neighbours.busy(2):
        programs = [child for child in psutil.Process().children() if child not in before]
        assert len(programs) == 2
    assert not any(program.is_running() for program in programs)


# --- LoRA against full fine-tuning ----------------------------------------------------------------


@pytest.mark.parametrize("finalists", [None, 2])
@pytest.mark.parametrize(
    ("loss", "rates"),
    [
        (lambda rate: abs(rate - 4), (1.0, 2.0, 4.0, 8.0)),
        (lambda rate: abs(rate - 0.5), (1.0, 2.0, 0.5, 0.25)),
        (lambda rate: None, (1.0, 2.0, 0.5)),
    ],
    ids=["above", "below", "all runs stop"],
)
def test_rates_beyond_the_best_are_tried_and_each_rate_has_all_seeds(
    monkeypatch, loss, rates, finalists
):
    way = lora_against_full.Way(None, 1, 2, (1.0, 2.0), finalists=finalists)
    monkeypatch.setattr(lora_against_full, "WAYS", {"full": way})
    runs = []
    while (todo := lora_against_full.missing(runs)) and len(runs) < 20:
        _, rate, seed = todo[0]
        run = {"way": "full", "learning_rate": rate, "seed": seed}
        runs.append(run | {"validation": loss(rate)})
    found = [(run["learning_rate"], run["seed"]) for run in runs]
    assert found[: len(rates)] == [(rate, 0) for rate in rates]
    best = sorted(rates, key=lambda rate: loss(rate) or 0)[:finalists]
    assert found[len(rates) :] == [(rate, seed) for seed in (1, 2) for rate in best]


def test_loss_of_a_model_counts_answer_tokens_only(model, tokenizer):
    prompt, answer = [5, 6, 7, 8], [9, 10]
    example = {"input_ids": prompt + answer, "labels": [-100] * 4 + answer}
    logits = model(torch.tensor([example["input_ids"]])).logits[0, 3:5].float()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(answer)).item()
    assert lora_against_full.loss(model, [example] * 3, tokenizer) == pytest.approx(expected, 1e-4)


# --- the adapters of lectures 00 and 03 -----------------------------------------------------------


def test_the_saved_adapters_have_the_default_recipe_and_fit_the_model():
    origin, config = (
        json.loads((news_adapters.FOLDER / name).read_text())
        for name in ("origin.json", "adapter_config.json")
    )
    assert origin["recipe"] == Recipe().fingerprint()
    assert (config["r"], config["lora_alpha"]) == (Recipe().rank, Recipe().alpha)
    tensors = load_file(news_adapters.FOLDER / "adapter_model.safetensors")
    shape = ModelShape.preset(news_adapters.NAME)
    count = sum(tensor.numel() for tensor in tensors.values())
    assert count == shape.adapter_parameters(config["r"], "all-linear")


@pytest.mark.parametrize("part", claims.METRICS)
def test_the_plan_of_the_claims_ends_with_all_seeds_at_rates_between_others(part):
    runs, best = [], 3e-3
    while todo := claims.missing(part, runs):
        assert all(todo.count(run) == 1 and run not in runs for run in todo)
        loss = abs(math.log(todo[0]["learning_rate"] / best))
        runs.append(todo[0] | {"train": loss, "validation": loss})
    for setting in claims.settings(part):
        tried = [run for run in runs if setting.items() <= run.items()]
        rates = {run["learning_rate"] for run in tried}
        chosen = {run["learning_rate"] for run in tried if run["seed"] == 2}
        assert len(chosen) == 1 and min(rates) < min(chosen) < max(rates)
        assert sorted(r["seed"] for r in tried if r["learning_rate"] in chosen) == [0, 1, 2]
