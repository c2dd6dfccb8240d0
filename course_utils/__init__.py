"""Shared helpers of the QLoRA course, one module a lesson.

Importing the package loads nothing heavy: neither torch nor transformers. A module that needs
them imports them itself, so `import course_utils` stays under 0.1 s and the command line
answers at once.
"""

__version__ = "0.1.0"
