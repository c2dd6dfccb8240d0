"""What README and docs quote is what the benchmarks wrote, and it holds what the course claims."""

import json
from pathlib import Path

import pytest

from benchmarks import quality
from course_utils.evaluation import Interval, beyond


@pytest.fixture(scope="module")
def report():
    return json.loads(quality.JSON.read_text(encoding="utf-8"))


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
