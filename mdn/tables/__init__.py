"""Reading of tables and the encoding of their columns: :class:`Columns`."""

from __future__ import annotations

from ._columns import MAX_CATEGORIES, Columns, count_rows, warn_of_columns
from ._csv import read_csv

__all__ = ["MAX_CATEGORIES", "Columns", "count_rows", "read_csv", "warn_of_columns"]
