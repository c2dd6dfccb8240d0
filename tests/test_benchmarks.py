"""The benchmarks: how they are run, how they measure, and which targets they check."""

import doctest
import importlib.util
import json
import os
import re
import shutil
import socket
import sys
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import (
    bigger_machines,
    calculators,
    codec,
    decoding,
    grading,
    image_size,
    lora_against_full,
    neighbours,
    quality,
    runner,
    startup,
    training,
)
from course_utils.figures import loss_curve
from course_utils.grading.results import records
from course_utils.memory import PRESETS, ModelShape, estimate, usable_bytes
from course_utils.units import GiB
from course_utils.validation import CourseError
from tests import assignment
from tests.conftest import make_model

# --- the runner -----------------------------------------------------------------------------------


@pytest.fixture
def course(monkeypatch, tmp_path):
    """A course folder with a page that quotes the benchmark `speed`."""
    docs = tmp_path / "docs"
    (docs / "images").mkdir(parents=True)
    (tmp_path / "README.md").write_text("Nothing is quoted here.\n")
    marks = ("speed table", "speed curve picture", "speed made", "other table")
    lines = [f"<!-- {mark}: begin -->\nold\n<!-- {mark}: end -->" for mark in marks]
    (docs / "page.md").write_text("\n\n".join(["# A page", *lines]) + "\n")
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
        "tables": {"table": lambda report: f"| {report['speed']} m/s |"},
        "pictures": {"curve": lambda report: loss_curve([])},
        "conditions": lambda report: "Downhill.",
        "problems": lambda report: ["too slow"] if report["speed"] < 3 else [],
    }
    benchmark = runner.Benchmark(**fields | options)
    monkeypatch.setattr(runner, "find", lambda name: benchmark)


def test_report_is_saved_and_quoted_between_its_marks(course, monkeypatch, capsys):
    speed(monkeypatch)
    assert runner.run("speed", []) == 0
    made = "Downhill. Made by `python -m benchmarks speed` on 2026-11-27: a machine."
    alt = "An empty plot of loss over steps: training has not begun."
    assert (
        (course / "docs" / "page.md").read_text()
        == f"""# A page

<!-- speed table: begin -->
| 3 m/s |
<!-- speed table: end -->

<!-- speed curve picture: begin -->
![{alt}](images/speed-curve.png)
<!-- speed curve picture: end -->

<!-- speed made: begin -->
{made}
<!-- speed made: end -->

<!-- other table: begin -->
old
<!-- other table: end -->
"""
    )
    assert json.loads((course / "build" / "speed.json").read_text())["speed"] == 3
    page = (course / "build" / "speed.md").read_text()
    assert page == (
        f"# How fast it is.\n\n## table\n\n| 3 m/s |\n\n![{alt}](speed-curve.png)\n\n{made}\n"
    )
    assert page in capsys.readouterr().out
    for place in ("build/speed-curve.png", "docs/images/speed-curve.png"):
        assert (course / place).read_bytes().startswith(b"\x89PNG")


def test_option_output_leaves_the_docs_unchanged(course, monkeypatch):
    speed(monkeypatch)
    before = (course / "docs" / "page.md").read_text()
    assert runner.run("speed", ["--output", str(course / "aside")]) == 0
    written = {path.name for path in (course / "aside").iterdir()}
    assert written == {"speed.json", "speed.md", "speed-curve.png"}
    assert (course / "docs" / "page.md").read_text() == before
    assert not (course / "build").exists()


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


def test_missed_target_gives_exit_status_1(course, monkeypatch, capsys):
    speed(monkeypatch, measure=lambda: [{"speed": 2}])
    assert runner.run("speed", []) == 1
    assert capsys.readouterr().err == "too slow\n"
    assert "- too slow\n" in (course / "build" / "speed.md").read_text()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (CourseError("the road is closed"), "the road is closed\n"),
        (KeyboardInterrupt(), "speed.json, if any.\n"),
    ],
)
def test_reports_before_an_error_are_kept(course, monkeypatch, capsys, error, message):
    def measure():
        yield {"speed": 4}
        raise error

    speed(monkeypatch, measure=measure)
    assert runner.run("speed", []) == 1
    assert capsys.readouterr().err.endswith(message)
    assert "| 4 m/s |" in (course / "docs" / "page.md").read_text()


def test_nothing_to_measure_is_printed_and_is_no_error(course, monkeypatch, capsys):
    def measure():
        raise runner.NothingToMeasure("there is no road here")

    speed(monkeypatch, measure=measure)
    assert runner.run("speed", []) == 0
    assert capsys.readouterr().out == "there is no road here\n"
    assert not (course / "build").exists()


def test_benchmark_can_add_options(course, monkeypatch):
    def add_options(parser):
        parser.add_argument("--gear", type=int, default=1)

    speed(monkeypatch, measure=lambda gear: [{"speed": 3 * gear}], add_options=add_options)
    assert runner.run("speed", ["--gear", "2"]) == 0
    assert json.loads((course / "build" / "speed.json").read_text()) == {"speed": 6}


