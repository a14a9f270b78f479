"""The files of a journal: one folder per life of a worker, locked while it lives, and its segments.

    DIR/worker-0-3f9c1e.../lock               held by the writer; whoever else gets it: it is dead
                           000001.journal     layout in journal_read; visible once its head is in
                           000002.journal

A segment is final as soon as a later one is visible, or the writer's lock is free.
"""

import fcntl
import os
import re
import secrets
from pathlib import Path
from typing import Final

from relay.errors import Unavailable
from relay.store.log.frames import MAGIC

LOCK_NAME: Final = "lock"
SUFFIX: Final = ".journal"
_GENERATION: Final = re.compile(r"[^.].*-[0-9a-f]{16}")
_NUMBER: Final = re.compile(r"(\d{6,})" + re.escape(SUFFIX))
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND


class GenerationFolder:
    """The folder that one life of a worker writes to; the lock is held until close().

    The name is unique among all hosts that share a Postgres: the shipper's offsets go by it.

    Raises:
        Unavailable: RELAY; the folder cannot be made.
    """

    def __init__(self, directory: Path, worker: str) -> None:
        name = f"{worker}-{secrets.token_hex(8)}"
        self.path = directory / name
        unready = directory / f".{name}"
        try:
            unready.mkdir(mode=0o700, parents=True)
            self._lock_fd = os.open(unready / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            # Only now may the shipper see it: an unlocked folder is a dead worker's.
            unready.rename(self.path)
            sync_folder(directory)
        except OSError as exc:
            raise Unavailable(f"the journal folder cannot be made: {exc.strerror}") from exc

    def close(self) -> None:
        """Let go of the lock: the shipper may close and remove the folder."""
        os.close(self._lock_fd)


class Segment:
    """One append-only file of a generation. Every method raises OSError as the disk says it."""

    def __init__(self, folder: Path, number: int, head: bytes) -> None:
        """Create the file with its head; it appears under its name only when that is written."""
        self.path = folder / f"{number:06d}{SUFFIX}"
        self.tail_bytes = 0
        """Bytes written after the head."""
        self._named = False
        unready = self.path.with_suffix(".new")
        self._fd = os.open(unready, _CREATE, 0o600)
        try:
            self._write_all(MAGIC + head)
            unready.rename(self.path)
        except OSError:
            os.close(self._fd)
            unready.unlink(missing_ok=True)
            raise

    def append(self, frames: bytes) -> None:
        """Write `frames`. After an OSError nobody knows how much of them is in the file."""
        self._write_all(frames)
        self.tail_bytes += len(frames)

    def sync(self) -> None:
        """Put everything written so far onto the disk, the file's name included."""
        os.fdatasync(self._fd)
        if not self._named:
            sync_folder(self.path.parent)
            self._named = True

    def close(self) -> None:
        """Close the file; what was not synced is left to the kernel."""
        os.close(self._fd)

    def _write_all(self, content: bytes) -> None:
        written = os.write(self._fd, content)
        if written < len(content):
            # A regular file takes less than all only when the disk or a limit is reached; the
            # second write is there to learn which errno it is.
            rest = memoryview(content)[written:]
            if os.write(self._fd, rest) < len(rest):
                raise OSError(0, "short write")


def list_generations(directory: Path) -> list[Path]:
    """Return the generation folders in `directory`, and nothing that only lies beside them.

    A finished one gets removed, so what a mistaken [journal] dir holds must not look like one.
    """
    with os.scandir(directory) as entries:
        named = [Path(entry.path) for entry in entries if _GENERATION.fullmatch(entry.name)]
    return sorted(folder for folder in named if (folder / LOCK_NAME).is_file())


def list_segments(folder: Path) -> list[int]:
    """Return the numbers of the segments in `folder`, ascending; empty if it is gone."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - called every poll; names are all we need
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for name in names if (found := _NUMBER.fullmatch(name)))


def segment_path(folder: Path, number: int) -> Path:
    """Return where segment `number` of the generation in `folder` lies."""
    return folder / f"{number:06d}{SUFFIX}"


def sync_folder(folder: Path) -> None:
    """Put the names of `folder` onto the disk: a file can be synced and still lose its name."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
