"""Provide the helpers that the notebooks and commands of the QLoRA course share.

Importing the package loads neither torch nor transformers. A module that needs these libraries
imports them itself, so `import course_utils` stays under 0.1 s and the command line responds at
once. The import does start `threads.share_cores`, which limits how much other busy programs slow
down the course.
"""

import logging

from course_utils import threads

__version__ = "0.1.0"


def _no_kernel_notice(record: logging.LogRecord) -> bool:
    """Return False for the notice of bitsandbytes that an optional package is missing."""
    return "kernels-community" not in record.getMessage()


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_no_kernel_notice)

threads.share_cores()
