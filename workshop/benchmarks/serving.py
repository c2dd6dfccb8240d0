"""Measure latency and throughput of llama.cpp's server with a merged model and with adapters.

    course bench serving [--adapters FOLDER]

1, 2, 4 or 8 clients send requests over HTTP at the same time. Each client sends its next request
when it has the answer to the previous one. Three servers are measured in turn: the merged model,
the base model with one adapter, and the base model with two adapters. With two adapters, the
requests alternate between them. All servers have Q8_0 weights, and none of them reuses keys and
values of earlier prompts. The benchmark uses the GGUF files and the adapters of `course bench
parity`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from course_utils.serving import Engine
from workshop.benchmarks import parity
from workshop.benchmarks.runner import ROOT, Benchmark, Report, measured_here

DATA = ROOT / "course_utils" / "data" / "serving.json"
CLIENTS = (1, 2, 4, 8)
ROUNDS = 3
# In each round, a client sends this many requests on average.
REQUESTS = 4
MERGED, ONE, TWO = "merged model", "one adapter", "two adapters in turns"


def servers(adapters: Path) -> dict[str, tuple[Path, dict[str, Path]]]:
    """Return a dict from the name of each server to the GGUF files of its model and adapters."""
    merged = parity.merged_gguf(adapters, parity.FORMAT)
    base = parity.base_gguf(adapters, "dequantized", parity.FORMAT)
    one = parity.adapter_gguf(adapters)
    # Both adapters are the same file. The time to compute a token depends on the size of the
    # adapter, but not on the values of its weights.
    return {MERGED: (merged, {}), ONE: (base, {"a": one}), TWO: (base, {"a": one, "b": one})}


def measure(adapters: Path) -> Iterator[Report]:
    """Measure all servers with each number of clients, and yield the report at the end."""
    adapters = parity.trained(adapters)
    report: Report = {"rounds": ROUNDS, "requests": REQUESTS, "servers": {}}
    for _ in range(ROUNDS):
        for name, (model, extra) in servers(adapters).items():
            found = report["servers"].setdefault(name, {})
            with Engine(model, extra, slots=max(CLIENTS)) as engine:
                ask(engine, 0)  # The first request is slower, so it isn't timed.
                for clients in CLIENTS:
                    print(name, clients, flush=True)
                    found.setdefault(str(clients), []).append(load(engine, clients))
    yield report | measured_here("xllamacpp")


def load(engine: Engine, clients: int) -> dict[str, Any]:
    """Return the latency of each request and the time until all were answered, in seconds."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        latencies = list(pool.map(lambda i: ask(engine, i), range(clients * REQUESTS)))
    return {"latencies": latencies, "seconds": time.perf_counter() - started}


def ask(engine: Engine, number: int) -> float:
    """Send a request, and return its latency in seconds.

    Its number determines the story and the adapter: consecutive requests use the adapters in turn.
    """
    names = list(engine.adapters)
    adapter = names[number % len(names)] if names else None
    chat = parity.chats()[number % len(parity.stories())]
    started = time.perf_counter()
    # For a model without adapters, llama.cpp would reuse keys and values of earlier prompts. The
    # reuse is switched off here, so that all servers process complete prompts.
    engine.chat(chat, adapter, max_tokens=parity.NEW_TOKENS, cache_prompt=False)
    return time.perf_counter() - started


BENCHMARK = Benchmark(measure, {}, add_options=parity.add_options, data=DATA)
