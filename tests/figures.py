"""What is wrong with how a figure looks, as far as a program can see it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, StepPatch
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

__all__ = ["faults"]

SLACK = 1.5  # pixels: extents of text are a little larger than its ink


def faults(figure: Figure) -> list[str]:
    """Returns what is cut, overlaps or is crossed by a curve, in words."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = []
    texts = [(t, _box(t, canvas)) for t in _texts(figure) if t.get_text().strip()]
    for text, box in texts:
        if not _inside(box, figure.bbox):
            found.append(f"{text.get_text()!r} is cut by the edge of the figure")
    for (a, first), (b, second) in combinations(texts, 2):
        if Bbox.intersection(first, second) is not None:
            found.append(f"{a.get_text()!r} overlaps {b.get_text()!r}")
    for ax in figure.axes:
        frame = ax.get_window_extent()
        notes = [(repr(t.get_text()), _box(t, canvas)) for t in ax.texts if t.get_text().strip()]
        for text, box in notes:
            if Bbox.intersection(box, frame) is not None and not _inside(box, frame):
                found.append(f"{text} crosses the frame")
        legend = ax.get_legend()
        if legend is not None:
            notes.append(("the legend", legend.get_window_extent()))
        for text, box in notes:
            for path in _curves(ax):
                if path.intersects_bbox(box, filled=False):
                    found.append(f"a curve crosses {text}")
    return found


def _texts(artist: Artist) -> Iterator[Text]:
    """Yields the texts that are drawn."""
    if not artist.get_visible():
        return
    if isinstance(artist, Text):
        yield artist
    children = artist.get_children()
    if isinstance(artist, Axis):
        low, high = sorted(artist.get_view_interval())
        ticks = {*artist.get_major_ticks(), *artist.get_minor_ticks()}
        pad = 1e-9 * (high - low)
        hidden = {tick for tick in ticks if not low - pad <= tick.get_loc() <= high + pad}
        children = [child for child in children if child not in hidden]
    elif isinstance(artist, Axes) and not artist.axison:
        children = [child for child in children if not isinstance(child, Axis)]
    for child in children:
        yield from _texts(child)


def _box(text: Text, canvas: FigureCanvasAgg) -> Bbox:
    """Returns where a text is, in pixels, a little smaller."""
    box = Text.get_window_extent(text, canvas.get_renderer())  # of an annotation without its arrow
    return box.padded(-min(SLACK, box.width / 3, box.height / 3))


def _inside(box: Bbox, frame: Bbox) -> bool:
    return bool(
        frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    )


def _curves(ax: Axes) -> Iterator[Path]:
    """Yields the lines and outlines of an Axes within its frame, in pixels."""
    frame = ax.get_window_extent()
    for artist in [*ax.lines, *ax.patches]:
        if not artist.get_visible() or not isinstance(artist, Line2D | StepPatch | Polygon):
            continue
        if isinstance(artist, Line2D) and artist.get_linestyle() in ("None", "", " "):
            continue
        path = artist.get_transform().transform_path(artist.get_path())
        if len(path.vertices) > 1:
            yield path.clip_to_bbox(frame) if isinstance(artist, Polygon) else path