def test_every_mark_on_a_page_belongs_to_a_benchmark():
    """A mark with a typing error would never be renewed."""
    known = set()
    for name in runner.names():
        benchmark = runner.find(name)
        known |= {f"{name} {key}" for key in (*benchmark.tables, "made")}
        known |= {f"{name} {key} picture" for key in benchmark.pictures}
    pages = runner.quoting_pages()
    assert {"README.md", "performance.md", "DATASHEET.md"} <= {path.name for path in pages}
    for path in pages:
        text = path.read_text(encoding="utf-8")
        marks = re.findall("<!-- (.*): begin -->", text)
        assert marks == re.findall("<!-- (.*): end -->", text)
        assert {mark for mark in marks if mark.split()[0] in runner.names()} <= known, path


def test_usage_lists_every_benchmark():
    listed = [line for line in bench.usage().splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in listed] == runner.names()
    assert set(bench.SUITE) <= set(runner.names())


def test_helpers_of_the_tests_do_not_import_benchmarks():
    """Benchmarks import these helpers, so the imports would be circular."""
    importing = re.compile(r"^\s*(from|import) benchmarks\b", re.MULTILINE)
    helpers = [path for path in (runner.ROOT / "tests").rglob("*.py") if path.name[:5] != "test_"]
    assert helpers
    assert not [path for path in helpers if importing.search(path.read_text(encoding="utf-8"))]


# --- memory calculators ---------------------------------------------------------------------------

TINYLLAMA = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
SERVED = {TINYLLAMA: PRESETS["tinyllama-1.1b"] | {"architectures": ["LlamaForCausalLM"]}}


def test_calculator_table_shows_errors_and_cases_that_are_not_modelled():
    rows = [
        {"case": case, "measured": size, "this course": size, "fitcheck": other, "accelerate": None}
        for case, size, other in (("a", 2**20, 2**19), ("b", 2**21, 2**22))
    ]
    lines = calculators.table(rows).splitlines()
    assert lines[2] == "| a | 1.0 | 1.0 (0.00%) | 0.5 (-50.00%) | not modelled |"
    assert lines[4] == "| **mean error** | | **0.00%** | **75.00%** | – |"
    assert lines[5] == "| **worst error** | | **0.00%** | **100.00%** | – |"


def test_calculator_above_its_error_bound_or_worse_than_another_is_a_problem():
    row = {"measured": 1000, "this course": 1000, "fitcheck": 1100, "accelerate": None}
    report = {name: [dict(row)] for name in calculators.WORST}
    assert calculators.problems(report) == []
    report["weights"][0]["this course"] = 1001
    report["peaks"][0] |= {"this course": 1009, "fitcheck": 1008}
    assert calculators.problems(report) == [
        "weights: off by 0.10%, more than 0.00%",
        "peaks: fitcheck is nearer to the measured bytes",
    ]


@pytest.mark.parametrize("model", calculators.PRESET_OF)
def test_local_hub_serves_the_number_of_parameters_of_the_model(model):
    config = PRESETS[calculators.PRESET_OF[model]]
    kind = calculators.ARCHITECTURES[config["model_type"]]
    facts = calculators.facts(config | {"architectures": [kind]})
    assert facts["safetensors"]["total"] == ModelShape.from_config(config).parameters


def test_fitcheck_gets_the_settings_of_the_measured_runs():
    case = next(case for case in calculators.t4_cases() if "sdpa" in case["case"])
    assert calculators.fitcheck_options(case) == {
        "precision": "fp16",
        "quantization": "nf4",
        "double_quant": False,
        "batch_size": 2,
        "seq_len": 512,
        "lora_rank": 32,
        "lora_targets": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "grad_checkpoint": True,
        "flash_attn": True,
    }


@pytest.mark.full
def test_accelerate_reads_configs_from_the_local_hub():
    answers = calculators.ask_peers({"fitcheck": [], "accelerate": [TINYLLAMA]}, SERVED)
    shape = ModelShape.preset("tinyllama-1.1b")
    # accelerate builds the model without its language-modelling head.
    without_head = shape.parameters - shape.vocab * shape.hidden
    (sizes,) = answers["accelerate"]
    assert sizes["float32"]["weights"] == pytest.approx(4 * without_head, rel=1e-6)
    assert sizes["float32"]["training"] == 4 * sizes["float32"]["weights"]
    assert sizes["int4"]["training"] is None


@pytest.mark.full
def test_fitcheck_reads_configs_from_the_local_hub():
    pytest.importorskip("fitcheck", reason="needs the extra `bench`")
    case = next(calculators.t4_cases())
    question = [case["model"], calculators.fitcheck_options(case)]
    answers = calculators.ask_peers({"fitcheck": [question], "accelerate": []}, SERVED)
    assert answers["fitcheck"][0]["tensors"] == pytest.approx(case["measured"], rel=0.05)


