"""Test the measurements of lecture 08: reading them, and the benchmark that makes them."""

import copy
import json
import math
import re

import pytest
from datasets import Dataset, DatasetDict

from course_utils import evidence, forgetting, news
from course_utils.machine.validation import CourseError
from tests.conftest import make_model
from workshop.benchmarks import evidence as benchmark
from workshop.benchmarks.evidence import plan, smollm2, tables, tiny
from workshop.benchmarks.evidence.plan import Cell, Group

pytestmark = pytest.mark.usefixtures("frozen_imports")

STORIES = 96


def make_run(cell, validation=None, right=80):
    """Return the results of a run as the benchmark saves them."""
    if validation is None:
        # The best learning rate is the second, and more seeds than 0 change little.
        rates = plan.WAYS[cell.way].rates
        away = abs(math.log2((cell.learning_rate or rates[1]) / rates[1]))
        validation = 1.3 + 0.05 * away + 0.001 * (cell.seed or 0)
    digits = "1" * right + "0" * (STORIES - right)
    return {
        **vars(cell),
        **{"date": "2026-11-29", "machine": "a machine", "validation": validation, "test": 1.4},
        **{"valid_json": "1" * STORIES, "section_right": digits, "house_style": digits[::-1]},
        **{"test_losses": " ".join(["1.400"] * STORIES), "rouge_l": " ".join(["0.25"] * STORIES)},
        **{
            "trained": 2_442_240,
            "text": 3.3,
            "chat": 1.2,
            "questions_right": "10" * 20,
            "news_json": "0" * 40,
        },
    }


def all_runs(groups=plan.GROUPS):
    """Return a run of each cell of the plan."""
    runs = [make_run(cell) for cell in plan.UNTRAINED]
    while cells := [cell for group in groups for cell in group.missing(runs)]:
        runs += map(make_run, cells)
    return runs


def all_trials():
    """Return a row of each trial; the best learning rate of each way is its third."""
    rows = [",".join(tiny.COLUMNS)]
    for trial in tiny.trials():
        rates = tiny.LOWER_RATES if trial.way in tiny.LOWER else tiny.RATES
        loss = 2.2 + 0.1 * abs(rates.index(trial.learning_rate) - 2) + 0.001 * trial.seed
        rows.append(f"{tiny.key(trial)},34816,{loss:.5f},{loss + 0.01:.5f},2.00000")
    return rows


@pytest.fixture
def report():
    return {
        **{"settings": benchmark.SETTINGS, "chat": ["Paris."] * 40},
        **{"runs": all_runs(), "trials": all_trials()},
    }


@pytest.fixture
def folder(monkeypatch, tmp_path, report):
    """The benchmark saves its report in `tmp_path`, and each run takes no time."""
    path = tmp_path / "evidence.json"
    monkeypatch.setattr(benchmark, "DATA", path)
    monkeypatch.setattr(benchmark, "run_cell", lambda cell, chat: make_run(cell))
    return path


# -- reading


def test_all_saved_measurements_can_be_read():
    saved = evidence.load()
    assert len(saved.chat) == 40
    assert set(saved.runs["way"]) <= set(evidence.LABELS)
    assert set(saved.runs["section_right"].dropna().map(len)) == {STORIES}


def test_scores_have_a_row_for_each_seed_at_the_best_rate(report):
    saved = evidence.parse(report)
    tuned = saved.tuned("full")
    assert list(tuned["seed"]) == [0, 1, 2, 3, 4] and set(tuned["learning_rate"]) == {1e-4}
    assert saved.scores("full", "section_right").shape == (5, STORIES)
    assert saved.scores("nf4", "test_losses").shape == (3, STORIES)
    assert saved.scores("nf4-dq", "rouge_l", 21).mean() == pytest.approx(0.25)
    assert saved.scores("full", "section_right").sum() == 5 * 80
    assert saved.untrained("lora")["stories"] == 0


