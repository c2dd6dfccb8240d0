"""Run a worker process of `turns.take_turns`: `python -m benchmarks.worker MODULE WAY`."""

from __future__ import annotations

import importlib
import sys

from benchmarks.turns import work

if __name__ == "__main__":
    module, way = sys.argv[1:]
    work(importlib.import_module(module).way(way))