@pytest.mark.full
def test_error_of_another_calculator_is_shown():
    with pytest.raises(RuntimeError, match="nobody/nothing"):
        calculators.ask_peers({"fitcheck": [], "accelerate": ["nobody/nothing"]}, SERVED)


def test_missing_fitcheck_is_reported_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match=r"pip install -e '.\[bench\]'"):
        next(calculators.measure())


def test_saved_and_peak_bytes_of_a_tiny_model_agree_with_the_estimate():
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    calculators.step(model, optimizer, 4)
    options = {"recipe": "fp32", "device": "cpu", "gradient_checkpointing": False}
    predicted = estimate(model.config.to_dict(), "full", sequence_length=200, **options)
    assert calculators.saved_bytes(model, 200) == pytest.approx(predicted.activations, rel=0.01)
    assert calculators.peak_bytes(model, optimizer, 200) == pytest.approx(predicted.total, rel=0.01)


def test_examples_in_the_docs_print_what_they_show():
    docs = (runner.DOCS / "memory-calculator.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", docs, re.S)
    examples = doctest.DocTestParser().get_doctest("".join(blocks), {}, "docs", None, 0)
    output = []
    result = doctest.DocTestRunner().run(examples, out=output.append)
    assert result.attempted and not result.failed, "".join(output)


# --- the codec ------------------------------------------------------------------------------------


def test_codecs_are_timed_alternately():
    order = []
    work = (lambda: order.append("ours"), lambda: order.append("theirs"))
    times = codec.time_alternately(*work, rounds=2)
    assert order == ["ours", "theirs"] * 3 and set(times) == {"ours", "bitsandbytes"}


@pytest.mark.parametrize("double_quant", [False, True])
def test_codecs_agree_on_few_weights(double_quant):
    entry = codec.case(torch.float16, double_quant, shape=(10, 640), rounds=1)
    assert entry["bit-identical"] and entry["bytes"] == entry["bitsandbytes bytes"]
    seconds = [t for times in entry["seconds"].values() for t in times.values()]
    assert len(seconds) == 4 and min(seconds) > 0


def test_codec_with_different_bits_or_too_slow_is_a_problem():
    entry = codec.case(torch.float16, False, shape=(10, 640), rounds=1)
    times = {"ours": 1.0, "bitsandbytes": 0.6}
    entry["seconds"] = {way: dict(times) for way in entry["seconds"]}
    assert codec.problems({"cases": [entry]}) == []
    entry["seconds"]["quantize"]["ours"] = 2.0
    entry["bit-identical"] = False
    assert codec.problems({"cases": [entry]}) == [
        "float16, double quantization off: bits or bytes differ from bitsandbytes'",
        "float16, double quantization off: slower than 0.5 times bitsandbytes' speed",
    ]


# --- grading --------------------------------------------------------------------------------------


def test_drift_is_the_growth_over_the_second_half():
    times = [float(second) for second in range(100)]
    noise = [(7 * second) % 5 for second in range(100)]
    level = [100.0 + part for part in noise]
    leak = [100.0 + part + second for part, second in zip(noise, times, strict=True)]
    falling = [300.0 if second < 50 else 100.0 for second in times]
    assert abs(grading.drift(times, level)) < 0.02
    assert grading.drift(times, leak) == pytest.approx(49 / (102 + 74.5), rel=0.05)
    assert grading.drift(times, falling) == 0


@pytest.mark.parametrize(
    ("kind", "points", "problems"),
    [
        ("", 6.0, []),
        ("", 5.0, ["one (honest): 5 instead of 6"]),
        ("", 7.0, ["one (honest): 7 instead of 6"]),
        ("fork bomb", 0.0, []),
        ("fork bomb", 1.0, []),
        ("fork bomb", 6.0, []),
        ("fork bomb", 7.0, ["one (fork bomb): 7 instead of at most 6"]),
        ("fork bomb", None, ["one (fork bomb): no record"]),
    ],
)
def test_honest_points_are_exact_and_hostile_points_have_a_maximum(kind, points, problems):
    found = {} if points is None else {"one": points}
    assert grading.unexpected({"one": (kind, 6.0)}, found) == problems


def results_of_run(folder, monkeypatch, honest, bomb):
    """Return what the benchmark compares of a run that gave these points to two submissions."""
    scores = {"honest": honest, "bomb": bomb}
    for student, points in scores.items():
        record = records.Record(assignment.NAME, student, records.GRADED, points={"sum": points})
        record.write(folder / "grading" / assignment.NAME)
    monkeypatch.setattr(grading, "contents", lambda *_: {s: {"sum": [scores[s]]} for s in scores})
    return grading.honest_results(folder, {"honest": ("", 9.0), "bomb": ("fork bomb", 6.0)})


def test_only_honest_results_of_two_runs_must_be_equal(tmp_path, monkeypatch):
    first = results_of_run(tmp_path, monkeypatch, honest=9.0, bomb=0.0)
    assert first == {"honest": ({"sum": [9.0]}, records.GRADED)}
    assert results_of_run(tmp_path, monkeypatch, honest=9.0, bomb=1.0) == first
    for points in {"honest": 8.0, "bomb": 0.0}, {"honest": 9.0, "bomb": 7.0}:
        with pytest.raises(CourseError, match="unexpected points"):
            results_of_run(tmp_path, monkeypatch, **points)


