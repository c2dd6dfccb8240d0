"""What README and docs quote is what the benchmarks wrote, and it holds what the course claims."""

import doctest
import importlib.util
import itertools
import json
import os
import re
import shutil
import socket
import statistics
import sys
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import (
    calculators,
    codec,
    decoding,
    grading,
    neighbours,
    quality,
    scaling,
    startup,
    training,
    turns,
)
from benchmarks.reports import load_report
from course_utils.evaluation import Interval, beyond
from course_utils.memory import PRESETS, ModelShape, estimate
from course_utils.validation import CourseError
from tests.conftest import make_model


@pytest.fixture(scope="module")
def report():
    return load_report(quality.JSON)


def scores(result):
    return {metric: Interval(*values) for metric, values in result["scores"].items()}


def test_readme_and_page_quote_the_measured_table(report):
    readme = quality.README.read_text(encoding="utf-8")
    assert quality.quoted(readme, report) == readme
    page = Path(quality.RESULTS / "quality.md").read_text(encoding="utf-8")
    assert page == quality.page(report)


def test_a_changed_number_would_be_noticed(report):
    name = next(iter(report["results"]))
    changed = json.loads(json.dumps(report))
    changed["results"][name]["scores"]["valid_json"] = [0.5, 0.4, 0.6]
    readme = quality.README.read_text(encoding="utf-8")
    assert quality.quoted(readme, changed) != readme


def test_every_seed_beats_prompting_beyond_chance(report):
    tuned = [scores(r) for r in report["results"].values() if "losses" in r]
    prompts = {n: scores(r) for n, r in report["results"].items() if "losses" not in r}
    assert len(tuned) >= 3 and len(prompts) >= 3
    for seed in tuned:
        assert seed["valid_json"].mean >= 0.95
        assert all(beyond(seed["section_right"], p["section_right"]) for p in prompts.values())
        assert all(seed["house_style"].mean > p["house_style"].mean for p in prompts.values())
        in_the_lecture = prompts["3-shot (lecture 07)"]
        assert beyond(seed["house_style"], in_the_lecture["house_style"])


# --- memory calculators ---------------------------------------------------------------------------

TABLES = ("t4", "weights", "saved", "peaks")
TINYLLAMA = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
SERVED = {TINYLLAMA: PRESETS["tinyllama-1.1b"] | {"architectures": ["LlamaForCausalLM"]}}


@pytest.fixture(scope="module")
def compared():
    return load_report(calculators.JSON)


def test_the_docs_quote_what_the_calculators_said(compared):
    docs = calculators.PAGE.read_text(encoding="utf-8")
    assert calculators.quoted(docs, compared) == docs
    page = (calculators.RESULTS / "calculators.md").read_text(encoding="utf-8")
    assert page == calculators.page(compared)


def test_the_readme_quotes_the_worst_error_on_the_t4(compared):
    worst = max(abs(error) for error in calculators.errors(compared["t4"], "this course"))
    readme = (calculators.PAGE.parent.parent / "README.md").read_text(encoding="utf-8")
    assert f"its worst error is {worst:.2%}" in readme


@pytest.mark.parametrize("table", TABLES)
def test_a_changed_figure_would_be_noticed(table, compared):
    docs = calculators.PAGE.read_text(encoding="utf-8")
    changed = json.loads(json.dumps(compared))
    changed[table][0]["measured"] *= 2
    assert calculators.quoted(docs, changed) != docs


@pytest.mark.parametrize("table", TABLES)
def test_the_quoted_figures_are_what_our_calculator_says_today(table, compared):
    presets = calculators.PRESET_OF | {calculators.SMALL: "smollm2-135m"}
    part = {"weights": "weights", "saved": "activations"}.get(table, "total")
    for row in compared[table]:
        today = estimate(presets[row["model"]], row["method"], **row["options"])
        assert getattr(today, part) == row["this course"], row["case"]


def test_the_table_of_the_t4_holds_every_measured_row(compared):
    measured = [row["measured"] for row in compared["t4"]]
    assert measured == [case["measured"] for case in calculators.t4_cases()]
    assert len(measured) == 10


def test_our_calculator_keeps_its_promises_and_is_the_nearest(compared):
    worst = {"t4": 0.015, "weights": 0.0, "saved": 0.01, "peaks": 0.01}
    for table, bar in worst.items():
        ours = [abs(error) for error in calculators.errors(compared[table], "this course")]
        assert len(ours) == len(compared[table]) and max(ours) <= bar
        for other in ("fitcheck", "accelerate"):
            rows = [row for row in compared[table] if row[other] is not None]
            theirs = calculators.errors(rows, other)
            same_rows = calculators.errors(rows, "this course")
            assert sum(map(abs, same_rows)) <= sum(map(abs, theirs)), (table, other)


