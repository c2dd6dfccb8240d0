"""The benchmarks: how they are run, how they measure, what they call a missed target."""

import ast
import doctest
import importlib.util
import json
import os
import re
import shutil
import socket
import sys
from importlib.metadata import distribution
from pathlib import Path

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
    neighbours,
    quality,
    runner,
    startup,
    training,
)
from course_utils.figures import loss_curve
from course_utils.memory import PRESETS, ModelShape, estimate, usable_bytes
from course_utils.units import GiB
from course_utils.validation import CourseError
from tests.conftest import make_model

# --- the runner -----------------------------------------------------------------------------------


@pytest.fixture
def course(monkeypatch, tmp_path):
    """A folder in the place of the course, with a page that quotes the benchmark `speed`."""
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
    """A made-up benchmark in the place of every other; by default it measures 3 m/s."""

    def measure(save):
        return {"date": "2026-11-27", "machine": "a machine", "speed": 3}

    made = {
        "measure": measure,
        "tables": {"table": lambda report: f"| {report['speed']} m/s |"},
        "pictures": {"curve": lambda report: loss_curve([])},
        "conditions": lambda report: "Downhill.",
        "problems": lambda report: ["too slow"] if report["speed"] < 3 else [],
    }
    benchmark = runner.Benchmark(**made | options)
    monkeypatch.setattr(runner, "find", lambda name: benchmark)


def test_a_report_is_saved_and_quoted_where_its_marks_are(course, monkeypatch, capsys):
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
    whole = (course / "build" / "speed.md").read_text()
    assert whole == (
        f"# How fast it is.\n\n## table\n\n| 3 m/s |\n\n![{alt}](speed-curve.png)\n\n{made}\n"
    )
    assert whole in capsys.readouterr().out
    for place in ("build/speed-curve.png", "docs/images/speed-curve.png"):
        assert (course / place).read_bytes().startswith(b"\x89PNG")


def test_another_folder_leaves_the_docs_as_they_are(course, monkeypatch):
    speed(monkeypatch)
    before = (course / "docs" / "page.md").read_text()
    assert runner.run("speed", ["--output", str(course / "aside")]) == 0
    written = {path.name for path in (course / "aside").iterdir()}
    assert written == {"speed.json", "speed.md", "speed-curve.png"}
    assert (course / "docs" / "page.md").read_text() == before
    assert not (course / "build").exists()


def test_texts_are_made_from_the_last_report(course, monkeypatch, capsys):
    def never(save):
        raise AssertionError("something was measured")

    speed(monkeypatch, measure=never)
    assert runner.run("speed", ["--texts"]) == 1
    assert "there is no report in" in capsys.readouterr().err
    (course / "build").mkdir()
    (course / "build" / "speed.json").write_text('{"speed": 5}')
    assert runner.run("speed", ["--texts"]) == 0
    assert "| 5 m/s |" in (course / "docs" / "page.md").read_text()


def test_a_missed_target_is_the_exit_status(course, monkeypatch, capsys):
    speed(monkeypatch, measure=lambda save: {"speed": 2})
    assert runner.run("speed", []) == 1
    assert capsys.readouterr().err == "too slow\n"
    assert "- too slow\n" in (course / "build" / "speed.md").read_text()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (CourseError("the road is closed"), "the road is closed\n"),
        (KeyboardInterrupt(), "Interrupted: what was saved before is kept.\n"),
    ],
)
def test_what_was_saved_before_a_fault_is_kept(course, monkeypatch, capsys, fault, words):
    def stops(save):
        save({"speed": 4})
        raise fault

    speed(monkeypatch, measure=stops)
    assert runner.run("speed", []) == 1
    assert capsys.readouterr().err == words
    assert "| 4 m/s |" in (course / "docs" / "page.md").read_text()


def test_nothing_to_measure_is_one_sentence_and_no_failure(course, monkeypatch, capsys):
    def nothing(save):
        raise runner.NothingToMeasure("there is no road here")

    speed(monkeypatch, measure=nothing)
    assert runner.run("speed", []) == 0
    assert capsys.readouterr().out == "there is no road here\n"
    assert not (course / "build").exists()


