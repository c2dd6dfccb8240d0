"""Fetched assignments belong to the course one folder up; nbgrader reads the settings here, too."""

load_subconfig("../nbgrader_config.py")  # noqa: F821 (traitlets puts it into this namespace)
