"""Hostile and broken submissions, graded by stock nbgrader and by `course grade`."""