def test_a_benchmark_has_options_of_its_own(course, monkeypatch):
    def add_options(parser):
        parser.add_argument("--gear", type=int, default=1)

    speed(monkeypatch, measure=lambda save, gear: {"speed": 3 * gear}, add_options=add_options)
    assert runner.run("speed", ["--gear", "2"]) == 0
    assert json.loads((course / "build" / "speed.json").read_text()) == {"speed": 6}


def test_each_mark_of_a_benchmark_in_readme_and_docs_is_made_by_it():
    made = set()
    for name in runner.names():
        benchmark = runner.find(name)
        made |= {f"{name} {key}" for key in (*benchmark.tables, "made")}
        made |= {f"{name} {key} picture" for key in benchmark.pictures}
    quoted = set()
    for path in (runner.ROOT / "README.md", *runner.DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        begun = re.findall("<!-- (.*): begin -->", text)
        assert begun == re.findall("<!-- (.*): end -->", text)
        quoted |= {mark for mark in begun if mark.split()[0] in runner.names()}
    assert quoted <= made and len(quoted) > 30


def test_every_benchmark_can_be_named_and_says_what_it_is():
    listed = [line for line in bench.usage().splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in listed] == runner.names()
    assert set(bench.SUITE) <= set(runner.names())
    assert all(len(line) > 30 for line in listed)


def test_no_helper_of_the_tests_imports_a_benchmark():
    """Benchmarks import the tests' helpers; the other way round would be a circle."""
    helpers = [path for path in (runner.ROOT / "tests").rglob("*.py") if path.name[:5] != "test_"]
    assert len(helpers) > 10
    for path in helpers:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "benchmarks"], path


# --- memory calculators ---------------------------------------------------------------------------

TINYLLAMA = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
SERVED = {TINYLLAMA: PRESETS["tinyllama-1.1b"] | {"architectures": ["LlamaForCausalLM"]}}


def test_a_table_says_errors_and_what_is_not_modelled():
    rows = [
        {"case": case, "measured": size, "this course": size, "fitcheck": said, "accelerate": None}
        for case, size, said in (("a", 2**20, 2**19), ("b", 2**21, 2**22))
    ]
    lines = calculators.table(rows).splitlines()
    assert lines[2] == "| a | 1.0 | 1.0 (0.00%) | 0.5 (-50.00%) | not modelled |"
    assert lines[4] == "| **mean error** | | **0.00%** | **75.00%** | – |"
    assert lines[5] == "| **worst error** | | **0.00%** | **100.00%** | – |"


def test_a_calculator_that_is_worse_than_promised_or_than_a_peer_is_a_problem():
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
def test_the_hub_says_how_many_parameters_the_real_class_has(model):
    config = PRESETS[calculators.PRESET_OF[model]]
    kind = calculators.ARCHITECTURES[config["model_type"]]
    said = calculators.facts(config | {"architectures": [kind]})
    assert said["safetensors"]["total"] == ModelShape.from_config(config).parameters


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


def test_accelerate_answers_from_the_hub_on_this_machine():
    answers = calculators.ask_peers({"fitcheck": [], "accelerate": [TINYLLAMA]}, SERVED)
    shape = ModelShape.preset("tinyllama-1.1b")
    without_head = shape.parameters - shape.vocab * shape.hidden  # it builds the bare AutoModel
    (said,) = answers["accelerate"]
    assert said["float32"]["weights"] == pytest.approx(4 * without_head, rel=1e-6)
    assert said["float32"]["training"] == 4 * said["float32"]["weights"]
    assert said["int4"]["training"] is None


def test_fitcheck_answers_from_the_hub_on_this_machine():
    pytest.importorskip("fitcheck", reason="needs the extra `bench`")
    case = next(calculators.t4_cases())
    question = [case["model"], calculators.fitcheck_options(case)]
    answers = calculators.ask_peers({"fitcheck": [question], "accelerate": []}, SERVED)
    assert answers["fitcheck"][0]["tensors"] == pytest.approx(case["measured"], rel=0.05)


def test_a_fault_of_the_other_calculators_is_told():
    with pytest.raises(RuntimeError, match="nobody/nothing"):
        calculators.ask_peers({"fitcheck": [], "accelerate": ["nobody/nothing"]}, SERVED)


def test_without_the_extra_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match=r"pip install -e '.\[bench\]'"):
        calculators.measure(print)


