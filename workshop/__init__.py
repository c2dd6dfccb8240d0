"""Teach and publish the course: grading, website, benchmarks and the command line.

No module of `course_utils` imports this package.
"""