def test_the_test_split_never_chooses_a_learning_rate(report):
    for run in report["runs"]:
        run["test"] = -run["validation"]
    assert evidence.best_rate(report["runs"], "full") == 1e-4


def test_a_run_that_stopped_is_never_chosen_and_has_no_results(report):
    stopped = {**vars(Cell("full", 336, 5e-5, 0)), "validation": None, "stopped": "NaN"}
    runs = [stopped, *(r for r in report["runs"] if r["learning_rate"] != 5e-5)]
    saved = evidence.parse(report | {"runs": runs})
    assert evidence.validation_losses(runs, "full")[5e-5] == {0: math.inf}
    assert len(saved.tuned("full")) == 5
    last = Cell("full", 336, 1e-4, 4)
    runs = [{**vars(last), "validation": None} if last.of(run) else run for run in runs]
    with pytest.raises(ValueError, match=r"'full' has no scores: .* with seeds \[4\]$"):
        evidence.parse(report | {"runs": runs}).scores("full", "valid_json")
    with pytest.raises(ValueError, match=r"'full' .* has no learning rate .* 0, 1, 2 have fin"):
        evidence.best_rate([stopped], "full")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.tuned("qlora"), "way must be"),
        (lambda e: e.tuned("full", 21), "'full' with 21 stories has no learning rate"),
        (lambda e: e.scores("full", "f1"), "metric must be"),
        (lambda e: e.untrained("full"), "way must be"),
    ],
)
def test_unknown_measurements_raise_an_error(report, call, message):
    with pytest.raises(ValueError, match=message):
        call(evidence.parse(report))


def test_the_best_trials_have_the_lowest_mean_validation_loss(report):
    best = evidence.best_trials(evidence.parse(report).trials)
    assert len(best) == len(tiny.SETTINGS) * len(tiny.SEEDS)
    assert set(best.loc[best["way"] == "full", "learning_rate"]) == {tiny.LOWER_RATES[2]}
    assert set(best.loc[best["way"] == "DoRA", "learning_rate"]) == {tiny.RATES[2]}


# -- the plan


def test_the_plan_tries_all_rates_then_the_finalists_and_then_all_seeds():
    group, runs = Group("lora", 336, (0, 1, 2, 3), finalists=2), []
    assert [c.learning_rate for c in group.missing(runs)] == [1e-3, 2e-3, 4e-3, 8e-3]
    losses = {1e-3: 1.4, 2e-3: 1.31, 4e-3: 1.3, 8e-3: 1.5}
    runs += [make_run(c, validation=losses[c.learning_rate]) for c in group.missing(runs)]
    cells = group.missing(runs)
    assert cells == [Cell("lora", 336, rate, seed) for rate in (4e-3, 2e-3) for seed in (1, 2)]
    # With the other seeds, the second finalist is better.
    later = {4e-3: 1.35, 2e-3: 1.32}
    runs += [make_run(c, validation=later[c.learning_rate]) for c in cells]
    assert group.missing(runs) == [Cell("lora", 336, 2e-3, 3)]
    runs += map(make_run, group.missing(runs))
    assert not group.missing(runs) and evidence.best_rate(runs, "lora") == 2e-3


def test_while_the_best_rate_is_an_end_the_next_rate_is_tried():
    group = Group("full", 336)
    falling = [make_run(c, validation=1 / c.learning_rate) for c in group.missing([])]
    assert [c.learning_rate for c in group.missing(falling)] == [8e-4]
    rising = [make_run(c, validation=c.learning_rate) for c in group.missing([])]
    assert [c.learning_rate for c in group.missing(rising)] == [2.5e-5]


