"""The settings of `[maintenance]`: when the night is, and what is done in it."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

_Count = Annotated[int, Meta(ge=0, le=2**40)]


class Maintenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[maintenance]`: the nightly window, by the clock of a zone, and what is done in it."""

    window: str = "01:00-05:00"
    zone: str = "UTC"
    archive_dir: str = ""
    """Where a day of the request log goes before it is dropped; below the data dir where it is
    relative. Empty: it is dropped for good."""
    archive_format: Literal["csv", "parquet"] = "csv"
    """Of these days: CSV (gzip), written by Postgres itself, or Parquet (zstd), with typed columns;
    that needs the extra `relay[parquet]`."""
    backup_dir: str = ""
    """Where `deploy/backup.sh save` puts what it saves of this host: the night looks whether there
    is one, whole, and with the secrets of today. Empty: nobody looks."""
    backup_age_days_max: Annotated[int, Meta(ge=1, le=3650)] = 8
    """A back-up older than this is none: a week's, and a day to be late."""
    worker_bytes_max: _Count = 1024 * 1024 * 1024
    """A worker larger than this is followed by a new one at night, and finishes its streams beside
    it. A worker takes 60 to 100 MiB, and bodies under way; 0: none is."""


NO_NIGHT: Final = Maintenance()
