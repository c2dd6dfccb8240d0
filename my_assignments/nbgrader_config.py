"""Load nbgrader's settings of the course, because fetched assignments are in this folder."""

load_subconfig("../nbgrader_config.py")  # noqa: F821 (traitlets puts it into this namespace)
