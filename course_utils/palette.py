"""The course's colours: Okabe and Ito's palette, which colour-blind readers can tell apart."""

from __future__ import annotations

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, YELLOW = (
    *("#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#f0e442"),
)
SERIES = (SKY, ORANGE, BLUE, GREEN, RED, PURPLE, YELLOW, BLACK)
# For what belongs to no series.
GREY = "#999999"
