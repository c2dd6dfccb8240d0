"""Benchmarks that compare the course with other libraries: `make bench ARGS=--help`.

A benchmark is a module or a package in this package that defines BENCHMARK, a `runner.Benchmark`.
The first line of its docstring says what it measures.
"""
