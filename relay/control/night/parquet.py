"""The calls of a day as Parquet: typed columns, in groups of rows, one of them in memory.

Arrow reads the lines that Postgres writes by itself, without an object for each value and without
holding the interpreter, so that the shipper beside it goes on. It is imported where it is used:
pyarrow is an extra, `relay[parquet]`, and takes 54 MiB of memory.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyarrow import csv
from pyarrow import parquet as pq

from relay.control.night.archives import Column
from relay.control.night.shapes import StepFailed

GROUP_BYTES: Final = 8 * 1024 * 1024
"""Of CSV, 40,000 calls or so: enough that columns pack well, and 90 MiB of memory at most."""
_WORD: Final = pa.dictionary(pa.int32(), pa.string())
_TYPES: Final[dict[str, pa.DataType]] = {
    "bool": pa.bool_(),
    "float8": pa.float64(),
    "inet": _WORD,
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "text": _WORD,
    "timestamptz": pa.timestamp("us", "UTC"),
}
"""By the names that Postgres has for types. Money is an int8, nanos of a dollar, and stays one;
what is not here (a call's id, JSON) is text of its own in each row."""


class ParquetFile:
    """A file under way; see `archives.Sink`."""

    def __init__(
        self, draft: Path, columns: Sequence[Column], group_bytes: int = GROUP_BYTES
    ) -> None:
        types = {one.name: _TYPES.get(one.kind, pa.string()) for one in columns}
        self._schema = pa.schema(types)
        self._read = csv.ReadOptions(column_names=list(types), use_threads=False)
        self._parse = csv.ParseOptions(newlines_in_values=True)
        # Postgres writes NULL as nothing, and an empty text as "".
        self._convert = csv.ConvertOptions(
            column_types=self._schema,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        self._writer = pq.ParquetWriter(draft, self._schema, compression="zstd")
        self._lines: list[bytes] = []
        self._bytes = 0
        self._group_bytes = group_bytes

    def write(self, rows: bytes, /) -> None:
        """Take some rows, and write those of a group together."""
        self._lines.append(rows)
        self._bytes += len(rows)
        if self._bytes >= self._group_bytes:
            self._write_group()

    def close(self) -> None:
        """Write the last group, and the footer; give back the memory that it took."""
        if self._bytes:
            self._write_group()
        self._writer.close()
        pa.default_memory_pool().release_unused()

    def _write_group(self) -> None:
        lines = b"".join(self._lines)
        self._lines.clear()
        self._bytes = 0
        self._read.block_size = len(lines) + 1  # in one go: a group is what was collected
        try:
            rows = csv.read_csv(io.BytesIO(lines), self._read, self._parse, self._convert)
            self._writer.write_table(rows, row_group_size=rows.num_rows)
        except pa.ArrowInvalid as exc:
            # Its message may quote a row, which is not for a log.
            raise StepFailed("a row of the log does not fit its Parquet column") from exc