RUN = {"submissions": 60, "killed after": 1.0, "saved": 30, "graded after": 30}


@pytest.fixture
def parts(course, monkeypatch):
    """The parts of the benchmark `grading`, which measure nothing, and a page that quotes two."""
    names = ("peers", "killed")
    marks = [f"<!-- grading {name}: begin -->\nold\n<!-- grading {name}: end -->" for name in names]
    (course / "docs" / "page.md").write_text("\n\n".join(marks) + "\n")
    sides = {"submissions": 40, "cells compared": 240}
    ours = {"seconds": [10.0, 12.0], "first": [6.0, 7.0], "peak": 10**9}
    sides |= {"ours": ours, "nbgrader": {"seconds": 240.0, "peak": 10**9}}
    parts = {"peers": lambda count: sides, "killed": lambda count: RUN | {"cells compared": 420}}
    monkeypatch.setattr(grading, "PARTS", parts)
    return parts


@pytest.mark.parametrize("error", [CourseError("no space"), KeyboardInterrupt(), MemoryError()])
def test_part_that_fails_keeps_the_parts_before_it(course, parts, error):
    def fail(count):
        raise error

    measure, parts["killed"] = parts["killed"], fail
    with suppress(MemoryError):
        assert runner.run("grading", []) == 1
    saved = course / "build" / "grading.json"
    assert "killed" not in json.loads(saved.read_text())
    page = (course / "docs" / "page.md").read_text()
    assert "`course grade` is 21.8 times as fast" in page and page.count("\nold\n") == 1
    assert "The part `killed` is not in this report." in (saved.with_suffix(".md")).read_text()

    # The missing part is measured alone, and the report is complete.
    peers = json.loads(saved.read_text())["peers"]
    parts |= {"killed": measure, "peers": fail}
    assert runner.run("grading", ["killed"]) == 0
    report = json.loads(saved.read_text())
    assert report["peers"] == peers and report["killed"]["saved"] == 30
    assert "old" not in (course / "docs" / "page.md").read_text()


def test_each_part_names_its_date_and_a_new_measurement_replaces_it(course, parts, monkeypatch):
    for day, names in ("2026-11-26", []), ("2026-11-27", ["killed"]), ("2026-11-28", []):
        here = {"date": day, "machine": "a machine"}
        monkeypatch.setattr(grading, "measured_here", lambda here=here: here)
        assert runner.run("grading", names) == 0
        page = (course / "build" / "grading.md").read_text()
        assert f"Made by `python -m benchmarks grading` on {day}: a machine." in page
        older = "The part `peers` is from 2026-11-26: a machine."
        assert (older in page) == (day == "2026-11-27")


def test_unknown_part_is_an_error(course, parts, capsys):
    assert runner.run("grading", ["side by side"]) == 1
    assert capsys.readouterr().err == "there is no part side by side; choose from: peers, killed\n"
    assert not (course / "build").exists()


def test_series_of_a_long_run_keeps_the_peaks():
    run = grading.Run(done=[1.0, 2.0], samples=[(n / 2, 1, n % 4 * 10**6) for n in range(1000)])
    points = grading.series(run)
    assert len(points) == grading.POINTS and points[-1][1] == 2
    assert {point[3] for point in points} == {3.0}
    short = grading.Run(samples=[(0.0, 1, 10**6), (0.5, 1, 10**7)])
    assert [point[3] for point in grading.series(short)] == [1.0, 10.0]


@pytest.mark.slow
def test_grading_of_few_submissions_is_measured(monkeypatch):
    if not shutil.which("bwrap"):
        pytest.skip("there is no bubblewrap")
    monkeypatch.setattr(grading, "saved_report", dict)
    *_, report = grading.measure(sizes={"peers": 4, "class": 20, "killed": 12})
    text = runner.page("grading", grading.BENCHMARK, report)
    assert "the same points in all 24 graded cells" in text
    assert "20 records of 20 submissions" in text and "The next run graded the other" in text


def test_slow_grading_and_growing_memory_are_problems():
    assert grading.problems({}) == []
    sides = {"nbgrader": {"seconds": 150.0}, "ours": {"seconds": [9.0, 10.0]}}
    report = {"peers": sides, "class": {"drift": {"worker": 0.1, "all": -0.5}}}
    assert grading.problems(report) == []
    sides["ours"]["seconds"][0] = 12.5
    report["class"]["drift"]["worker"] = 0.2
    assert grading.problems(report) == [
        "12.0 times as fast as nbgrader, below 15",
        "memory (worker) grows by +20.0% in the second half of the run",
    ]


# --- start-up -------------------------------------------------------------------------------------