def test_fewer_stories_are_a_part_of_more_stories_with_all_sections():
    for seed in range(3):
        chosen = {n: evidence.chosen_stories(n, seed) for n in (21, 42, 84, 168, 336)}
        ids = {n: {story["id"] for story in stories} for n, stories in chosen.items()}
        assert all(len(ids[n]) == n for n in ids)
        assert ids[21] < ids[42] < ids[84] < ids[168] < ids[336]
        counts = [sum(s["section"] == name for s in chosen[21]) for name in news.SECTIONS]
        assert min(counts) == 2 and max(counts) == 3
    assert evidence.chosen_stories(21, 0) != evidence.chosen_stories(21, 1)
    with pytest.raises(ValueError, match="count must be from 1 to 336, got 337"):
        evidence.chosen_stories(337, 0)


# -- one run


@pytest.fixture
def small(monkeypatch, tokenizer):
    """Replace SmolLM2 by a tiny model, train for 3 steps, and keep 3 stories of each split."""
    stories = [
        {"id": name, "section": name, "story": f"A {name} story.", "headline": "It ends well now"}
        for name in news.SECTIONS[:3]
    ]
    splits = DatasetDict({split: Dataset.from_list(stories) for split in news.SPLITS})
    monkeypatch.setattr(news, "load_news", lambda: splits)
    monkeypatch.setattr(news, "shots", lambda: [])
    monkeypatch.setattr(smollm2, "chosen_stories", lambda count, seed: stories)
    monkeypatch.setattr(smollm2, "STEPS", 3)
    for name in ("load_questions", "load_texts"):
        some = getattr(forgetting, name)()[:2]
        monkeypatch.setattr(forgetting, name, lambda some=some: some)
    model = make_model(max_position_embeddings=4096)
    monkeypatch.setattr(smollm2, "load", lambda way: (copy.deepcopy(model), tokenizer))
    return model


@pytest.mark.full
@pytest.mark.parametrize("way", ["full-16", "lora"])
def test_a_run_has_the_results_of_each_story(small, way):
    run = smollm2.measure(Cell(way, 336, 1e-2, 1), ["Paris.", "Tokyo."])
    assert (run["way"], run["stories"], run["learning_rate"], run["seed"]) == (way, 336, 1e-2, 1)
    everything = sum(p.numel() for p in small.parameters())
    assert run["trained"] == everything if way != "lora" else 0 < run["trained"] < everything
    assert len(run["losses"].split()) == 3 and run["tokens"] > 0 and run["peak_bytes"] > 1e8
    for name in ("valid_json", "section_right", "house_style"):
        assert re.fullmatch("[01]{3}", run[name])
    assert len(run["test_losses"].split()) == len(run["rouge_l"].split()) == 3
    assert all(run[name] > 0 for name in ("validation", "test", "text", "chat"))
    assert re.fullmatch("[01]{2}", run["questions_right"]) and "chat_answers" not in run


@pytest.mark.full
def test_an_untrained_model_is_prompted_and_the_first_one_answers_the_questions(small):
    run = smollm2.measure(Cell("lora", 0), None)
    assert "losses" not in run and "trained" not in run and run["learning_rate"] is None
    assert len(run["chat_answers"]) == 2 and run["chat"] > 0


# -- the benchmark


def measure(**options):
    return list(benchmark.measure(**{"parts": ["smollm2"], "only": None, "seed": 0} | options))


def test_an_interrupted_benchmark_continues(folder, report):
    report["runs"] = report["runs"][:-3]
    folder.write_text(json.dumps(report))
    assert len(measure()) == 3


def test_every_cell_is_run_once_and_the_first_run_answers_the_questions(folder, monkeypatch):
    given = []

    def run_cell(cell, chat):
        given.append(chat)
        return make_run(cell) | ({} if chat else {"chat_answers": ["Paris."]})

    monkeypatch.setattr(benchmark, "run_cell", run_cell)
    reports = measure()
    assert given[:3] == [None, ["Paris."], ["Paris."]]
    assert reports[-1]["chat"] == ["Paris."] and "chat_answers" not in reports[-1]["runs"][0]
    done = {tuple(run[name] for name in vars(Cell("lora", 0))) for run in reports[-1]["runs"]}
    assert len(done) == len(reports[-1]["runs"]) == len(all_runs())


