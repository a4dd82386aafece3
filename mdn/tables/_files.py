"""Files that hold tables: where they are, how they are compressed and which format they have."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

__all__ = ["File", "Source", "binary_batches", "binary_table", "files_of", "use"]

Source = str | os.PathLike[str] | BinaryIO | Sequence[str | os.PathLike[str]]

_CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
_FORMATS = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"FEA1": "feather",
    b"\xff\xff\xff\xff": "stream",
    b"PK\x03\x04": "zip",
}
# Endings by which the files of a folder count as tables.
_ENDINGS = {".csv", ".tsv", ".txt", ".tab", ".parquet", ".pq", ".arrow", ".feather", ".ipc"}
_COMPRESSED = {".gz", ".zst", ".bz2"}


def use(name: str, value: str = "") -> str:
    """Returns an option of the command line and the argument of :func:`read_table`."""
    if not value:
        return f"--{name.replace('_', '-')}"
    shown = value if value.isdecimal() else repr(value)
    return f"--{name.replace('_', '-')} {shlex.quote(value)} (in Python {name}={shown})"


@dataclass
class File:
    """A file on the disk, with the name under which messages speak of it."""

    path: str
    name: str

    def open(self) -> Any:
        """Returns its bytes, without compression, as a stream of pyarrow."""
        import pyarrow as pa

        raw = pa.OSFile(self.path)
        start = raw.read(4)
        raw.seek(0)
        codec = next((c for magic, c in _CODECS.items() if start.startswith(magic)), None)
        return raw if codec is None else pa.CompressedInputStream(raw, codec)

    def random(self) -> Any:
        """Returns its bytes as a stream that can be read at any place."""
        import pyarrow as pa

        stream = self.open()
        return stream if isinstance(stream, pa.OSFile) else pa.BufferReader(stream.read())

    def format(self) -> str:
        """Returns ``parquet``, ``arrow``, ``feather``, ``stream`` or ``csv``, by the first bytes.

        Raises:
            ValueError: it is empty, or an archive or a workbook.
        """
        with self.open() as stream:
            start = stream.read(8)
        if not start:
            raise ValueError(f"{self.name} is empty; it must be a CSV file with a header and rows")
        found = next((f for magic, f in _FORMATS.items() if start.startswith(magic)), "csv")
        if found == "zip":
            raise ValueError(
                f"{self.name} is a ZIP archive or an Excel workbook; save the table as "
                "CSV or Parquet"
            )
        return found


def files_of(source: Source) -> list[File]:
    """Returns the files of a source, those of a folder in the order of their names.

    Raises:
        FileNotFoundError: one does not exist, or a folder holds no table.
        TypeError: it is no path, list of paths or binary file.
    """
    if isinstance(source, (str, os.PathLike)):
        if source == "-":
            return [_copied(sys.stdin.buffer, "standard input")]
        return _of_path(Path(source))
    if isinstance(source, (list, tuple)):
        if not source:
            raise ValueError("source must name at least one file; got an empty list")
        return [file for item in source for file in files_of(item)]
    if not isinstance(source, Sequence) and hasattr(source, "read"):
        name = getattr(source, "name", None)
        return [_copied(source, name if isinstance(name, str) else "the file")]
    raise TypeError(
        f"source must be a path, a list of paths or a binary file; got {type(source).__name__}"
    )


def _of_path(path: Path) -> list[File]:
    if path.is_dir():
        found = [
            item
            for item in sorted(path.rglob("*"))
            if item.is_file()
            and not any(part.startswith((".", "_")) for part in item.relative_to(path).parts)
            and _ending(item) in _ENDINGS
        ]
        if not found:
            raise FileNotFoundError(
                f"the folder {path} has no file that ends in {', '.join(sorted(_ENDINGS))}"
            )
        return [File(str(item), str(item)) for item in found]
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():  # a named pipe, which can be read once
        with open(path, "rb") as stream:
            return [_copied(stream, str(path))]
    return [File(str(path), str(path))]


def _ending(path: Path) -> str:
    endings = [ending.lower() for ending in path.suffixes]
    return next((e for e in reversed(endings) if e not in _COMPRESSED), "")


def _copied(stream: IO[bytes], name: str) -> File:
    """A stream as a temporary file: it is read more than once, to guess and to name a line."""
    held = tempfile.NamedTemporaryFile()  # noqa: SIM115, it lives as long as the File
    file = File(held.name, name)
    weakref.finalize(file, held.close)
    try:
        shutil.copyfileobj(stream, held)
    except TypeError:
        raise TypeError("source must be a file that is open for bytes, not for text") from None
    held.flush()
    return file


def binary_table(file: File, form: str) -> Any:
    """Returns a Parquet, Arrow or Feather file as a table of pyarrow."""
    import pyarrow as pa

    if form == "feather":
        from pyarrow import feather

        return feather.read_table(file.random())
    batches = list(binary_batches(file, form, None))
    return pa.concat_tables(batches)


def binary_batches(file: File, form: str, rows: int | None) -> Iterator[Any]:
    """Yields tables of at most so many rows; the first, perhaps without rows, has the names.

    Raises:
        ValueError: the file is damaged.
    """
    import pyarrow as pa

    try:
        if form == "parquet":
            from pyarrow import parquet

            with parquet.ParquetFile(file.random()) as source:
                yield source.schema_arrow.empty_table()
                if rows is None:
                    yield source.read()
                    return
                for batch in source.iter_batches(rows):
                    yield pa.Table.from_batches([batch])
        elif form == "feather":
            table = binary_table(file, form)
            yield from (pa.Table.from_batches([b]) for b in table.to_batches(rows))
        else:
            opened = (pa.ipc.open_file if form == "arrow" else pa.ipc.open_stream)(file.random())
            yield opened.schema.empty_table()
            count = getattr(opened, "num_record_batches", None)
            found = opened if count is None else (opened.get_batch(i) for i in range(count))
            for batch in found:
                table = pa.Table.from_batches([batch])
                step = max(rows or batch.num_rows, 1)
                for start in range(0, batch.num_rows, step):
                    yield table.slice(start, step)
    except pa.ArrowException as error:
        raise ValueError(f"{file.name} is damaged: {' '.join(str(error).split())}") from error
