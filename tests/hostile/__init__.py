"""Hostile and broken submissions, and what becomes of them: with stock nbgrader and with ours."""