def test_saved_and_peak_bytes_of_a_tiny_model_are_as_estimated():
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    calculators.step(model, optimizer, 4)
    options = {"recipe": "fp32", "device": "cpu", "gradient_checkpointing": False}
    predicted = estimate(model.config.to_dict(), "full", sequence_length=200, **options)
    assert calculators.saved_bytes(model, 200) == pytest.approx(predicted.activations, rel=0.01)
    assert calculators.peak_bytes(model, optimizer, 200) == pytest.approx(predicted.total, rel=0.01)


def test_the_examples_of_the_docs_are_true():
    docs = (runner.DOCS / "memory-calculator.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", docs, re.S)
    assert len(blocks) >= 6
    examples = doctest.DocTestParser().get_doctest("".join(blocks), {}, "docs", None, 0)
    told = []
    result = doctest.DocTestRunner().run(examples, out=told.append)
    assert result.attempted > 15 and not result.failed, "".join(told)


# --- the codec ------------------------------------------------------------------------------------


def test_codec_is_measured_in_turns():
    order = []
    work = (lambda: order.append("ours"), lambda: order.append("theirs"))
    times = codec.in_turns(*work, rounds=2)
    assert order == ["ours", "theirs"] * 3 and set(times) == {"ours", "bitsandbytes"}


@pytest.mark.parametrize("double_quant", [False, True])
def test_codec_case_on_few_weights(double_quant):
    entry = codec.case(torch.float16, double_quant, shape=(10, 640), rounds=1)
    assert entry["bit-identical"] and entry["bytes"] == entry["bitsandbytes bytes"]
    seconds = [t for times in entry["seconds"].values() for t in times.values()]
    assert len(seconds) == 4 and min(seconds) > 0


def test_a_codec_with_other_bits_or_too_slow_is_a_problem():
    entry = codec.case(torch.float16, False, shape=(10, 640), rounds=1)
    times = {"ours": 1.0, "bitsandbytes": 0.6}
    entry["seconds"] = {way: dict(times) for way in entry["seconds"]}
    assert codec.problems({"cases": [entry]}) == []
    entry["seconds"]["quantize"]["ours"] = 2.0
    entry["bit-identical"] = False
    assert codec.problems({"cases": [entry]}) == [
        "float16, double quantization off: not the bits and bytes of bitsandbytes",
        "float16, double quantization off: less than 0.5 times bitsandbytes' speed",
    ]


# --- grading --------------------------------------------------------------------------------------


def test_drift_tells_a_leak_from_a_level_series():
    times = [float(second) for second in range(100)]
    noise = [(7 * second) % 5 for second in range(100)]
    level = [100.0 + part for part in noise]
    leak = [100.0 + part + second for part, second in zip(noise, times, strict=True)]
    late = [300.0 if second < 50 else 100.0 for second in times]  # only the second half counts
    assert abs(grading.drift(times, level)) < 0.02
    assert grading.drift(times, leak) == pytest.approx(49 / (102 + 74.5), rel=0.05)
    assert grading.drift(times, late) == 0


def test_points_that_nobody_should_have_are_told():
    expected = {"a": ("", 7.0), "b": ("fork bomb", 6.0), "c": ("", 9.0), "d": ("fork bomb", 6.0)}
    wrong = grading.unexpected(expected, {"a": 5.0, "b": 7.0, "c": 9.0, "d": 3.0})
    assert [line.split(":")[0] for line in wrong] == ["a (honest)", "b (fork bomb)"]


def test_of_a_long_run_the_picture_shows_the_peaks():
    run = grading.Run(done=[1.0, 2.0], samples=[(n / 2, 1, n % 4 * 10**6) for n in range(1000)])
    shown = grading.series(run)
    assert len(shown) == grading.POINTS and shown[-1][1] == 2
    assert {row[3] for row in shown} == {3.0}
    short = grading.Run(samples=[(0.0, 1, 10**6), (0.5, 1, 10**7)])
    assert [row[3] for row in grading.series(short)] == [1.0, 10.0]


@pytest.mark.slow
def test_grading_is_measured_on_few_submissions():
    if not shutil.which("bwrap"):
        pytest.skip("there is no bubblewrap")
    report = grading.measure(print, {"side by side": 4, "class": 20, "killed": 12})
    text = runner.page("grading", grading.BENCHMARK, report)
    assert "the same points in all 24 graded cells" in text
    assert "20 records of 20 submissions" in text and "The next run graded the other" in text


