"""Assignments as nbgrader's course: what they consist of, what they must keep to, their release."""
