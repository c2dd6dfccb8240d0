"""Tests of the simulated pager, of the tensors that page, and of simulated runs."""

import subprocess
import sys

import bitsandbytes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.memory import (
    GPUS,
    OPTIMIZERS,
    PRESETS,
    RESERVE,
    ModelShape,
    estimate,
    timeline,
    usable_bytes,
)
from course_utils.paging import (
    PAGE,
    PAGES,
    OutOfMemory,
    UnifiedMemory,
    arithmetic_seconds,
    longest_text,
    paged_tensors,
    pcie_x16,
    simulate,
)

# None of these runs needs as many bytes.
UNLIMITED = 10**15
LLAMA = {"rank": 64, "recipe": "fp32", "loss": "logits", "keep_output": True}
TINY = ModelShape.from_config(
    {
        "model_type": "llama",
        "num_hidden_layers": 3,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "vocab_size": 1024,
    }
)


def repeatable(**options):
    return settings(derandomize=True, deadline=None, database=None, **options)


# --- the pager ------------------------------------------------------------------------------------


def small(budget=10, pages=4, kind=UnifiedMemory):
    """Return a small GPU with pages of 2 bytes each."""
    memory = kind(budget, page_size=2)
    memory.allocate(2 * pages)
    return memory


def test_a_tensor_that_does_not_fit_gets_no_pages():
    memory = UnifiedMemory(10, page_size=4)
    memory.hold(7)
    with pytest.raises(OutOfMemory):
        memory.allocate(8)
    assert len(memory) == 0
    memory.hold(6)
    assert memory.allocate(8) == [0, 1] and list(memory.in_cpu) == [0]


