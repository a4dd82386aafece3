"""Words that the project has retired do not come back.

Each of these words once had a private meaning in the code and the docs, where the field has a
standard term, and a reader had to know the author to understand it. Only words without any other
use here are listed: the idiom "told apart" is good English and stays.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RETIRED = {  # pattern: what to write instead
    r"\btold\b(?! apart)": "out-of-fold predictions, base features, a result, or a reported error",
    r"\b_?(hear|hears|heard)\b": "takes as inputs, or is fitted to",
    r"\bhonest(ly)?\b": "out of fold, or on held-out rows",
    r"\b(the|its|their) word (of|is|has)\b|\bwhose word\b": "the predictions of a model",
    r"\bat first hand\b": "directly",
    r"\bheaps? of equal\b": "ties",
    r"\bway back\b": "the inverse",
}


def sources() -> list[Path]:
    """The code and the pages of the project; the stored results of experiments are data."""
    folders = ("mdn", "experiments", "benchmarks", "docs")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    pages = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts]
    return [*files, *pages, ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "conftest.py"]


@pytest.mark.parametrize("pattern", RETIRED)
def test_a_retired_word_is_not_used(pattern: str) -> None:
    """In no name, comment, docstring or message of the package and in no sentence of the docs."""
    uses = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line, re.IGNORECASE)
    ]
    assert not uses, f"write {RETIRED[pattern]}:\n" + "\n".join(uses)


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        (r"\btold\b(?! apart)", "half of the networks are told what trees expect"),
        (r"\b_?(hear|hears|heard)\b", "def _hear(plan):"),
        (r"\b(the|its|their) word (of|is|has)\b|\bwhose word\b", "with the word of trees"),
    ],
)
def test_the_patterns_find_the_retired_sense(pattern: str, sentence: str) -> None:
    """And leave the idiom alone."""
    assert re.search(pattern, sentence)
    assert not re.search(pattern, "numbers and categories are told apart by dtype")
