"""The gallery: the page, its pictures and mdn.plot agree."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import pytest
from matplotlib import image

from mdn import plot

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "gallery.md"


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    """docs/gallery.py as a module, which is in no package."""
    spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_function_has_its_picture(gallery: ModuleType) -> None:
    """Each name of mdn.plot is called in a block of the page that has a picture."""
    shown = " ".join(b.code for b in gallery.blocks(PAGE.read_text("utf-8")) if b.picture)
    assert {name for name in plot.__all__ if f"plot.{name}(" not in shown} == set()


def test_pictures_are_those_of_the_page(gallery: ModuleType) -> None:
    """Every picture of the page exists and is small enough, and there is no other file."""
    text = PAGE.read_text("utf-8")
    named = [b.picture for b in gallery.blocks(text) if b.picture]
    assert len(named) == len(set(named)) == len(re.findall(r"^!\[", text, re.M))
    files = {f"images/gallery/{path.name}" for path in (DOCS / "images/gallery").iterdir()}
    assert files == set(named)
    for name in named:
        assert (DOCS / name).stat().st_size < 150_000
        assert image.imread(DOCS / name)[..., :3].std() > 0.05, name


def test_script_saves_what_a_page_draws(gallery: ModuleType, tmp_path: Path) -> None:
    """Blocks share their variables, only those before a picture are saved, no figure stays open.

    And the same page gives the same file.
    """
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n```python\nfrom mdn import plot\nnll = {'s': 4.0, 'h': -4.0}\n```\n\n"
        "```python\nax = plot.plot_units(nll)\n```\n\n![Bars](pictures/units.png)\n",
        encoding="utf-8",
    )
    blocks = list(gallery.blocks(page.read_text("utf-8")))
    assert [(b.line, b.picture) for b in blocks] == [(3, None), (8, "pictures/units.png")]
    (made,) = gallery.draw(page)
    assert made == tmp_path / "pictures/units.png"
    assert image.imread(made)[..., :3].std() > 0.05
    assert plt.get_fignums() == []
    before = made.read_bytes()
    gallery.draw(page)
    assert made.read_bytes() == before


def test_an_error_in_a_block_names_its_line(gallery: ModuleType, tmp_path: Path) -> None:
    """The traceback points into the page."""
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```python\na = 1\nb = a / 0\n```\n", encoding="utf-8")
    with pytest.raises(ZeroDivisionError) as found:
        gallery.draw(page)
    last = found.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(page), 5)


def test_a_block_without_axes_before_a_picture_is_named(
    gallery: ModuleType, tmp_path: Path
) -> None:
    """Also where an earlier block left some: every picture is of the block above it."""
    page = tmp_path / "page.md"
    block = (
        "```python\nfrom mdn import plot\nax = plot.plot_units({'s': 4.0})\n```\n\n![a](a.png)\n"
    )
    page.write_text(f"{block}\n```python\nb = 1\n```\n\n![b](b.png)\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 8: a block with a picture must leave an Axes ax"):
        gallery.draw(page)
