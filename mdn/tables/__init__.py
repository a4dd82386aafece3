"""Reading of tables from files, and the encoding of their columns: :class:`Columns`."""

from __future__ import annotations

from ._columns import MAX_CATEGORIES, Columns, count_rows, warn_of_columns
from ._files import files_of
from ._reader import Reader, ReadOptions, read_batches, read_table
from ._roles import date_columns, identifiers

__all__ = [
    "MAX_CATEGORIES",
    "Columns",
    "ReadOptions",
    "Reader",
    "count_rows",
    "date_columns",
    "files_of",
    "identifiers",
    "read_batches",
    "read_table",
    "warn_of_columns",
]