def test_a_table_says_errors_and_what_is_not_modelled():
    rows = [
        {"case": case, "measured": size, "this course": size, "fitcheck": said, "accelerate": None}
        for case, size, said in (("a", 2**20, 2**19), ("b", 2**21, 2**22))
    ]
    lines = calculators.table(rows).splitlines()
    assert lines[2] == "| a | 1.0 | 1.0 (0.00%) | 0.5 (-50.00%) | not modelled |"
    assert lines[4] == "| **mean error** | | **0.00%** | **75.00%** | – |"
    assert lines[5] == "| **worst error** | | **0.00%** | **100.00%** | – |"


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


def test_fitcheck_answers_from_the_hub_on_this_machine(compared):
    pytest.importorskip("fitcheck", reason="needs the extra `bench`")
    case = next(calculators.t4_cases())
    question = [case["model"], calculators.fitcheck_options(case)]
    answers = calculators.ask_peers({"fitcheck": [question], "accelerate": []}, SERVED)
    assert answers["fitcheck"][0]["tensors"] == compared["t4"][0]["fitcheck"]


def test_a_fault_of_the_other_calculators_is_told():
    with pytest.raises(RuntimeError, match="nobody/nothing"):
        calculators.ask_peers({"fitcheck": [], "accelerate": ["nobody/nothing"]}, SERVED)