def test_slow_start_is_a_problem():
    seconds = {name: [target] * 9 for name, target in startup.TARGETS.items()}
    times = seconds["`course --help`"]
    # Two slow starts of nine don't change the median.
    times[:2] = [9.0, 9.0]
    assert startup.problems({"seconds": seconds}) == []
    times[:] = [0.301] * 9
    assert startup.problems({"seconds": seconds}) == ["`course --help`: 0.301 s, later than 0.3 s"]


def test_first_round_is_not_counted_and_import_time_is_a_difference():
    bare = iter([9.0, 1.0, 2.0, 3.0])

    def once():
        seconds = next(bare)
        return {startup.BARE: (seconds, 0.0), startup.IMPORTED: (1.25 * seconds, 0.5)}

    report = startup.in_rounds(once, rounds=3)
    assert report["seconds"][startup.BARE] == [1.0, 2.0, 3.0]
    assert report["seconds"][startup.IMPORT] == [0.25, 0.5, 0.75]
    assert report["processor"][startup.IMPORT] == [0.5, 0.5, 0.5]


def write_notebook(folder, *sources):
    """Write a notebook with these code cells, and return its path."""
    cells = [{"cell_type": "code", "source": [source]} for source in sources]
    path = folder / "lecture.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}}), encoding="utf-8")
    return path


def test_lecture_is_executed_up_to_its_first_picture(tmp_path):
    shown = "from IPython.display import HTML; HTML('<img alt=bars src=bars.png>')"
    later = "import pathlib; pathlib.Path('too-far').touch()"
    seconds, processor = startup.first_picture(write_notebook(tmp_path, "'<img'", shown, later))
    assert seconds > 0 and processor > 0
    assert not (tmp_path / "too-far").exists()


@pytest.mark.parametrize(
    ("source", "error"), [("1 / 0", "ZeroDivisionError"), ("'<img'", r"no cell of lecture\.ipynb")]
)
@pytest.mark.full
def test_lecture_without_a_picture_is_an_error(tmp_path, source, error):
    with pytest.raises(CourseError, match=error):
        startup.first_picture(write_notebook(tmp_path, source))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"image/png": "iVBORw0KGgo"}, True),
        ({"text/plain": "bars", "text/html": '<p><img alt="bars" src="data:,"></p>'}, True),
        ({"text/plain": "bars", "text/html": '<svg role="img" aria-label="bars"></svg>'}, True),
        ({"text/plain": "<img>"}, False),
        ({"text/html": "<table></table>"}, False),
    ],
)
def test_outputs_with_a_picture_are_recognized(data, expected):
    assert startup.is_picture(data) is expected


SERVER = """
import http.server, re, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api" else 404)
        self.end_headers()
port = int(re.search(r"--port=([0-9]+)", sys.argv[1])[1])
print(port, file=open("port", "w"), flush=True)
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


def replace_make(folder, monkeypatch, script):
    """Replace the program `make` by a shell script, which runs in this folder."""
    (folder / "make").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "make").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
    monkeypatch.setattr(startup, "ROOT", folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no make")
def test_server_is_stopped_after_its_answer(tmp_path, monkeypatch):
    (tmp_path / "server.py").write_text(SERVER)
    replace_make(tmp_path, monkeypatch, f'"{sys.executable}" server.py "$2"; touch ended')
    seconds, processor = startup.lab()
    assert seconds > 0 and processor > 0
    # The script creates this file after the server has ended.
    assert (tmp_path / "ended").exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int((tmp_path / "port").read_text()))) != 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no make")
def test_server_that_ends_before_its_answer_is_an_error(tmp_path, monkeypatch):
    replace_make(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(CourseError, match="`make lab` starts no server"):
        startup.lab()


def test_command_that_fails_is_an_error():
    with pytest.raises(CourseError, match="no such thing"):
        startup.command(sys.executable, "-c", "raise SystemExit('no such thing')")


# --- speed and quality ----------------------------------------------------------------------------


def ways(seconds, unit, peaks=None):
    """The results of fictitious ways: each has done one piece of 1,000 units in these seconds."""
    return {
        way: {"pieces": [{unit: 1000, "seconds": s}], "peak": (peaks or {}).get(way, 1)}
        for way, s in seconds.items()
    }


def test_training_that_misses_its_speed_or_memory_target_is_a_problem():
    seconds = {"course": 1, "SFTTrainer": 4, "Trainer": 1.5}
    seconds |= {f"{way}, no checkpointing": s for way, s in seconds.items()}
    peaks = dict.fromkeys(seconds, 2) | {"course": 1, "course, no checkpointing": 1, "Trainer": 1}
    seconds |= {"SFTTrainer, no checkpointing": 3.5, "Trainer, no checkpointing": 2}
    report = {"ways": ways(seconds, "tokens", peaks)}
    assert training.problems(report) == [
        "SFTTrainer, no checkpointing: the course is 3.5 times as fast, below 4",
        "Trainer: the course is 1.5 times as fast, below 2",
        "Trainer: the peak memory is not higher than the course's",
    ]


def test_the_floor_of_a_step_is_its_matrix_products_with_the_same_shapes_and_strides():
    a, b = torch.randn(3, 4), torch.randn(5, 4)
    out = torch.empty(3, 5)
    with training.Products() as products:
        (torch.mm(a, b.T, out=out).addmm_(a, b.T).relu() + 1).sum()
    assert [call[0]._schema.name for call in products.calls] == ["aten::mm", "aten::addmm_"]
    products.run()
    shapes = {(size, stride) for size, stride, _ in products.memory}
    assert shapes == {((3, 4), (4, 1)), ((4, 5), (1, 4)), ((3, 5), (5, 1))}
    report = {"floors": ways({"step": 4, "its matrix products alone": 3}, "tokens")}
    assert "| its matrix products alone | 3000 (3000–3000) | 75% |" in training.floor_table(report)


def test_answering_that_misses_its_speed_target_is_a_problem():
    seconds = {}
    for kind, (one, repacked) in {"few-shot": (5, 3), "zero-shot": (4.5, 2.8)}.items():
        seconds[f"course, {kind}"] = 1
        seconds[f"generate, one by one, {kind}"] = one
        seconds[f"generate, one by one, repacked, {kind}"] = repacked
    assert decoding.problems({"ways": ways(seconds, "answers")}) == [
        "generate, one by one, zero-shot: the course is 4.5 times as fast, below 5",
        "generate, one by one, repacked, zero-shot: the course is 2.8 times as fast, below 3",
    ]


def speeds(alone, beside_one):
    """A fictitious report of the course's speeds: alone, and beside one neighbour."""
    rates = {neighbours.BEFORE: (1000, 100, 100), neighbours.COURSE: (alone, beside_one, 100)}
    units = {"training": "tokens", "answering": "answers", "codec": "weights"}
    return {
        "ways": {
            f"{setting}, {name}": {"pieces": [{unit: r, "seconds": 1} for r in rates[setting]]}
            for setting in rates
            for name, unit in units.items()
        }
    }


