"""What an archive is: one file with the calls of one day, whole or not there at all.

    COPY of a day, as CSV --> a sink of the format --> .DAY.draft --fsync, rename--> DAY.csv.gz

A day may be archived twice: its host dies before the day is dropped, a lock is not free in time, a
night is called off. All its rows are there still, so the second file takes the place of the first,
whichever format that had, and no row stands in two files.
"""

import asyncio
import contextlib
import datetime
import gzip
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from relay.control.night.shapes import StepFailed, Turn
from relay.store.log.partitions import Day

GZIP_LEVEL: Final = 6
"""A core packs about 40 MB of log a second."""
_ROWS: Final = "SELECT * FROM request_log WHERE ended_at < $1"


class Column(NamedTuple):
    """A column of the log, and what Postgres calls its type: `int8`, `timestamptz`."""

    name: str
    kind: str


class Sink(Protocol):
    """A file under way. It is called by one thread at a time, none of them the loop's."""

    def write(self, rows: bytes, /) -> object:
        """Take some rows: whole lines of CSV as Postgres writes it.

        Raises:
            OSError: The disk does not take them.
            StepFailed: They cannot be written in this format.
        """

    def close(self) -> None:
        """Write what is left, and what makes the file whole; raises as `write` does."""


class Format(NamedTuple):
    """A form of archive. `header`: whether its rows come behind a line with their names."""

    suffix: str
    header: bool
    open: Callable[[Path, Sequence[Column]], Sink]


def _open_csv(draft: Path, _columns: Sequence[Column]) -> Sink:
    return gzip.open(draft, "wb", compresslevel=GZIP_LEVEL)


def _open_parquet(draft: Path, columns: Sequence[Column]) -> Sink:
    from relay.control.night.parquet import ParquetFile  # pyarrow is there by choice alone

    return ParquetFile(draft, columns)


FORMATS: Final = {
    "csv": Format(".csv.gz", True, _open_csv),  # noqa: FBT003
    "parquet": Format(".parquet", False, _open_parquet),  # noqa: FBT003
}
"""By what `[maintenance] archive_format` says."""


class Archives:
    """A folder of days, written in one format.

    Args:
        folder: Made where it is not there; may have days of the other format, from before.
        form: One of FORMATS.
    """

    def __init__(self, folder: Path, form: Format) -> None:
        self._folder = folder
        self._form = form

    async def keep(self, turn: Turn, day: Day) -> int:
        """Write the calls of a day, and older ones that found none, to its file; return how many.

        Days before it must be gone from the log: theirs are older calls too.

        Raises:
            StepFailed: The file cannot be written; what had the day's name before has it still.
        """
        draft = self._folder / f".{day.name}.draft"
        try:
            await _in_thread(partial(_claim, draft))
            rows = await self._fill(turn, day, draft)
            await _in_thread(partial(self._name, draft, day.name))
        except OSError as exc:
            raise StepFailed(f"{self._folder}: {exc.strerror or exc}") from exc
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()
        return rows

    async def _fill(self, turn: Turn, day: Day, draft: Path) -> int:
        until = datetime.datetime.combine(day.day, datetime.time(), datetime.UTC)
        until += datetime.timedelta(days=1)
        found = (await turn.connection.prepare(_ROWS)).get_attributes()
        columns = [Column(one.name, one.type.name) for one in found]
        sink: Sink = await _in_thread(partial(self._form.open, draft, columns))

        failed: list[Exception] = []

        async def write(rows: bytes) -> None:
            # What is raised in here leaves the connection waiting for an end that has been: so the
            # rest of the day goes by.
            if failed:
                return
            try:
                await _in_thread(partial(sink.write, rows))
            except (OSError, StepFailed) as exc:
                failed.append(exc)

        status = await turn.connection.copy_from_query(
            _ROWS,
            until,
            output=write,
            format="csv",
            header=self._form.header,
            timeout=turn.left_s,
        )
        if failed:
            raise failed[0]
        await _in_thread(sink.close)
        return int(status.rpartition(" ")[2])

    def _name(self, draft: Path, name: str) -> None:
        """Give a whole draft its name, safely on disk, and take it from the other formats."""
        with draft.open("rb+") as written:
            os.fsync(written.fileno())
        draft.replace(self._folder / f"{name}{self._form.suffix}")
        for other in FORMATS.values():
            if other.suffix != self._form.suffix:
                (self._folder / f"{name}{other.suffix}").unlink(missing_ok=True)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


async def _in_thread(do: Callable[[], Any]) -> Any:
    """Do it in a thread, and leave no thread at work on a file that is given up."""
    working = asyncio.get_running_loop().run_in_executor(None, do)
    try:
        return await asyncio.shield(working)
    finally:
        await asyncio.wait([working])


def _claim(draft: Path) -> None:
    """Make the file ours alone, empty."""
    draft.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
