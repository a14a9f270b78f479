"""What a new-api or one-api relay keeps, as rows: from its SQLite file, or from JSON of its tables.

    one-api.db                                            } -> Tables
    {"channels": [...], "tokens": [...], "users": [...],  }
     "options": [{"key": ..., "value": ...}, ...]}        }

JSON is for those that run on MySQL or Postgres: each table as rows, by whatever tool.
"""

import contextlib
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.errors import ConfigError

_MAGIC: Final = b"SQLite format 3\x00"
_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")
_WHOLE_MAX: Final = 2**63 - 1
_NAMES: Final = ("channels", "tokens", "users", "options")

Row = Mapping[str, Any]


class Tables(msgspec.Struct, frozen=True):
    """Rows as they stand there; those that were deleted are left out."""

    channels: list[dict[str, Any]] = []
    tokens: list[dict[str, Any]] = []
    users: list[dict[str, Any]] = []
    options: list[dict[str, Any]] = []


def read_tables(path: Path) -> Tables:
    """Return what a file holds.

    Raises:
        ConfigError: It cannot be read, or holds none of these tables.
    """
    try:
        with path.open("rb") as file:
            is_database = file.read(len(_MAGIC)) == _MAGIC
        found = _of_database(path) if is_database else _of_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (Undecodable, sqlite3.Error, ValueError) as error:
        raise ConfigError(f"{path}: not the tables of a new-api: {error}") from None
    if not (found.channels or found.tokens or found.users or found.options):
        raise ConfigError(f"{path}: none of the tables {', '.join(_NAMES)} has a row")
    return Tables(*(_left(getattr(found, name)) for name in _NAMES))


def _of_database(path: Path) -> Tables:
    rows: dict[str, list[dict[str, Any]]] = {}
    address = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
        database.row_factory = sqlite3.Row
        # A text that is none would end all of it, with its value in the error.
        database.text_factory = lambda text: text.decode("utf-8", "replace")
        there = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
        for name in _NAMES:
            if name in there:
                rows[name] = [dict(row) for row in database.execute(f"SELECT * FROM {name}")]  # noqa: S608 - one of four names
    return Tables(**rows)


def _of_json(raw: bytes) -> Tables:
    return Decoder(Tables).decode(raw)


def _left(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if not (row.get("deleted_at") or row.get("DeletedAt"))]


def whole(row: Row, name: str, default: int = 0) -> int:
    """Return a number; tools that write tables as JSON may write each as text, or as 1.0.

    Raises:
        ValueError: It is there, and none.
    """
    found = row.get(name)
    if found is None or found == "":
        return default
    if isinstance(found, str):
        found = int(found) if _WHOLE.fullmatch(found) else None
    elif isinstance(found, float):
        found = int(found) if found.is_integer() else None
    if not isinstance(found, int) or abs(found) > _WHOLE_MAX:
        raise ValueError(f"its {name} is no whole number")
    return int(found)


def order(row: Row, name: str = "priority") -> int:
    """Return a number to sort or find by, 0 where it is none."""
    with contextlib.suppress(ValueError):
        return whole(row, name)
    return 0


def flag(row: Row, name: str) -> bool:
    """Return yes or no, however it is written.

    Raises:
        ValueError: It is neither.
    """
    found = row.get(name)
    word = found.lower() if isinstance(found, str) else found
    if word in (None, "", 0, "0", "f", "false"):
        return False
    if word in (1, "1", "t", "true"):
        return True
    raise ValueError(f"its {name} is neither yes nor no")
