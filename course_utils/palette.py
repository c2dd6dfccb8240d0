"""Define the course's colours, from a palette that colour-blind readers can distinguish.

Source: Okabe and Ito's palette.
"""

from __future__ import annotations

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, YELLOW = (
    *("#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#f0e442"),
)
SERIES = (SKY, ORANGE, BLUE, GREEN, RED, PURPLE, YELLOW, BLACK)
# The colour of the elements of a figure that belong to no series.
GREY = "#999999"
