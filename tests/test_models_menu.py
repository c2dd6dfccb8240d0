"""Test the predicted memory of the base models, and the refusal of models that don't fit."""

import pytest
import torch

from course_utils.machine import runtime
from course_utils.machine.validation import CourseError
from course_utils.memory import estimate, usable_bytes
from course_utils.models import BASE_MODELS, SMALL_MODEL, check_fits, fetch, load_base, menu
from course_utils.training import Recipe

T4 = usable_bytes("T4")


@pytest.fixture
def free(monkeypatch):
    """Return a function that sets the free memory of this machine, and forbid downloads."""
    monkeypatch.setattr(fetch, "_in_hub_cache", lambda name: None)
    monkeypatch.setattr(fetch, "_from_hub", lambda name: pytest.fail(f"{name} was downloaded"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return lambda size: monkeypatch.setattr(runtime, "available_memory", lambda: size)


def rows(*args):
    return {row["model"]: row for row in menu(*args)}


def test_the_menu_predicts_lecture_07s_training():
    row = rows("cpu")["qwen2.5-1.5b"]
    recipe = Recipe()
    options = {"batch_size": recipe.micro_batch_size, "rank": recipe.rank}
    options |= {"targets": recipe.targets, "sequence_length": 192}
    dtype = str(runtime.compute_dtype("cpu")).removeprefix("torch.")
    cpu = {"device": "cpu", "compute_dtype": dtype, "recipe": "fp32"}
    expected = estimate("qwen2.5-1.5b", "qlora", trainer="course", **options, **cpu)
    assert row["predicted peak"] == expected.total
    assert row["parameters"] == 1_543_714_304 and row["download"] == 2 * row["parameters"]
    # On a GPU, autocast makes 16-bit copies, but the optimizer's states have 8 bits.
    assert rows("cuda", T4)["qwen2.5-1.5b"]["predicted peak"] != row["predicted peak"]


def test_every_model_of_the_menu_fits_a_t4_and_the_free_memory_decides():
    everything = rows("cuda", T4)
    assert list(everything) == list(BASE_MODELS)
    assert all(row["fits"] for row in everything.values())
    sizes = [row["parameters"] for row in everything.values()]
    assert sizes == sorted(sizes) and sizes[-1] > 8e9
    peak = everything["smollm2-1.7b"]["predicted peak"]
    assert rows("cuda", peak)["smollm2-1.7b"]["fits"]
    assert not rows("cuda", peak - 1)["smollm2-1.7b"]["fits"]


def test_a_model_that_does_not_fit_is_refused_before_it_is_downloaded(free):
    needed = rows("cpu", 0)["qwen2.5-7b"]["predicted peak"]
    free(needed - 1)
    with pytest.raises(CourseError) as error:
        load_base("qwen2.5-7b", quantization="nf4")
    message = str(error.value)
    size = f"{needed / 1e9:.2f} GB"
    assert f"needs about {size} to train with QLoRA, but only {size} are free on cpu" in message
    assert "smollm2-1.7b would fit, with" in message
    free(needed)
    check_fits("qwen2.5-7b")


def test_the_refusal_names_the_largest_model_that_fits(free):
    free(3_000_000_000)
    with pytest.raises(CourseError, match=r"smollm2-1\.7b would fit, with 1\.\d\d GB"):
        check_fits("qwen2.5-7b")
    free(1)
    with pytest.raises(CourseError, match="none of the course's models would fit"):
        check_fits("qwen2.5-7b")


def test_loading_in_16_bits_needs_2_bytes_per_parameter(free):
    size = 2 * rows("cpu", 0)["qwen2.5-1.5b"]["parameters"]
    free(size)
    check_fits("qwen2.5-1.5b", quantization=None)
    free(size - 1)
    with pytest.raises(CourseError, match=r"to load in 16 bits, .*; qwen2\.5-0\.5b would fit"):
        load_base("qwen2.5-1.5b")


def test_the_check_can_be_skipped_and_does_not_concern_the_small_model(free, monkeypatch):
    free(1)
    wanted = []

    def not_found(name, source):
        wanted.append(name)
        raise CourseError("not found")

    monkeypatch.setattr("course_utils.models.load.fetch_base", not_found)
    for options in ({"name": "qwen2.5-7b", "check_memory": False}, {}):
        with pytest.raises(CourseError, match="not found"):
            load_base(**options, quantization="nf4")
    assert wanted == ["qwen2.5-7b", SMALL_MODEL]


def test_an_unknown_quantization_is_refused():
    with pytest.raises(ValueError, match="quantization must be None or 'nf4', got 'int8'"):
        check_fits("qwen2.5-7b", device="cpu", quantization="int8")


def test_free_memory_of_a_gpu_includes_what_pytorch_reserved_and_does_not_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 200)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 150)
    assert runtime.free_memory("cuda") == 750
    assert runtime.free_memory("cpu") == pytest.approx(runtime.available_memory(), rel=0.5)
