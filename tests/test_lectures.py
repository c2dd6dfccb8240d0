"""Every lecture: fit for git, complete, runs on a CPU without network, within its memory."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils import notebooks
from course_utils.publishing import addresses, notebook_check, website
from course_utils.publishing.execute import execute

ROOT = Path(__file__).resolve().parents[1]
LECTURES = notebooks.lectures(ROOT)
SLOW = {"07_qlora_finetuning"}
MEMORY = 1_200_000_000  # bytes that a lecture's kernel may take

# What a reader must find on the executed page, whatever the machine.
TEXTS = {
    "00_setup": (
        "The course runs here",
        "The capital of France is Paris.",
        "134,515,008",
        "269,030,272 B",
        "7 billion parameters × 32 bits = 28.00 GB",
        'alt="A bar for the weights, beside a line at 16 GB: 7 billion',
    ),
    "01_supervised_fine_tuning": (
        "by hand 2.5",
        "27 of 158 tokens carry loss: underlined",
        "masked by token     0 of 2 answers have their end graded",
        "N = 106,203,456",
        "break-even with few-shot after 403 requests",
        "Break-even: 135M, few-shot at 403 requests",
    ),
    "02_memory_calculator": (
        "28.00 GB = 26.08 GiB",
        "in float32 26.95 GB",
        'alt="Stacked bars of memory: float32 26.95 GB (weights 26.95 GB); 16 bits 13.48 GB',
        "2 + 2 + 4 + 8 = 16 B per parameter",
        "780.00 GB",
        "112.00 GB    104.31 GiB",
        "1 + 0.001 is 1.000 in bfloat16 and 1.001 in float32",
        "in full on a T4: 494,032,768 parameters",
        'alt="Stacked bars of memory: full fine-tuning 112.00 GB',
        "fits an A100-40: True",
        "111,692,152",
        *("74.2%", "87.1%", "93.8%"),
        "33 to 40%: without checkpointing",
        "GPT-3 with LoRA, as published: 3.4 times less",
    ),
    "03_lora": (
        "16,000",
        "share: 1.6% = 2r/d",
        "break-even: rank 500",
        "0.33% of q_proj, k_proj, v_proj, down_proj",
        "LoRA and embedding gains",
        "11.6 times less",
        'alt="Trainable parameters over the rank, on log scales: LoRA of rank 8 trains 48,000',
        "24,576 trained parameters in either",
        "GPT-3, as published: 3.4 times less",
        "every weight of the base is what it was, bit for bit",
        "2,442,240 trained beside 134,515,008",
    ),
    "04_nf4_quantization": (
        "542,020 B in NF4: 3.87 times smaller",
        "NF4Linear      keeps 0 B from the forward",
        "outputs and gradients equal those of bitsandbytes",
        "the other 4,095 weights share 3 of 15 levels",
        "7 negative levels, 1 zero, 8 positive",
        "narrowest 0.0805, of code 8 at 0.0796",
        "widest    0.2375, of code 1 at -0.6962",
        "the same as bitsandbytes stores and returns, bit for bit",
        "15 changes, 0.000001 from the midpoints",
        "information 3.88",
        "squared error: NF4 0.0084",
        'alt="Histogram of scaled weights over bins: int4, 15 levels, bins from 0.0714 to 0.1429',
        "NF4 / int4 at 64: 0.73",
        "210 matrices, of which",
    ),
    "05_double_quantization": (
        "0.5 → 0.126953125 bits per weight",
        "saved: 0.373047 bits, 74.6% of the overhead, 8.3% of all",
        'alt="Stacked bars of bits per weight: constants in float32 0.5; double 0.126953125.',
        "71% of the constants lie further than 0.1 from zero",
        "the mean of the five dots is 0.055%",
        "not beaten: NF4, double at 1024 with 4.008 bits",
        "NF4, blocks of 64, double    4.1270 bits, squared error 0.0084",
        "Marked: blocks of 64.",
        "884,736 weights, 13,824 blocks of 64, 54 blocks of 256 constants",
        'alt="Bars of 457,500 B: weight.data 442,368 B, quant_state.absmax 13,824 B',
        "quantize_nf4 stores the same, bit for bit",
        "all of it 111,692,152 B",
        "51% not quantized, of which the embedding has 99.9%",
        "without double quantization 116,426,752 B",
        "get_memory_footprint() says 109,777,792 B, 1,914,360 B too few",
        "linear: 0.135% → 15.438%, 114.4 times",
    ),
    "06_paged_optimizers": (
        "30 layers: 30 spikes in the backward pass",
        "four times the tokens, with checkpointing: 4.0 times the peak",
        "step 3, the loss: 16.23 GB asked for, 15.10 GB there",
        "two steps of 3,800 tokens: out of memory in step 2",
        "2.27 GB moved, both ways together: 0.14 s at 15.75 GB/s",
        "960 pages end as they would on a GPU of 1 TB",
        "Out of memory in step 3 at the loss: 16.23 GB asked for.",
        "1.00 GB less asked for, 132.36 MB still lacking",
        "88,064",
        "rank 16: gate_proj.lora_B, up_proj.lora_B, down_proj.lora_A",
        "33B with 8-bit Adam, without paging: texts of up to 3,145 tokens",
        "the update asks for 25.30 GB, 24.85 GB are there",
        "moved in each step: 453.38 MB, 7.80 GB, 7.80 GB, 7.80 GB",
        "UnifiedMemory 15 pages fetched in three rounds",
        "most recently used goes: 33B on an RTX 4090 2.29 GB moved in a step",
        "Paged optimizers are not supported on CPU",
        "equal to AdamW8bit, bit for bit: True",
        "There is no CUDA device here",
    ),
    "07_qlora_finetuning": ("valid JSON", "section right", "111,692,152"),
}
SUMMARIES = {
    "00_setup": "269,030,016 B = 269.03 MB",
    "01_supervised_fine_tuning": "reads 4.0 times fewer tokens",
    "02_memory_calculator": "predicted to the byte: weights, adapters, gradients, optimizer states",
    "03_lora": "A and B hold 16,000",
    "04_nf4_quantization": "code use 1.7% to 9.3%, even would be 6.25%",
    "05_double_quantization": "0.5 → 0.126953125 bits per weight",
    "06_paged_optimizers": "no help at all: QLoRA 7B, rank 8",
    "07_qlora_finetuning": "valid JSON",
}

# Put first on the kernel's path: whoever looks beyond this machine is refused, and noted down.
NO_NETWORK = """
import pathlib, socket

