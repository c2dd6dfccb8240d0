"""Shared helpers of the QLoRA course, one module a lesson.

Importing the package loads nothing heavy: neither torch nor transformers. A module that needs
them imports them itself, so `import course_utils` stays under 0.1 s and the command line
answers at once. It does start `threads.share_cores`, so that a busy program beside the course
slows it down no more than it must.
"""

import logging

from course_utils import threads

__version__ = "0.1.0"


def _no_kernel_notice(record: logging.LogRecord) -> bool:
    """False for bitsandbytes' notice, on import, that a package it can do without is missing."""
    return "kernels-community" not in record.getMessage()


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_no_kernel_notice)

threads.share_cores()
