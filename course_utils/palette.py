"""Define the course's colours. Colour-blind readers can tell Okabe and Ito's palette apart."""

from __future__ import annotations

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, YELLOW = (
    *("#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#f0e442"),
)
SERIES = (SKY, ORANGE, BLUE, GREEN, RED, PURPLE, YELLOW, BLACK)
# The colour of elements that belong to no series.
GREY = "#999999"
