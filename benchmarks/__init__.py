"""Measurements of the course beside what people use now: `python -m benchmarks --help`.

A benchmark is a module of this package that names a `runner.Benchmark` BENCHMARK. The first line
of its docstring says what it measures. `runner.run` does everything else.
"""
