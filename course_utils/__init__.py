"""Provide the helpers that the notebooks and commands of the QLoRA course share.

Importing the package loads neither torch nor transformers. A module that needs these libraries
imports them itself. So `import course_utils` takes less than 0.1 s, and the command `course`
responds quickly. The import also calls `threads.share_cores`, which starts a background thread.
This thread adapts the number of PyTorch's threads to the number of free cores.
"""

import logging

from course_utils import threads

__version__ = "0.2.0"


def _no_kernel_notice(record: logging.LogRecord) -> bool:
    """Return False, which hides a message, for the notice that an optional package is missing."""
    return "kernels-community" not in record.getMessage()


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_no_kernel_notice)

threads.share_cores()