def test_course_that_a_neighbour_slows_down_too_much_is_a_problem():
    assert neighbours.problems(speeds(970, 500)) == []
    assert neighbours.problems(speeds(960, 490))[::3] == [
        "training, neighbours: 0: 96%, below 97%",
        "training, neighbours: 1: 49%, below 50%",
    ]


def results(**rights):
    """Fictitious results: for each way, how many of 40 stories have the right section and style."""
    n = 40
    return {
        name: {
            "scores": {
                "valid_json": [1.0] * n,
                "section_right": [1.0] * section + [0.0] * (n - section),
                "house_style": [1.0] * style + [0.0] * (n - style),
            },
            **({"losses": []} if name.startswith("tuned") else {"prompt tokens": 99.6}),
        }
        for name, (section, style) in rights.items()
    }


def test_tuning_that_is_not_better_than_a_prompt_is_a_problem():
    prompts = {quality.LECTURE: (8, 8), "8-shot": (12, 24)}

    def problems(*tuned):
        return quality.problems({"results": results(**prompts, **{"tuned, seed 0": tuned})})

    assert problems(30, 25) == []
    assert problems(30, 24) == ["tuned, seed 0: house style is no better than 8-shot"]
    # 5 stories gained and none lost: p = 0.06.
    assert problems(17, 25) == ["tuned, seed 0: sections are not better than 8-shot beyond chance"]
    assert problems(30, 13) == [
        f"tuned, seed 0: house style is not better than {quality.LECTURE} beyond chance",
        "tuned, seed 0: house style is no better than 8-shot",
    ]


def test_tables_of_quality_have_a_row_for_each_way_and_each_comparison():
    found = results(**{quality.LECTURE: (8, 8), "tuned, seed 0": (30, 25)})
    found[quality.WITHOUT_MODEL] = {"scores": {"section_right": [1.0] * 20 + [0.0] * 20}}
    rows = quality.table(found).splitlines()[2:]
    assert rows[0].startswith(f"| {quality.LECTURE} | 100% (91–100) | 20% (10–35) |")
    assert rows[0].endswith("| 100 |")
    assert rows[2] == "| character n-grams |  | 50% (35–65) |  |  |  |"
    rows = quality.comparisons(found).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [
        f"| tuned, seed 0, against {quality.LECTURE}",
        "| tuned, seed 0, against character n-grams",
    ]
    assert "gained 22, lost 0, p < 0.001" in rows[0]
    assert rows[1].endswith("gained 10, lost 0, p = 0.002 |  |")


def test_share_compares_turns_of_the_same_round():
    # The rates in two rounds, by the number of neighbours.
    rates = {0: (100, 200), 1: (50, 20), 2: (10, 10)}
    pieces = [{"tokens": rates[n][k], "seconds": 1} for k in (0, 1) for n in neighbours.NEIGHBOURS]
    way = {"pieces": pieces, "peak": 1}
    report = {"ways": {f"{setting}, training": way for setting in neighbours.SETTINGS}}
    assert neighbours.share(report, neighbours.COURSE, "training", 0) == 1
    # The median of 50 / 100 and 20 / 200.
    assert neighbours.share(report, neighbours.COURSE, "training", 1) == 0.3


