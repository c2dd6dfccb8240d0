"""Provide the helpers that the notebooks and commands of the QLoRA course share.

Importing the package does nothing else, and loads neither torch nor transformers. A module that
needs these libraries imports them itself. So `import course_utils` takes less than 0.1 s, and the
command `course` responds quickly.
"""

__version__ = "0.2.0"