def note(address):
    pathlib.Path({log!r}).open("a").write(f"{{address}}\\n")
    raise OSError(f"no network in this test, but {{address}} was asked for")

def connect(self, address, _connect=socket.socket.connect):
    local = self.family == getattr(socket, "AF_UNIX", None) or address[0] in ("127.0.0.1", "::1")
    return _connect(self, address) if local else note(address)

def getaddrinfo(host, *rest, _getaddrinfo=socket.getaddrinfo, **options):
    local = host in (None, "localhost", "127.0.0.1", "::1")
    return _getaddrinfo(host, *rest, **options) if local else note(host)

socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
"""


def name_of(path):
    return path.stem


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def test_there_are_lectures():
    assert [path.stem for path in LECTURES][:1] == ["00_setup"]
    assert {path.stem for path in LECTURES} == set(TEXTS) == set(SUMMARIES)


@pytest.mark.parametrize("path", notebooks.all_notebooks(ROOT), ids=name_of)
def test_fit_for_git(path):
    assert notebook_check.check(path) == []


@pytest.mark.parametrize("path", LECTURES, ids=name_of)
def test_same_setup_cell(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert source(code[0]) == notebook_check.setup_cell(addresses.read(ROOT).repository)


@pytest.mark.parametrize("path", LECTURES, ids=name_of)
def test_links_lead_somewhere(path):
    text = "\n".join(source(cell) for cell in cells(path) if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", LECTURES, ids=name_of)
def test_can_be_shown_as_slides(path):
    kinds = {"slide", "subslide", "fragment", "skip", "notes", "-"}
    for cell in cells(path):
        if cell["id"] != "setup":
            assert cell["metadata"].get("slideshow", {}).get("slide_type") in kinds, cell["id"]


# Executes cells as a notebook does, up to the first whose last line is a picture.
TO_THE_FIRST_PICTURE = """
import ast, json, sys
space = {}
for source in json.load(sys.stdin):
    *most, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        most, last = [*most, last], None
    exec(compile(ast.Module(most, []), "cell", "exec"), space)
    shown = last and eval(compile(ast.Expression(last.value), "cell", "eval"), space)
    if hasattr(shown, "_repr_html_") and "<img" in shown._repr_html_():
        print(json.dumps([name for name in ("torch", "transformers") if name in sys.modules]))
        break
"""


def test_lecture_02_shows_a_picture_before_it_needs_torch():
    """Importing torch and taking a first step with it takes seconds: a picture comes sooner."""
    (path,) = (path for path in LECTURES if path.stem.startswith("02"))
    sources = [source(cell) for cell in cells(path) if cell["cell_type"] == "code"]
    command = [sys.executable, "-c", TO_THE_FIRST_PICTURE]
    asked = json.dumps(sources)
    done = subprocess.run(command, input=asked, capture_output=True, text=True, cwd=path.parent)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Kernels can't reach beyond this machine; returns the file that notes who tried."""
    log = tmp_path / "asked-for"
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return log


def test_the_network_is_really_off(no_network, tmp_path):
    ask = "import socket\nsocket.create_connection(('example.org', 80))"
    content = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    cell = {"cell_type": "code", "id": "ask", "metadata": {}, "source": ask, "outputs": []}
    content["cells"] = [cell | {"execution_count": None}]
    path = tmp_path / "asks.ipynb"
    path.write_text(json.dumps(content))
    result = execute(path, tmp_path / "pages", progress=False)
    assert "no network in this test, but example.org" in result.error
    assert no_network.read_text() == "example.org\n"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
        for path in LECTURES
    ],
)
def test_runs_on_a_cpu_without_network(path, no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = execute(path, tmp_path, progress=False)
    assert result.error is None, result.error
    assert not no_network.exists(), f"asked the network for {no_network.read_text()}"
    assert result.peak_memory <= MEMORY
    page = result.page.read_text(encoding="utf-8")
    for text in TEXTS[path.stem]:
        assert text in page, f"{path.name} does not show {text!r}"
    assert SUMMARIES[path.stem] in "\n".join(result.summaries)
    unsupported = website.unsupported(ROOT, [tmp_path / path.name])
    assert [line for line in unsupported if f": {path.stem}, cell " in line] == []