@pytest.mark.slow
def test_a_run_that_fails_says_why():
    with pytest.raises(CourseError, match=r"nf5, .*, seed 1 failed: 'nf5'"):
        benchmark.run_cell(Cell("nf5", 336, 2e-3, 1), None)


def test_a_repeated_run_is_compared_with_the_saved_run(folder, report, capsys, monkeypatch):
    folder.write_text(json.dumps(report))
    assert measure(only="nf4", seed=2) == []
    printed = capsys.readouterr().out
    assert "nf4, 336 stories, learning rate 0.002, seed 2" in printed
    assert "section_right  saved 0.8333, repeated 0.8333, tolerance 0.1" in printed
    monkeypatch.setattr(benchmark, "run_cell", lambda cell, _: make_run(cell, 1.4, right=60))
    with pytest.raises(CourseError, match="tolerance: validation, section_right, house_style"):
        measure(only="nf4", seed=2)
    with pytest.raises(CourseError, match="no saved run of nf4 with seed 4 that has finished"):
        measure(only="nf4", seed=4)
    folder.unlink()
    with pytest.raises(CourseError, match="no saved run of nf4 with seed 0 that has finished"):
        measure(only="nf4")


def test_results_with_other_settings_are_not_mixed(folder, report):
    settings = {**benchmark.SETTINGS, "smollm2": {**smollm2.SETTINGS, "steps": 10}}
    folder.write_text(json.dumps(report | {"settings": settings}))
    with pytest.raises(CourseError, match="were measured with other settings"):
        measure()


def test_trials_are_saved_some_at_a_time_and_only_once(folder, report, monkeypatch):
    monkeypatch.setattr(tiny, "measure", lambda trial: f"{tiny.key(trial)},1,2.0,2.0,2.0")
    report["trials"] = report["trials"][:1]
    folder.write_text(json.dumps(report))
    reports = measure(parts=["tiny"])
    rows = reports[-1]["trials"]
    assert rows[0] == ",".join(tiny.COLUMNS) and len(set(rows)) == len(rows) == 1 + 690
    folder.write_text(json.dumps(reports[-1]))
    assert measure(parts=["tiny"]) == []


@pytest.mark.full
def test_tables_say_what_was_measured(report):
    ways = tables.ways(report).splitlines()
    assert len(ways) == 2 + 7 and ways[2].startswith("| full fine-tuning | 0.0001 | 1.400 (1.400–")
    assert "| +0.000 (+0.000 to +0.000): equal | +0.0 (+0.0 to +0.0): equal |" in ways[3]
    stories = tables.stories(report).splitlines()
    assert [line.split(" | ")[0] for line in stories[2:]] == [
        f"| {n}" for n in (21, 42, 84, 168, 336)
    ]
    names = [line.split(" | ")[0][2:] for line in tables.tiny(report).splitlines()[2:]]
    assert names[0] == "full fine-tuning" and names[-1] == "LoftQ" and len(set(names)) == 11
    assert f"{len(report['runs'])} runs and 690 trials" in tables.conditions(report)
    assert tables.ways(report | {"runs": report["runs"][:-1]}) is None


def test_a_setting_whose_trials_diverge_is_not_the_best(report):
    rows = report["trials"]
    for n, row in enumerate(rows):
        if row.startswith("lora,0.004,8,16,all-linear,") and ",0," not in row:
            rows[n] = ",".join([*row.split(",")[:-3], "nan", "nan", "nan"])
    best = evidence.best_trials(evidence.parse(report).trials)
    plain = best[(best["way"] == "lora") & (best["rank"] == 8) & (best["alpha"] == 16)]
    assert set(plain["learning_rate"]) == {0.002}
    incomplete = [row for row in rows if not row.startswith("DoRA,0.004,8,16,all-linear,3")]
    best = evidence.best_trials(evidence.parse(report | {"trials": incomplete}).trials)
    assert set(best.loc[best["way"] == "DoRA", "learning_rate"]) == {0.002}