def test_busy_programs_run_until_the_end_of_the_block():
    before = psutil.Process().children()
    with neighbours.busy(2):
        programs = [child for child in psutil.Process().children() if child not in before]
        assert len(programs) == 2
    assert not any(program.is_running() for program in programs)


# --- an image for Binder --------------------------------------------------------------------------


def test_table_of_sizes_lists_the_largest_and_sums_the_others():
    sizes = {f"package-{n}": n * 1_000_000 for n in range(13, 0, -1)}
    lines = image_size.table({"packages": sizes, "model": 9_000_000}).splitlines()
    assert lines[2] == "| package-13 | 13.00 MB |"
    assert lines[11:] == [
        "| package-4 | 4.00 MB |",
        "| 3 more packages | 6.00 MB |",
        "| the model | 9.00 MB |",
        "| **together** | 100.00 MB |",
    ]


def test_closure_follows_extras_and_markers(tmp_path, monkeypatch):
    packages = {
        "first-one": ["second_one[quick]>=1", 'windows-only; sys_platform == "win32"'],
        "second-one": ['third-one; extra == "quick"', 'fourth-one; extra == "slow"', "first-one"],
        "third-one": [],
        "fourth-one": [],
    }
    for name, lines in packages.items():
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        metadata = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {line}" for line in lines)]
        (folder / "METADATA").write_text("\n".join(metadata))
    monkeypatch.syspath_prepend(tmp_path)
    assert image_size.closure(["First.One>=1"]) == {"first-one", "second-one", "third-one"}
    assert image_size.closure(["second-one[slow]"]) == {
        "first-one",
        "second-one",
        "third-one",
        "fourth-one",
    }
    with pytest.raises(CourseError, match="windows-only is not installed: run"):
        image_size.closure(["fourth-one", "windows-only>=1"])


def test_requirements_leave_out_pips_options(tmp_path):
    environment = tmp_path / "environment.yml"
    environment.write_text(
        "dependencies:\n- python=3.11\n- pip\n- pip:\n  - --constraint pins.txt\n  - torch>=2.11\n"
    )
    assert image_size.requirements(environment) == ["torch>=2.11"]


def test_installed_bytes_sums_the_files_that_pip_recorded(tmp_path, monkeypatch):
    package, record = tmp_path / "tiny_one", tmp_path / "tiny_one-1.0.dist-info"
    package.mkdir()
    record.mkdir()
    (package / "a.py").write_bytes(b"x" * 300)
    (package / "of another package").write_bytes(b"x" * 1000)
    (record / "METADATA").write_text("Name: tiny-one\nVersion: 1.0\n")
    lines = "tiny_one/a.py,,\ntiny_one/deleted.py,,\ntiny_one-1.0.dist-info/RECORD,,\n"
    (record / "RECORD").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)
    assert image_size.installed_bytes("tiny-one") == 300 + len(lines)