def test_without_the_extra_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["calculators.py"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install -e '.\[bench\]'"):
        calculators.main()


def test_saved_and_peak_bytes_of_a_tiny_model_are_as_estimated():
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    calculators.step(model, optimizer, 4)
    options = {"recipe": "fp32", "device": "cpu", "gradient_checkpointing": False}
    predicted = estimate(model.config.to_dict(), "full", sequence_length=200, **options)
    assert calculators.saved_bytes(model, 200) == pytest.approx(predicted.activations, rel=0.01)
    assert calculators.peak_bytes(model, optimizer, 200) == pytest.approx(predicted.total, rel=0.01)


def test_the_examples_of_the_docs_are_true():
    docs = calculators.PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", docs, re.S)
    assert len(blocks) >= 6
    examples = doctest.DocTestParser().get_doctest("".join(blocks), {}, "docs", None, 0)
    told = []
    result = doctest.DocTestRunner().run(examples, out=told.append)
    assert result.attempted > 15 and not result.failed, "".join(told)


# --- the codec ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec_report():
    return load_report(codec.JSON)


def test_codec_page_quotes_the_measurement(codec_report):
    page = (codec.RESULTS / "codec.md").read_text(encoding="utf-8")
    assert page == codec.page(codec_report)
    assert codec_report["shape"][0] * codec_report["shape"][1] == 10**7
    assert len(codec_report["cases"]) == 6
    for entry in codec_report["cases"]:
        assert entry["bit-identical"] and entry["bytes"] == entry["bitsandbytes bytes"]


def test_codec_is_fast_enough_where_the_page_does_not_say_otherwise(codec_report):
    (missed,) = re.findall(r"Below the target of 0.5: (.*)\.\n", codec.page(codec_report))
    for entry in codec_report["cases"]:
        there_and_back = [sum(t[name] for t in entry["seconds"].values()) for name in codec.NAMES]
        assert there_and_back[1] / there_and_back[0] > codec.TARGET
        for way, times in entry["seconds"].items():
            named = f"{way} {codec.case_name(entry)}" in missed.split("; ")
            assert named == (codec.speed(times) < codec.TARGET)


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


# --- grading --------------------------------------------------------------------------------------


def test_grading_page_quotes_the_measurement():
    measured = load_report(grading.JSON)
    assert (grading.RESULTS / "grading.md").read_text(encoding="utf-8") == grading.page(measured)
    sides, graded = measured["side by side"], measured["class"]
    assert sides["nbgrader"]["seconds"] >= grading.TARGET * max(sides["ours"]["seconds"])
    assert graded["records"] == graded["submissions"] == 1000
    assert max(graded["drift"].values()) <= grading.DRIFT
    assert min(map(len, graded["kinds"].values())) > 0


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
def test_grading_is_measured_on_few_submissions(monkeypatch, capsys):
    if not shutil.which("bwrap"):
        pytest.skip("there is no bubblewrap")
    monkeypatch.setattr("sys.argv", ["grading.py", "--quick"])
    grading.main()
    told = capsys.readouterr().out
    assert "The same points in all 24 graded cells" in told and "20 records: " in told
    assert "graded the other" in told


# --- start-up -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def startup_report():
    return load_report(startup.JSON)


def test_startup_page_quotes_the_measurement(startup_report):
    page = (startup.RESULTS / "startup.md").read_text(encoding="utf-8")
    assert page == startup.page(startup_report)
    assert set(startup_report["seconds"]) == {startup.BARE, startup.IMPORTED, *startup.TARGETS}
    for times in startup_report["seconds"].values():
        assert len(times) == startup_report["rounds"] == startup.ROUNDS


def test_every_start_was_within_its_target(startup_report):
    assert startup.missed(startup_report) == []
    assert "All reach their targets." in startup.page(startup_report)
    assert list(startup.TARGETS.values()) == [0.1, 0.3, 2.0, 5.0]


def test_a_late_start_is_told(startup_report):
    late = json.loads(json.dumps(startup_report))
    helped = late["seconds"]["`course --help`"]
    helped[:2] = [9.0, 9.0]  # the median is what counts
    assert startup.missed(late) == []
    helped[:] = [0.301] * len(helped)
    assert "Later than its target: `course --help`." in startup.page(late)


def test_the_first_round_warms_up_and_the_import_is_a_difference_in_each():
    bare = iter([9.0, 1.0, 2.0, 3.0])

    def once():
        seconds = next(bare)
        return {startup.BARE: (seconds, 0.0), startup.IMPORTED: (1.25 * seconds, 0.5)}

    report = startup.measured(once, rounds=3, set_up=False)
    assert report["seconds"][startup.BARE] == [1.0, 2.0, 3.0]
    assert report["seconds"][startup.IMPORT] == [0.25, 0.5, 0.75]
    assert report["processor"][startup.IMPORT] == [0.5, 0.5, 0.5]


def notebook_of(folder, *sources):
    """A notebook of code cells."""
    cells = [{"cell_type": "code", "source": [source]} for source in sources]
    path = folder / "lecture.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
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


# --- speed ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[training, decoding], ids=["training", "decoding"])
def speeds(request):
    """A benchmark with its last report."""
    return request.param, load_report(request.param.JSON)


def test_the_page_on_speed_quotes_what_was_measured(speeds):
    module, report = speeds
    docs = turns.PAGE.read_text(encoding="utf-8")
    assert module.quoted(docs, report) == docs
    assert module.JSON.with_suffix(".md").read_text(encoding="utf-8") == module.page(report)
    for result in report["ways"].values():
        result["peak"] *= 2
    assert module.quoted(docs, report) != docs


def middle(report, module, ours, theirs):
    """Median of how many times as fast one way is as another."""
    pieces = (report["ways"][way]["pieces"] for way in (ours, theirs))
    return statistics.median(turns.ratios(*pieces, module.rate))


@pytest.mark.parametrize("setting", ["", ", no checkpointing"])
def test_training_reaches_its_target(setting):
    report = load_report(training.JSON)
    ways = report["ways"]
    for peer in ("SFTTrainer", "Trainer"):
        ratio = middle(report, training, f"course{setting}", f"{peer}{setting}")
        assert ratio >= training.TARGET, peer
        assert ways[f"course{setting}"]["peak"] < ways[f"{peer}{setting}"]["peak"]


def test_decoding_reaches_its_target():
    report = load_report(decoding.JSON)
    for kind in decoding.PROMPTS:
        ratio = middle(report, decoding, f"course, {kind}", f"generate, one by one, {kind}")
        assert ratio >= decoding.TARGET
        repacked = f"generate, one by one, repacked, {kind}"  # after which nothing can be trained
        assert middle(report, decoding, f"course, {kind}", repacked) > 2


def test_a_busy_neighbour_doesn_t_stop_the_course():
    report = load_report(neighbours.JSON)
    for name in neighbours.WORK:
        assert neighbours.share(report, neighbours.COURSE, name, 0) >= neighbours.QUIET
        assert neighbours.share(report, neighbours.COURSE, name, 1) >= neighbours.BESIDE_ONE
        assert neighbours.share(report, neighbours.BEFORE, name, 1) < neighbours.BESIDE_ONE


def test_the_page_on_speed_quotes_what_was_measured_beside_neighbours():
    report = load_report(neighbours.JSON)
    docs = turns.PAGE.read_text(encoding="utf-8")
    assert neighbours.quoted(docs, report) == docs
    assert neighbours.JSON.with_suffix(".md").read_text(encoding="utf-8") == neighbours.page(report)


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


def test_each_part_of_the_taken_apart_loop_was_measured():
    report = load_report(training.JSON)
    assert len(report["parts"]) == len(training.CHANGES) == 6
    first, last = (list(report["parts"].values())[n]["pieces"] for n in (0, -1))
    assert statistics.median(turns.ratios(last, first, training.rate)) > 1.5
    losses = [[piece["loss"] for piece in part["pieces"]] for part in report["parts"].values()]
    for other in losses[1:]:  # the same batches; bfloat16 rounds otherwise each time
        assert other == pytest.approx(losses[0], rel=0.1)


# --- scaling --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grown():
    return load_report(scaling.JSON)


def test_the_page_on_speed_shows_how_it_scales(grown):
    docs = turns.PAGE.read_text(encoding="utf-8")
    assert scaling.quoted(docs, grown) == docs
    assert scaling.JSON.with_suffix(".md").read_text(encoding="utf-8") == scaling.page(grown)
    assert all((scaling.IMAGES / f"scaling-{name}.png").is_file() for name in scaling.PICTURES)


@pytest.mark.parametrize(
    "part, column", [("training", "tokens/s"), ("memory", "measured"), ("grading", "seconds")]
)
def test_another_measurement_changes_picture_and_table(grown, part, column):
    changed = json.loads(json.dumps(grown))
    last = changed[part][-1]
    last[column] = [9.0] if column == "tokens/s" else 2 * last[column]
    assert scaling.PICTURES[part](changed).alt != scaling.PICTURES[part](grown).alt
    assert scaling.TABLES[part](changed) != scaling.TABLES[part](grown)


def test_every_case_of_scaling_was_measured(grown):
    assert [(row["examples"], row["threads"]) for row in grown["training"]] == list(
        itertools.product(scaling.BATCHES, scaling.THREADS)
    )
    assert [(row["checkpointing"], row["tokens"]) for row in grown["memory"]] == list(
        itertools.product((False, True), scaling.LENGTHS)
    )
    assert [(row["submissions"], row["workers"]) for row in grown["grading"]] == list(
        itertools.product(scaling.CLASSES, scaling.WORKERS)
    )


def test_more_examples_make_training_faster_and_a_second_thread_worth_more(grown):
    lines = {
        threads: [statistics.median(row["tokens/s"]) for row in rows]
        for threads, rows in scaling.each(grown["training"], "threads").items()
    }
    assert all(line == sorted(line) for line in lines.values())
    gains = [two / one for one, two in zip(lines[1], lines[2], strict=True)]
    assert min(gains) > 1.1 and gains[-1] > gains[0] + 0.2


def test_workers_pay_in_large_classes_and_up_to_the_cores(grown):
    runs = {(row["submissions"], row["workers"]): row for row in grown["grading"]}
    assert all(runs[5, n]["ready"] > runs[5, n]["seconds"] / 2 for n in scaling.WORKERS)
    one, two, four = (scaling.a_minute(runs[160, n]) for n in (1, 2, 4))
    assert two > 1.3 * one and four < 1.15 * two


def test_the_calculator_says_today_what_is_drawn_over_the_measured_peaks(grown):
    method, options = calculators.SETTINGS[scaling.SETTING]
    for row in grown["memory"]:
        step = {"sequence_length": row["tokens"], "gradient_checkpointing": row["checkpointing"]}
        assert estimate("smollm2-135m", method, **options, **step).total == row["estimated"]
        assert row["estimated"] == pytest.approx(row["measured"], rel=0.001)


def test_workers_are_what_a_grading_run_is_told(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(grading, "grade", lambda *given: told.append(given))
    for more in ({}, {"workers": 4}):
        monkeypatch.setattr("sys.argv", grading.ours(tmp_path, "08", **more)[1:])
        grading.main()
    assert told == [(tmp_path, "08", "default", 0), (tmp_path, "08", "default", 4)]


# --- the command ----------------------------------------------------------------------------------


def test_every_benchmark_can_be_named_and_says_what_it_is():
    listed = bench.usage().splitlines()[2:]
    assert [line.split()[0] for line in listed] == list(bench.NAMES)
    assert all(len(line) > 30 for line in listed)