@st.composite
def scenarios(draw):
    """Draw a GPU, tensors, and actions that set the fixed bytes or touch a page."""
    page_size = draw(st.integers(1, 9))
    budget = draw(st.integers(page_size, 60))
    tensors = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    pages = sum(-(-size // page_size) for size in tensors)
    touches = st.tuples(st.just("touch"), st.integers(0, pages - 1))
    holds = st.tuples(st.just("hold"), st.integers(0, 70))
    return budget, page_size, tensors, draw(st.lists(touches | holds, max_size=40))


@repeatable(max_examples=100)
@given(scenarios())
def test_pages_bytes_and_budget_stay_correct_in_any_scenario(scenario):
    budget, page_size, tensors, actions = scenario
    memory, expected, fixed = UnifiedMemory(budget, page_size), [], 0
    for size in tensors:
        expected += [0.0] * len(memory.allocate(size))
        check(memory, tensors, budget)
    for n, (action, number) in enumerate(actions, 1):
        try:
            if action == "hold":
                memory.hold(number)
                assert memory.fixed == number
            else:
                memory.touch(number).value += n
                expected[number] += n
                assert next(reversed(memory.on_gpu)) == number
        except OutOfMemory:
            assert not memory.on_gpu, "a page could have been evicted"
            assert memory.fixed == fixed
        fixed = memory.fixed
        check(memory, tensors, budget)
    assert memory.values() == tuple(expected)


def check(memory, tensors, budget):
    on_gpu, in_cpu = memory.on_gpu, memory.in_cpu
    assert memory.used <= budget
    assert memory.used == memory.fixed + sum(page.size for page in on_gpu.values())
    assert sorted([*on_gpu, *in_cpu]) == list(range(len(memory))), "a page is missing or duplicated"
    in_cpu_bytes = sum(page.size for page in in_cpu.values())
    assert memory.bytes_in_cpu == memory.moved_out - memory.moved_in == in_cpu_bytes
    if len(memory) == sum(-(-size // memory.page_size) for size in tensors):
        assert memory.paged + in_cpu_bytes == sum(tensors)


class MostRecent(UnifiedMemory):
    def victim(self):
        return next(reversed(self.on_gpu))


def test_the_eviction_policy_decides_how_many_pages_move():
    """Of five pages touched in turn, four fit. Least recently used moves a page at each touch."""
    moved = {}
    for kind in (UnifiedMemory, MostRecent):
        memory = small(budget=8, pages=4, kind=kind)
        memory.allocate(2)
        for number in [0, 1, 2, 3, 4] * 3:
            memory.touch(number)
        moved[kind] = memory.moved_in
    assert moved == {UnifiedMemory: 30, MostRecent: 6}


# --- which tensors page ---------------------------------------------------------------------------


def test_adapters_of_rank_8_never_page_and_of_rank_64_do():
    options = LLAMA | {"rank": 8}
    rank_8 = paged_tensors("llama-7b", "qlora", **options)
    assert max(t.elements for t in rank_8) == 88_064 and not any(t.paged for t in rank_8)
    assert estimate("llama-7b", "qlora", optimizer="paged_adamw", **options).paged == 0
    rank_64 = paged_tensors("llama-7b", "qlora", **LLAMA)
    assert all(t.paged == t.size == 8 * t.elements * t.count for t in rank_64)
    names = {t.name: t.elements for t in rank_64}
    assert names["gate_proj.lora_B"] == 64 * 11008 and names["q_proj.lora_A"] == 64 * 4096


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["llama-7b", "qwen3-0.6b", "qwen2.5-0.5b", TINY])
@pytest.mark.parametrize(("method", "more"), [("full", {}), ("lora", {"rank": 24})])
def test_paged_tensors_add_up_to_the_estimate(model, method, more, optimizer):
    options = {"optimizer": optimizer, "sequence_length": 64, "recipe": "fp32"} | more
    found = estimate(model, method, **options)
    tensors = paged_tensors(model, method, **options)
    assert sum(t.paged for t in tensors) == found.paged
    maps = 2 * 256 * 4 if OPTIMIZERS[optimizer].eight_bit else 0
    assert sum(t.size for t in tensors) + maps == found.optimizer
    assert sum(t.elements * t.count for t in tensors) * 4 == found.gradients


@pytest.mark.parametrize("kind", ["paged_adamw", "paged_adamw8bit"])
def test_the_same_tensors_page_as_in_bitsandbytes(kind, monkeypatch):
    """The optimizer of bitsandbytes requests paged memory for its states on a fake GPU."""
    requests = []

    def get_paged(*shape, dtype, device):
        requests.append((shape, dtype.itemsize))
        return torch.zeros(shape, dtype=dtype)

    monkeypatch.setattr(bitsandbytes.functional, "get_paged", get_paged)
    monkeypatch.setattr(bitsandbytes.functional, "fill", lambda *_: None)
    name = {"paged_adamw": "PagedAdamW", "paged_adamw8bit": "PagedAdamW8bit"}[kind]
    # bitsandbytes pages states on every device but a CPU.
    meta = torch.device("meta")
    kinds = paged_tensors(TINY, "full", optimizer=kind, recipe="fp32")
    parameters = [
        torch.nn.Parameter(torch.empty(t.elements, device=meta))
        for t in kinds
        for _ in range(t.count)
    ]
    optimizer = getattr(bitsandbytes.optim, name)(parameters)
    for parameter in parameters:
        for _ in ("state1", "state2"):
            dtype = torch.uint8 if kind == "paged_adamw8bit" else torch.float32
            optimizer.get_state_buffer(parameter, dtype=dtype)
    assert sum(shape[0] * each for shape, each in requests) == sum(t.paged for t in kinds) > 0


# --- runs -----------------------------------------------------------------------------------------

LONG = {"gpu": "T4", "lengths": (512, 512, 1664, 512), "batch_size": 4, **LLAMA}


def test_paging_prevents_out_of_memory_for_a_long_mini_batch():
    unpaged = simulate("llama-13b", "qlora", optimizer="adamw", **LONG)
    failed = unpaged.out_of_memory
    assert (failed.step, failed.name) == (3, "the loss") and failed.total > unpaged.budget
    assert unpaged.events[-1].name == "forward of layer 40" and unpaged.moved == 0
    paged = simulate("llama-13b", "qlora", **LONG)
    assert paged.out_of_memory is None and paged.peak <= paged.budget == usable_bytes("T4")
    assert paged.moved > 0 and paged.seconds == paged.moved / pcie_x16(3)
    assert paged.moved_by_step == (0, 0, paged.moved, 0) and unpaged.moved_by_step == (0, 0, 0)
    evicted = [e for e in paged.events if e.cpu]
    assert {e.step for e in evicted} == {3} and evicted[0].name == "the loss"
    (back,) = [e for e in paged.events if e.moved_in]
    assert (back.step, back.name, back.cpu) == (3, "the update", 0)
    assert back.moved_in == sum(e.moved_out for e in paged.events)


def test_kept_memory_makes_all_pages_move_in_every_step_after_a_long_mini_batch():
    returned, kept = (simulate("llama-13b", "qlora", keep_freed=k, **LONG) for k in (False, True))
    states = sum(t.paged for t in paged_tensors("llama-13b", "qlora", **LLAMA))
    assert kept.moved_by_step[:2] == (0, 0) and kept.moved_by_step[3] == 2 * states
    assert kept.state == returned.state and kept.peak <= kept.budget
    totals = [event.total - event.gpu[PAGES] for event in kept.events]
    assert totals == sorted(totals), "the reserved memory never shrinks"
    # At the update, pages move in both directions at once.
    assert kept.seconds_by_step[3] == pytest.approx(states / pcie_x16(3))


def test_paging_does_not_help_if_no_state_can_page():
    options = LONG | {"rank": 8, "lengths": (512, 4096)}
    runs = [simulate("llama-7b", "qlora", optimizer=o, **options) for o in ("adamw", "paged_adamw")]
    assert runs[0].out_of_memory == runs[1].out_of_memory is not None
    assert runs[0].events == runs[1].events


def test_the_33b_model_of_the_paper_moves_all_its_states_in_every_step():
    case = {"gpu": "RTX 4090", "lengths": (1024,) * 4, **LLAMA}
    run = simulate("llama-33b", "qlora", **case)
    states = sum(t.paged for t in paged_tensors("llama-33b", "qlora", **LLAMA))
    update = timeline("llama-33b", "qlora", sequence_length=1024, **LLAMA)[-1].total
    missing = update - run.budget
    assert 0 < missing < 500e6 and run.moved_by_step[1:] == (2 * states,) * 3
    assert missing <= run.moved_by_step[0] < missing + PAGE
    assert simulate("llama-33b", "qlora", optimizer="adamw8bit", **case).out_of_memory is None


LONGEST = [
    ("llama-3.1-8b", "qlora", "T4", LLAMA),
    ("llama-33b", "qlora", "RTX 4090", LLAMA),
    ("llama-7b", "qlora", "T4", LLAMA | {"rank": 8}),
    ("smollm2-1.7b", "full", "T4", {"recipe": "fp32"}),
]


@pytest.mark.parametrize("optimizer", ["adamw", "paged_adamw", "paged_adamw8bit"])
@pytest.mark.parametrize(("model", "method", "gpu", "options"), LONGEST)
def test_the_longest_text_fits_and_a_longer_one_does_not(model, method, gpu, options, optimizer):
    options = options | {"optimizer": optimizer}
    most = longest_text(gpu, model, method, **options)
    for tokens in (most, most + 1):
        if tokens:
            run = simulate(model, method, gpu=gpu, lengths=(tokens,) * 2, **options)
            assert (run.out_of_memory is None) == (tokens == most)


def test_a_smaller_page_allows_a_longer_text():
    options, page = {"recipe": "fp32", "optimizer": "paged_adamw", "keep_output": True}, 2**18
    update = timeline(TINY, "full", sequence_length=40, **options)[-1]
    case = (update.total - update.paged + page + RESERVE, TINY, "full")
    assert longest_text(*case, **options, page_size=page) == 40
    assert longest_text(*case, **options, page_size=4096) > 40
    assert longest_text(*case, **options | {"optimizer": "adamw"}) == 0
    short = PRESETS["smollm2-135m"] | {"max_position_embeddings": 1024}
    assert longest_text("H100", short, "full") == 1024


def test_the_bandwidth_depends_on_the_gpu():
    # 16 lanes transfer 8 Gbit/s each, and 128 of 130 bits are data.
    assert pcie_x16(3) == pytest.approx(15.754e9, rel=1e-4)
    assert pcie_x16(5) == 2 * pcie_x16(4) == 4 * pcie_x16(3)
    case = {"lengths": (8,), "recipe": "fp32"}
    for gpu, generation in {"T4": 3, "RTX 4090": 4, "A100-40": 4, "H100": 5, 10**10: 3}.items():
        run = simulate("smollm2-135m", "full", gpu=gpu, **case)
        assert run.bandwidth == pcie_x16(generation), gpu
    assert simulate("smollm2-135m", "full", gpu="T4", bandwidth=5, **case).bandwidth == 5


def test_memory_runs_out_if_no_page_fits_at_the_update():
    # No state of TINY is as large as a page of the usual size.
    options, page = {"recipe": "fp32", "optimizer": "paged_adamw"}, 2**18
    update = timeline(TINY, "full", sequence_length=8, **options)[-1]
    fixed = update.total - update.paged + RESERVE
    assert update.paged > page
    short, enough = (
        simulate(TINY, "full", gpu=fixed + room, lengths=(8,), page_size=page, **options)
        for room in (page - 1, page)
    )
    assert short.out_of_memory.name == "the update" and short.out_of_memory.gpu[PAGES] == page
    assert short.out_of_memory.total == short.budget + 1
    assert enough.out_of_memory is None and enough.peak <= enough.budget


def bytes_needed(method, options, lengths):
    """Return the peak of a run without paging, and the peak of the bytes that can't move."""
    phases = [m for s in lengths for m in timeline(TINY, method, sequence_length=s, **options)]
    return max(m.total for m in phases), max(m.total - m.paged for m in phases)


@pytest.mark.full
@repeatable(max_examples=30)
@given(
    ways=st.sampled_from([("full", {"recipe": "fp32"}), ("full", {}), ("qlora", {"rank": 256})]),
    eight_bit=st.booleans(),
    checkpointing=st.booleans(),
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    page_size=st.sampled_from([4096, 50_000, PAGE]),
    share=st.floats(0, 1.1),
)
def test_any_run_fits_its_budget_and_ends_in_the_same_state(
    ways, eight_bit, checkpointing, lengths, page_size, share
):
    method, options = ways
    options = options | {"gradient_checkpointing": checkpointing}
    options |= {} if method == "full" else {"targets": "all-linear"}
    optimizer = "adamw8bit" if eight_bit else "adamw"
    paged_options = options | {"optimizer": f"paged_{optimizer}"}
    whole, fixed = bytes_needed(method, paged_options, [*lengths, *lengths])
    budget = int(fixed * 0.9 + share * (whole - fixed * 0.9))
    common = {"gpu": budget + RESERVE, "lengths": [*lengths, *lengths], "page_size": page_size}
    run = simulate(TINY, method, **common, **paged_options)
    assert run.budget == budget and run.peak <= budget
    assert sum(e.moved_out - e.moved_in for e in run.events) == (
        run.events[-1].cpu if run.events else 0
    )
    unlimited = simulate(TINY, method, **common | {"gpu": UNLIMITED}, **paged_options)
    assert unlimited.moved == 0 and unlimited.out_of_memory is None
    if run.out_of_memory:
        assert run.out_of_memory.total > budget
        assert fixed > budget - page_size
    else:
        assert fixed <= budget and run.state == unlimited.state and len(set(run.state)) > 1
        assert [e.step for e in run.events] == [e.step for e in unlimited.events]
    unpaged = simulate(TINY, method, **common, **options, optimizer=optimizer)
    assert (unpaged.out_of_memory is None) == (whole <= budget)
    assert unpaged.moved == 0 and (unpaged.out_of_memory or not run.out_of_memory)


@pytest.mark.full
def test_paging_and_its_picture_do_not_import_torch():
    code = "import sys; from course_utils import figures, paging; "
    code += "run = paging.simulate('smollm2-135m', 'full', gpu='T4', lengths=(8,)); "
    code += "figures.memory_timeline(run); print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


# --- the time of the matrix products --------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "passes", "each"),
    [
        ("qlora", {}, 3, 2),
        ("qlora", {"gradient_checkpointing": False}, 2, 2),
        ("lora", {"compute_dtype": "float32", "recipe": "fp32"}, 3, 4),
        ("full", {"recipe": "fp32"}, 4, 4),
        ("full", {"recipe": "autocast"}, 4, 2),
        ("full", {"recipe": "mixed", "gradient_checkpointing": False}, 3, 2),
    ],
)
def test_the_time_of_a_step_is_that_of_its_passes(method, options, passes, each):
    seconds = arithmetic_seconds("T4", TINY, method, sequence_length=500, batch_size=3, **options)
    operations = 2 * passes * 1500 * TINY.parameters
    assert seconds == pytest.approx(operations / GPUS["T4"].flops[each])


# --- bad input ------------------------------------------------------------------------------------


def run_with(**changes):
    return lambda: simulate("llama-7b", "qlora", **LONG | changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small().hold(-1), "fixed must be a whole number of at least 0, got -1"),
        (lambda: small().allocate(-1), "size must be a whole number of at least 0, got -1"),
        (lambda: small().touch(4), "no page has the number 4; there are 4 pages"),
        (lambda: small().touch(-1), "no page has the number -1; there are 4 pages"),
        (lambda: UnifiedMemory(10.5), "budget must be a whole number of at least 0, got 10.5"),
        (lambda: UnifiedMemory(10, 0), "page_size must be a whole number of at least 1, got 0"),
        (lambda: pcie_x16(2), "PCIe must be 3, 4 or 5, got 2"),
        (lambda: longest_text("T4", TINY, "full", page_size=0), "page_size must be a whole number"),
        (lambda: paged_tensors("llama-7b", "full", gpus=8), "for one GPU only, got gpus=8"),
        (lambda: arithmetic_seconds("P100", TINY, "full"), "unknown GPU 'P100'; choose one of T4"),
        (lambda: simulate("7b", "full", gpu="T4", lengths=(8,)), "only the number of parameters"),
        (run_with(lengths=()), "lengths must list the sequence_length of each step"),
        (run_with(lengths=5), "lengths must list the sequence_length of each step"),
        (run_with(sequence_length=5), "lengths must list the sequence_length of each step"),
        (run_with(lengths=(0,)), "a length must be a whole number of at least 1, got 0"),
        (run_with(bandwidth="x"), "bandwidth must be a number above 0 B/s, got 'x'"),
        (run_with(gpu="P100"), "unknown GPU 'P100'"),
        (run_with(speed=1), "'speed'; options are"),
    ],
)
def test_an_argument_that_is_not_allowed_raises_a_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
