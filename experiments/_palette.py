"""The colours of the figures, distinguishable by the colour-blind (M. Okabe and K. Ito, 2008)."""

from __future__ import annotations

__all__ = ["BLACK", "BLUE", "GREEN", "GREY", "ORANGE", "PURPLE", "SKY_BLUE", "VERMILLION"]

BLACK, GREY = "#000000", "#999999"
BLUE, SKY_BLUE = "#0072B2", "#56B4E9"
VERMILLION, ORANGE = "#D55E00", "#E69F00"
GREEN, PURPLE = "#009E73", "#CC79A7"
