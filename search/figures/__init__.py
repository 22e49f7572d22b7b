"""Pictures of a report, each drawn once for light and dark pages, as SVG and as PNG."""

from search.figures.course import hypervolume_svg, sensitivity_svg
from search.figures.drawing import PALETTE
from search.figures.front import front_svg, write_front
from search.figures.stairs import write_stairs

__all__ = ["PALETTE", "front_svg", "hypervolume_svg", "sensitivity_svg", "write_front", "write_stairs"]
