"""Makes the pictures of gallery.md by running its code: ``python docs/gallery.py``.

Every block of the page that leaves an Axes ``ax`` is followed by its picture.  The code stands only
on the page, so code and pictures agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).with_name("gallery.md")
DPI = 90
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n!\[[^\]]*\]\(([^)]*)\))?", re.M | re.S)


class Block(NamedTuple):
    """Code of the page, the line before its first line, and the file of its picture, if any."""

    code: str
    line: int
    picture: str | None


def blocks(text: str) -> Iterator[Block]:
    """Yields the blocks of a page in their order."""
    for found in _BLOCK.finditer(text):
        yield Block(found[1], text.count("\n", 0, found.start()) + 1, found[2])


def draw(page: Path = PAGE) -> list[Path]:
    """Runs the page, writes its pictures beside it and returns their files."""
    from matplotlib import pyplot as plt
    from matplotlib.axes import Axes

    made: list[Path] = []
    namespace: dict[str, object] = {}
    for block in blocks(page.read_text(encoding="utf-8")):
        # with empty lines before it, a traceback names the line of the page
        exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)
        if block.picture is None:
            continue
        ax = namespace.pop("ax", None)
        if not isinstance(ax, Axes):
            raise ValueError(f"line {block.line}: a block with a picture must leave an Axes ax")
        file = page.parent / block.picture
        file.parent.mkdir(parents=True, exist_ok=True)
        # without Matplotlib's version in it, the same picture is the same file
        ax.figure.savefig(file, dpi=DPI, metadata={"Software": None})
        made.append(file)
        plt.close("all")
    return made


if __name__ == "__main__":
    import matplotlib

    matplotlib.use("Agg")
    for picture in draw():
        print(f"{picture.relative_to(PAGE.parent)}  {picture.stat().st_size / 1000:.0f} kB")
