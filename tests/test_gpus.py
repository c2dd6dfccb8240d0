"""A GPU that is added to the table works everywhere: in estimates, paging, tools and lectures."""

from pathlib import Path

import pytest

from course_utils.machine.notebooks import load_node
from course_utils.machine.units import GB, GiB
from course_utils.memory import GPU, GPUS, RESERVE, estimate, largest, usable_bytes
from course_utils.notebook.explorers import paging_answer
from course_utils.paging import arithmetic_seconds, longest_text, pcie_x16, simulate
from workshop.publishing.live import fit

LECTURE = Path(__file__).resolve().parents[1] / "lectures/02_memory_calculator.ipynb"
# NVIDIA, HGX B200: 2,250 dense TFLOPS in bfloat16 and 80 in float32 ("NVIDIA Blackwell Architecture
# Technical Brief", 2024).
B200 = GPU(192 * GB, pcie=5, flops={2: 2.25e15, 4: 80e12})
RUN = {"lengths": (64, 128), "recipe": "fp32"}


@pytest.fixture(autouse=True)
def new_gpus(monkeypatch):
    """Add two GPUs to the table: one as its makers describe it, and one of an unknown speed."""
    monkeypatch.setitem(GPUS, "B200", B200)
    monkeypatch.setitem(GPUS, "new", GPU(24 * GB))


def test_estimates_and_runs_know_a_new_gpu():
    name = "B200"
    assert usable_bytes(name) == usable_bytes(192 * GB) < 192 * GB
    assert estimate("7b").fits(name) and not estimate("7b").fits("H100")
    assert largest("model", name) == "qwen3-8b"
    run = simulate("smollm2-135m", "full", gpu=name, **RUN)
    assert run.bandwidth == pcie_x16(5) and run.out_of_memory is None
    assert longest_text(name, "llama-7b", "full") > longest_text("H100", "llama-7b", "full")
    fast, slow = (arithmetic_seconds(gpu, "llama-7b", "qlora") for gpu in (name, "H100"))
    assert slow / fast == pytest.approx(2.25e15 / 989e12)


def test_will_it_fit_and_the_paging_explorer_know_a_new_gpu():
    values = {key: control.value for key, control in fit.CONTROLS.items()}
    assert "B200" in fit.answer(values | {"gpu": "B200"})
    run = {"method": "qlora", "optimizer": "adamw", "sequence_length": 64, "longest": 128}
    _, text = paging_answer("llama-7b", gpu="B200", paged=True, **run)
    assert "memory of B200  " in text and "PCIe 5.0" in text


@pytest.mark.full
def test_the_lecture_is_correct_with_a_new_gpu():
    """The cells of lecture 02 up to its explorer, without those that need a model."""
    shown, namespace = "", {}
    cells = {c.id: c.source for c in load_node(LECTURE).cells if c.cell_type == "code"}
    ids = list(cells)
    for cell in ids[1 : ids.index("explorer")]:
        if cell.startswith("measure"):
            continue
        exec(cells[cell], namespace)
        if cell == "adam-slide":
            shown = namespace["title"]
    assert shown == "1 of these GPUs has the 112 GB that the slide counts"


def test_an_unknown_bus_or_speed_raises_an_error_that_says_what_to_do():
    assert usable_bytes("new") < 24 * GB
    with pytest.raises(ValueError, match="PCIe generation of new is unknown: pass the bandwidth"):
        simulate("smollm2-135m", "full", gpu="new", **RUN)
    assert simulate("smollm2-135m", "full", gpu="new", bandwidth=1e9, **RUN).bandwidth == 1e9
    with pytest.raises(ValueError, match="the speed of new with numbers of 2 B is unknown: add it"):
        arithmetic_seconds("new", "llama-7b", "qlora")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("rtx 4090", GPUS["RTX 4090"]),
        ("4090", GPUS["RTX 4090"]),
        ("NVIDIA GeForce RTX4090", GPUS["RTX 4090"]),
        ("Tesla T4", GPUS["T4"]),
        ("NVIDIA A100 80GB", GPUS["A100-80"]),
        ("rtx a6000", int(0.91 * 48 * GiB)),
        (" 12 GiB", 12 * GiB),
        ("24564mib", 24564 * GiB // 1024),
        ("12GB", int(0.91 * 12 * GiB)),
        ("11.5 gb", int(0.91 * 11.5 * GiB)),
    ],
)
def test_a_gpu_is_a_name_or_a_number_with_its_unit(name, size):
    assert usable_bytes(name) == usable_bytes(size) == size - RESERVE


@pytest.mark.parametrize(
    "advertised", {"T4": 16, "RTX 4090": 24, "A100-40": 40, "H100": 80}.items()
)
def test_an_advertised_size_is_not_optimistic(advertised):
    name, size = advertised
    assert usable_bytes(f"{size} GB") <= usable_bytes(name)


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        ("A100", "ambiguous GPU 'A100'; choose A100-40 or A100-80, or write its size"),
        ("A10", "unknown GPU 'A10'; choose one of T4, .*H200"),
        ("RTX", "unknown GPU 'RTX'"),
        (12, '^12 is too little memory for a GPU; write its unit, as in "12 GB"$'),
        ("0 GB", "'0 GB' is too little memory"),
        (12e9, "the bytes of a GPU must be a whole number"),
    ],
)
def test_no_gpu_is_guessed(gpu, message):
    with pytest.raises(ValueError, match=message):
        estimate("7b").fits(gpu)
