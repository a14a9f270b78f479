"""Files that are whole or not there: written aside, synced, renamed, with a checksum in front.

    magic | SHA-256 of the rest (32 bytes) | content

The age of a file is the age of what it says: `confirm` says that nothing has changed since.
"""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Final, NamedTuple

from relay.errors import NotFound

MAGIC: Final = b"relay copy 1\n"
BYTES_MAX: Final = 1024 * 1024 * 1024


class CheckedFile(NamedTuple):
    """What a file holds. `confirmed_s`: seconds since 1970 when it was last known to be so."""

    content: bytes
    confirmed_s: float


def write(path: Path, content: bytes) -> None:
    """Replace the file by `content`; whoever reads finds the old or the new one whole.

    Raises:
        OSError: It could not be written; the old one stands.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as stream:
            stream.write(MAGIC + hashlib.sha256(content).digest())
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def confirm(path: Path) -> None:
    """Say that the file is as good as new; without one, or without a disk, do nothing."""
    with contextlib.suppress(OSError):
        os.utime(path)


def read(path: Path) -> CheckedFile:
    """Return what the file holds.

    Raises:
        NotFound: There is none, or it is damaged; the message says which.
    """
    try:
        with path.open("rb") as stream:
            found = stream.read(BYTES_MAX)
            confirmed_s = os.fstat(stream.fileno()).st_mtime
    except FileNotFoundError:
        raise NotFound(f"there is no {path}") from None
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from error
    head = len(MAGIC) + hashlib.sha256().digest_size
    content = found[head:]
    if found[:head] != MAGIC + hashlib.sha256(content).digest():
        raise NotFound(f"{path} is damaged")
    return CheckedFile(content, confirmed_s)
