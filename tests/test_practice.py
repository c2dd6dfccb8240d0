"""Test the plain script of lecture 07, and the saved runs of its recipe."""

import json
import re
import subprocess
import sys
from statistics import fmean

import pytest

from course_utils import news, sft
from course_utils.models import load_base
from course_utils.training import token_losses
from workshop.benchmarks import practice
from workshop.budget import code_lines

SCRIPT = practice.SCRIPT.read_text("utf-8")


def test_the_script_has_at_most_60_lines_of_code_and_none_of_the_courses_modules():
    assert code_lines(SCRIPT) <= 60
    assert "course_utils" not in SCRIPT


def test_the_script_computes_the_courses_loss_and_answers_with_the_saved_adapters(
    tiny_base, tmp_path
):
    splits = [news.load_news()[name].to_list()[:8] for name in ("train", "validation")]
    for name, part in zip(("train", "validation"), splits, strict=True):
        for story in part:
            story |= {"split": name, "story": story["story"][:40]}
    data = tmp_path / "news.jsonl"
    data.write_text("\n".join(map(json.dumps, [*splits[0], *splits[1]])), "utf-8")
    command = [sys.executable, practice.SCRIPT, tiny_base, data, tmp_path / "adapters"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    found = [float(x) for x in re.findall(r"^(?:validation )?loss ([\d.]+)$", done.stdout, re.M)]
    model, tokenizer = load_base(path=tiny_base, quantization="nf4")
    # The first rate is 0, so the only step doesn't change the model.
    for loss, part in zip(found, splits, strict=True):
        rows = sft.encode_all([news.tuned_messages(story) for story in part], tokenizer)
        losses = [x for row in token_losses(model, rows, tokenizer) for x in row]
        assert loss == pytest.approx(fmean(losses), abs=0.01)
    assert (tmp_path / "adapters" / "adapter_model.safetensors").is_file()


def test_the_saved_runs_of_this_script_the_course_and_trl_reach_the_same_loss():
    saved = json.loads(practice.DATA.read_text("utf-8"))
    assert list(saved) == list(practice.RUNS)
    assert saved["plain script"]["script"] == practice.sha256_of_script()
    final = [saved[name]["validation"][-1] for name in ("course", "plain script", "TRL")]
    assert max(final) - min(final) < 0.05
