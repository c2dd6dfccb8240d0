"""Benchmarks that compare the course with other libraries and tools: `python -m benchmarks --help`.

A benchmark is a module of this package that defines BENCHMARK, a `runner.Benchmark`. The first line
of the module's docstring says what the benchmark measures. `runner.run` runs the benchmark, saves
its report and writes its tables.
"""
