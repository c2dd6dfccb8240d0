"""Take a fine-tuned model out of the course: merge its adapters into the weights (lecture 07).

The package has one module:

    merging     merges into the dequantized or the original weights, stored in 4, 16 or 32 bits
"""

from course_utils.export.merging import NumberLine, merge, number_line, update_left

__all__ = ["NumberLine", "merge", "number_line", "update_left"]