def test_torch_with_cuda_is_not_measured(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(CourseError, match="torch was built for CUDA"):
        next(image_size.measure())


# --- bigger machines ------------------------------------------------------------------------------


def test_tables_agree_with_the_calculator():
    seventy = bigger_machines.MODELS[-1]
    # The 16-bit files of Llama 2 70B have twice as many bytes.
    assert seventy.parameters == 68_976_648_192
    run = estimate(
        seventy, "qlora", sequence_length=1024, rank=16, targets="all-linear", recipe="autocast",
        compute_dtype="bfloat16", double_quant=True, upcast=False, keep_output=False,
        gpus=8, sharding="fsdp",
    )  # fmt: skip
    # Bytes (B) of embedding and head. The estimate includes one eighth of them.
    tables = 2 * 32_000 * 8_192 * 2
    expected = run.total + tables - tables // 8
    assert bigger_machines.peak_on_each(seventy, "QLoRA", 8) == expected
    assert f"| {expected / GiB:.1f}, **T4** |" in bigger_machines.peak_table({})


def test_smallest_card_has_room_for_the_size():
    assert bigger_machines.smallest_card(usable_bytes("T4")) == "T4"
    assert bigger_machines.smallest_card(usable_bytes("T4") + 1) == "RTX 4090"
    assert bigger_machines.smallest_card(10**12) == "–"


# --- LoRA against full fine-tuning ----------------------------------------------------------------


def finished_runs(losses, way="full", seed=0):
    """Return runs of one way with a validation loss for each learning rate."""
    return [
        {"way": way, "learning_rate": rate, "seed": seed, "validation": loss}
        for rate, loss in losses.items()
    ]


def all_runs(monkeypatch, rates, validation_loss):
    """Return (learning rate, seed) of all runs of a benchmark with one way, in their order."""
    way = lora_against_full.Way(None, 1, rates)
    monkeypatch.setattr(lora_against_full, "WAYS", {"full": way})
    runs = []
    for _, rate, seed in lora_against_full.missing(runs):
        runs += finished_runs({rate: validation_loss(rate)}, seed=seed)
        assert len(runs) < 20
    return [(run["learning_rate"], run["seed"]) for run in runs]


def test_every_learning_rate_runs_with_all_seeds(monkeypatch):
    runs = all_runs(monkeypatch, (1.0, 2.0, 4.0), lambda rate: abs(rate - 2))
    assert runs == [(rate, seed) for seed in (0, 1, 2) for rate in (1.0, 2.0, 4.0)]


@pytest.mark.parametrize(
    ("best", "rates"), [(4.0, (1.0, 2.0, 4.0, 8.0)), (0.5, (1.0, 2.0, 0.5, 0.25))]
)
def test_rates_beyond_the_best_are_tried_on_both_sides(monkeypatch, best, rates):
    runs = all_runs(monkeypatch, (1.0, 2.0), lambda rate: abs(rate - best))
    assert runs == [(rate, seed) for seed in (0, 1, 2) for rate in rates]


def test_run_that_stopped_is_not_the_best():
    runs = finished_runs({1.0: None, 2.0: 3.0, 4.0: None})
    assert lora_against_full.best_rate(runs, "full") == 2.0


def test_best_rate_has_the_lowest_median():
    runs = finished_runs({1.0: 2.0, 2.0: 1.0})
    for seed in (1, 2):
        runs += finished_runs({1.0: 2.0, 2.0: 3.0}, seed=seed)
    assert lora_against_full.best_rate(runs, "full") == 1.0


def test_a_way_whose_runs_all_stop_ends(monkeypatch):
    runs = all_runs(monkeypatch, (1.0, 2.0), lambda rate: None)
    assert runs == [(rate, seed) for seed in (0, 1, 2) for rate in (1.0, 2.0, 0.5)]


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (2, 2), (None, 9)])
def test_the_limit_is_the_number_of_new_runs(monkeypatch, limit, count):
    way = lora_against_full.Way(None, 1, (1.0, 2.0, 4.0))
    monkeypatch.setattr(lora_against_full, "WAYS", {"full": way})
    monkeypatch.setattr(lora_against_full, "saved_runs", list)
    monkeypatch.setattr(lora_against_full, "Losses", lambda: SimpleNamespace(base={}))
    monkeypatch.setattr(
        lora_against_full,
        "measure_run",
        lambda name, rate, seed, _: finished_runs({rate: abs(rate - 2)}, name, seed)[0],
    )
    reports = list(lora_against_full.measure(limit))
    assert len(reports) == count and all(len(r["runs"]) == count for r in reports)


def test_saved_runs_are_not_repeated(monkeypatch):
    way = lora_against_full.Way(None, 1, (1.0, 2.0, 4.0))
    monkeypatch.setattr(lora_against_full, "WAYS", {"full": way})
    saved = finished_runs({1.0: 3.0, 2.0: 1.0}) + finished_runs({1.0: 1.0}, seed=1)
    assert next(lora_against_full.missing(saved)) == ("full", 4.0, 0)
    saved += finished_runs({4.0: 3.0})
    assert next(lora_against_full.missing(saved)) == ("full", 2.0, 1)


def test_loss_of_a_model_counts_answer_tokens_only(model, tokenizer):
    prompt, answer = [5, 6, 7, 8], [9, 10]
    example = {"input_ids": prompt + answer, "labels": [-100] * 4 + answer}
    logits = model(torch.tensor([example["input_ids"]])).logits[0, 3:5].float()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(answer)).item()
    assert lora_against_full.loss(model, [example] * 3, tokenizer) == pytest.approx(expected, 1e-4)


def test_table_of_an_interrupted_comparison_leaves_out_ways_without_runs():
    run = {"way": "full", "learning_rate": 1e-4, "seed": 0, "trained": 1000}
    losses = {"validation": 1.5, "target": 1.25, "source": 2.5}
    table = lora_against_full.table({"base": losses, "runs": [run | losses]})
    assert table.splitlines()[3:] == ["| full | 1,000 | 0.0001 | 1.250 | 2.500 |"]


def test_runs_that_stopped_are_in_the_table():
    losses = {"validation": 1.5, "target": 1.25, "source": 2.5}
    run = {"way": "full", "learning_rate": 1e-4, "trained": 1000, "seed": 0} | losses
    stopped = run | {"seed": 1} | dict.fromkeys(losses) | {"stopped": "the loss is nan"}
    report = {"base": losses, "runs": [run | {"seconds": 7.2}, stopped]}
    table = lora_against_full.table(report).splitlines()
    assert table[3:] == ["| full | 1,000 | 0.0001 | 1.250, stopped | 2.500, stopped |"]
    assert lora_against_full.conditions(report).endswith("based on 2 runs of 7 to 7 s.")
    assert lora_against_full.conditions(report | {"runs": [stopped]}).endswith("on 1 runs.")