def test_grading_that_is_slow_or_grows_is_a_problem():
    sides = {"nbgrader": {"seconds": 100.0}, "ours": {"seconds": [9.0, 10.0]}}
    report = {"side by side": sides, "class": {"drift": {"worker": 0.1, "all": -0.5}}}
    assert grading.problems(report) == []
    sides["ours"]["seconds"][0] = 12.5
    report["class"]["drift"]["worker"] = 0.2
    assert grading.problems(report) == [
        "8.0 times as fast as nbgrader, not 10",
        "memory (worker) grows by +20.0% in the second half of the run",
    ]


def test_workers_are_what_a_grading_run_is_told(tmp_path):
    command = grading.ours(tmp_path, "08", workers=4)
    assert command == [
        *(sys.executable, "-m", "benchmarks.grading"),
        *(str(tmp_path), "08", "default", "4"),
    ]


# --- start-up -------------------------------------------------------------------------------------


def test_a_late_start_is_a_problem():
    seconds = {name: [target] * 9 for name, target in startup.TARGETS.items()}
    helped = seconds["`course --help`"]
    # The median is what counts.
    helped[:2] = [9.0, 9.0]
    assert startup.problems({"seconds": seconds}) == []
    helped[:] = [0.301] * 9
    assert startup.problems({"seconds": seconds}) == ["`course --help`: 0.301 s, later than 0.3 s"]
    assert list(startup.TARGETS.values()) == [0.1, 0.3, 2.0, 5.0]


def test_the_first_round_warms_up_and_the_import_is_a_difference_in_each():
    bare = iter([9.0, 1.0, 2.0, 3.0])

    def once():
        seconds = next(bare)
        return {startup.BARE: (seconds, 0.0), startup.IMPORTED: (1.25 * seconds, 0.5)}

    report = startup.in_rounds(once, rounds=3)
    assert report["seconds"][startup.BARE] == [1.0, 2.0, 3.0]
    assert report["seconds"][startup.IMPORT] == [0.25, 0.5, 0.75]
    assert report["processor"][startup.IMPORT] == [0.5, 0.5, 0.5]


def notebook_of(folder, *sources):
    """A notebook of code cells."""
    cells = [{"cell_type": "code", "source": [source]} for source in sources]
    path = folder / "lecture.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}}), encoding="utf-8")
    return path


def test_a_lecture_is_executed_up_to_its_first_picture(tmp_path):
    shown = "from IPython.display import HTML; HTML('<img alt=bars src=bars.png>')"
    later = "import pathlib; pathlib.Path('too-far').touch()"
    seconds, processor = startup.first_picture(notebook_of(tmp_path, "'<img'", shown, later))
    assert seconds > 0 and processor > 0
    assert not (tmp_path / "too-far").exists()


@pytest.mark.parametrize(
    ("source", "fault"), [("1 / 0", "ZeroDivisionError"), ("'<img'", "no cell of lecture.ipynb")]
)
def test_a_lecture_without_a_picture_is_a_fault(tmp_path, source, fault):
    with pytest.raises(CourseError, match=fault):
        startup.first_picture(notebook_of(tmp_path, source))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"image/png": "iVBORw0KGgo"}, True),
        ({"text/plain": "bars", "text/html": '<p><img alt="bars" src="data:,"></p>'}, True),
        ({"text/plain": "<img>"}, False),
        ({"text/html": "<table></table>"}, False),
    ],
)
def test_what_counts_as_a_picture(data, expected):
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


def put_first_on_path(folder, monkeypatch, script):
    """A program `make` that is a script, started in this folder."""
    (folder / "make").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "make").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
    monkeypatch.setattr(startup, "ROOT", folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows does without make")
def test_the_lab_is_stopped_once_it_has_answered(tmp_path, monkeypatch):
    (tmp_path / "server.py").write_text(SERVER)
    put_first_on_path(tmp_path, monkeypatch, f'"{sys.executable}" server.py "$2"; touch ended')
    seconds, processor = startup.lab()
    assert seconds > 0 and processor > 0
    assert (tmp_path / "ended").exists(), "make's own end came after that of the server"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int((tmp_path / "port").read_text()))) != 0


