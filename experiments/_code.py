"""Which code a result comes from: a digest of each source file, so that a test sees a later change.

Comments, docstrings and blank lines do not count, nor do the text of an experiment (``DATA``,
``MINUTES``, ``report``), which is read anew whenever a page is written.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["changed", "digest", "digests"]

EXPERIMENTS = Path(__file__).resolve().parent
PACKAGE = "mdn"  # the key of the digest of the package
_TEXTS = {"DATA", "MINUTES", "__all__", "report"}


def digests(name: str) -> dict[str, str]:
    """Returns a digest of each module of an experiment, and one of the package."""
    found = {path.stem: digest(path) for path in sorted(_modules(name))}
    package = sorted((EXPERIMENTS.parent / PACKAGE).rglob("*.py"))
    return {**found, PACKAGE: _sha("".join(map(digest, package)))}


def changed(name: str, recorded: Mapping[str, str]) -> list[str]:
    """Returns the modules of an experiment whose code is no longer that of the record."""
    now = digests(name)
    return sorted(key for key in now.keys() | recorded.keys() if now.get(key) != recorded.get(key))


def digest(path: Path) -> str:
    """Returns the first 12 digits of the SHA-256 of what a source file does."""
    return _sha(_essence(path.read_text(encoding="utf-8")))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _modules(name: str) -> set[Path]:
    """Returns the files of an experiment and of the modules of this folder that it imports."""
    todo, done = [EXPERIMENTS / f"{name.replace('-', '_')}.py"], set()
    while todo:
        path = todo.pop()
        if path in done:
            continue
        done.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                todo += [EXPERIMENTS / f"{name}.py" for name in names]
    return done


def _essence(text: str) -> str:
    """Returns the lines of a source without comments, docstrings, blank lines and texts."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in _texts(ast.parse(text)):
        for row in range(node.lineno, (node.end_lineno or node.lineno) + 1):
            lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _texts(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yields docstrings, and the statements of a module that define its texts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node
    for node in tree.body:
        names = {getattr(target, "id", "") for target in getattr(node, "targets", [])}
        names.add(getattr(node, "name", ""))
        if names & _TEXTS:
            yield node