@pytest.mark.skipif(os.name == "nt", reason="Windows does without make")
def test_a_lab_that_ends_before_it_answers_is_a_fault(tmp_path, monkeypatch):
    put_first_on_path(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(CourseError, match="doesn't lead to a server"):
        startup.lab()


def test_a_command_that_fails_is_a_fault():
    with pytest.raises(CourseError, match="no such thing"):
        startup.command(sys.executable, "-c", "raise SystemExit('no such thing')")


# --- speed and quality ----------------------------------------------------------------------------


def ways(seconds, unit, peaks=None):
    """Ways of a made-up report: one piece each, of 1000 of the unit, in these seconds."""
    return {
        way: {"pieces": [{unit: 1000, "seconds": s}], "peak": (peaks or {}).get(way, 1)}
        for way, s in seconds.items()
    }


def test_training_that_is_no_faster_or_needs_no_less_memory_is_a_problem():
    seconds = {"course": 1, "SFTTrainer": 2, "Trainer": 1.5}
    seconds |= {f"{way}, no checkpointing": s for way, s in seconds.items()}
    peaks = dict.fromkeys(seconds, 2) | {"course": 1, "course, no checkpointing": 1, "Trainer": 1}
    seconds["Trainer, no checkpointing"] = 2
    report = {"ways": ways(seconds, "tokens", peaks)}
    assert training.problems(report) == [
        "Trainer: the course is 1.5 times as fast, not 2",
        "Trainer: has no higher peak than the course",
    ]


def test_answering_that_misses_a_target_is_a_problem():
    seconds = {}
    for kind, (one, repacked) in {"few-shot": (3, 2), "zero-shot": (2.5, 1.8)}.items():
        seconds[f"course, {kind}"] = 1
        seconds[f"generate, one by one, {kind}"] = one
        seconds[f"generate, one by one, repacked, {kind}"] = repacked
    assert decoding.problems({"ways": ways(seconds, "answers")}) == [
        "generate, one by one, zero-shot: the course is 2.5 times as fast, not 3",
        "generate, one by one, repacked, zero-shot: the course is 1.8 times as fast, not 2",
    ]


def beside(alone, with_one):
    """A made-up report of the course's tokens/s alone and beside one program, of 1000."""
    rates = {neighbours.BEFORE: (1000, 100, 100), neighbours.COURSE: (alone, with_one, 100)}
    units = {"training": "tokens", "answering": "answers", "codec": "weights"}
    return {
        "ways": {
            f"{setting}, {name}": {"pieces": [{unit: r, "seconds": 1} for r in rates[setting]]}
            for setting in rates
            for name, unit in units.items()
        }
    }


def test_a_course_that_a_neighbour_stops_is_a_problem():
    assert neighbours.problems(beside(970, 500)) == []
    assert neighbours.problems(beside(960, 490))[::3] == [
        "training, 0 neighbours: 96%, not 97%",
        "training, 1 neighbours: 49%, not 50%",
    ]


def test_tuning_that_is_no_better_than_a_prompt_is_a_problem():
    def scores(section, style):
        means = {"valid_json": 1.0, "section_right": section, "house_style": style}
        return {name: (mean, mean - 0.05, mean + 0.05) for name, mean in means.items()}

    results = {
        quality.LECTURE: {"scores": scores(0.2, 0.2)},
        "8-shot": {"scores": scores(0.3, 0.6)},
        "tuned, seed 0": {"scores": scores(0.8, 0.7), "losses": []},
    }
    assert quality.problems({"results": results}) == []
    results["tuned, seed 0"]["scores"] = scores(0.8, 0.55)
    assert quality.problems({"results": results}) == [
        "tuned, seed 0: house style is no better than 8-shot"
    ]
    results["tuned, seed 0"]["scores"] = scores(0.38, 0.7)
    assert quality.problems({"results": results}) == [
        "tuned, seed 0: sections are not better than 8-shot beyond chance"
    ]


def test_a_share_compares_turns_of_the_same_round():
    rates = {0: (100, 200), 1: (50, 20), 2: (10, 10)}  # beside 0, 1, 2 neighbours, in two rounds
    pieces = [{"tokens": rates[n][k], "seconds": 1} for k in (0, 1) for n in neighbours.NEIGHBOURS]
    way = {"pieces": pieces, "peak": 1}
    report = {"ways": {f"{setting}, training": way for setting in neighbours.SETTINGS}}
    assert neighbours.share(report, neighbours.COURSE, "training", 0) == 1
    assert neighbours.share(report, neighbours.COURSE, "training", 1) == 0.3  # of 0.5 and 0.1


def test_busy_programs_are_there_and_end():
    with neighbours.busy(2):
        programs = [c for c in psutil.Process().children() if neighbours.BUSY in c.cmdline()]
        assert len(programs) == 2
    assert not any(program.is_running() for program in programs)


# --- an image for Binder --------------------------------------------------------------------------


def test_the_table_of_sizes_names_the_biggest_and_adds_up_the_others():
    sizes = {f"package-{n}": n * 1_000_000 for n in range(13, 0, -1)}
    lines = image_size.table({"packages": sizes, "model": 9_000_000}).splitlines()
    assert lines[2] == "| package-13 | 13.00 MB |"
    assert lines[11:] == [
        "| package-4 | 4.00 MB |",
        "| 3 more packages | 6.00 MB |",
        "| the model | 9.00 MB |",
        "| **together** | 100.00 MB |",
    ]


def test_requirements_are_followed_with_their_extras_and_conditions(tmp_path, monkeypatch):
    needed = {
        "first-one": ["second_one[quick]>=1", 'windows-only; sys_platform == "win32"'],
        "second-one": ['third-one; extra == "quick"', 'fourth-one; extra == "slow"', "first-one"],
        "third-one": [],
        "fourth-one": [],
    }
    for name, lines in needed.items():
        notes = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        notes.mkdir()
        metadata = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {line}" for line in lines)]
        (notes / "METADATA").write_text("\n".join(metadata))
    monkeypatch.syspath_prepend(tmp_path)
    assert image_size.closure(["First.One>=1"]) == {"first-one", "second-one", "third-one"}
    assert image_size.closure(["second-one[slow]"]) == {
        "first-one",
        "second-one",
        "third-one",
        "fourth-one",
    }
    with pytest.raises(CourseError, match="windows-only is not installed here: run"):
        image_size.closure(["fourth-one", "windows-only>=1"])


def test_the_environments_requirements_are_read_without_pips_options():
    wanted = image_size.wanted()
    assert "torch>=2.11" in wanted
    assert not [line for line in wanted if line.startswith(("-", "python"))]


def test_a_packages_files_are_counted_where_they_lie():
    folder = Path(distribution("markupsafe").locate_file("."))
    places = [*folder.glob("markupsafe/**/*"), *folder.glob("[mM]arkup[sS]afe-*/**/*")]
    noted = {Path(file.locate()).resolve() for file in distribution("markupsafe").files}
    files = [path for path in places if path.is_file() and path.resolve() in noted]
    size = sum(path.stat().st_size for path in files)
    assert len(files) > 5 and image_size.installed_bytes("markupsafe") == size


def test_a_torch_with_cuda_is_not_measured(monkeypatch):
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(CourseError, match="torch was built for CUDA here"):
        image_size.measure(print)


# --- bigger machines ------------------------------------------------------------------------------


def test_the_docs_have_the_calculators_tables_of_today():
    text = (runner.DOCS / "bigger-machines.md").read_text(encoding="utf-8")
    quotes = runner.quoted("bigger_machines", bigger_machines.BENCHMARK, {})
    quotes.pop("bigger_machines made")
    assert len(quotes) == 5 and runner.renew(text, quotes) == text


def test_the_tables_say_what_the_calculator_does():
    seventy = bigger_machines.MODELS[-1]
    assert seventy.parameters == 68_976_648_192  # Llama 2, its 16-bit files have twice the bytes
    run = estimate(
        seventy, "qlora", sequence_length=1024, rank=16, targets="all-linear", recipe="autocast",
        compute_dtype="bfloat16", double_quant=True, upcast=False, keep_output=False,
        gpus=8, sharding="fsdp",
    )  # fmt: skip
    tables = 2 * 32_000 * 8_192 * 2  # B of embedding and head: a share is in the estimate
    expected = run.total + tables - tables // 8
    assert bigger_machines.needed(seventy, "QLoRA", 8) == expected
    assert f"| {expected / GiB:.1f}, **T4** |" in bigger_machines.needs()


def test_the_smallest_card_that_holds_it():
    assert bigger_machines.smallest(usable_bytes("T4")) == "T4"
    assert bigger_machines.smallest(usable_bytes("T4") + 1) == "RTX 4090"
    assert bigger_machines.smallest(10**12) == "–"
