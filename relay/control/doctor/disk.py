"""Room for the journal, what of it is not in Postgres yet, and who can read the secrets."""

import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from relay.config import Config
from relay.control.doctor.diagnosis import Diagnosis, judge
from relay.store.log.files import list_generations, list_segments, segment_path
from relay.store.log.writer import Mark

ROOM_FACTOR: Final = 4
"""New paid work stops below [journal] reserve_bytes: four times that is time to act."""
MIB: Final = 1024 * 1024
SECRETS: Final = ("pepper.key", "master.key", "admin.token")


def check_disk(config: Config, data_dir: Path) -> Iterator[Diagnosis]:
    """Yield what the data dir and its disk are like."""
    yield check_room(config, journal_folder(config, data_dir))
    yield from check_secrets(data_dir)


def journal_folder(config: Config, data_dir: Path) -> Path:
    """Return where the workers write."""
    return Path(config.journal.dir) if config.journal.dir else data_dir / "journal"


def check_room(config: Config, folder: Path) -> Diagnosis:
    """Judge the free disk under the journal."""
    place = _nearest(folder)
    free = shutil.disk_usage(place).free
    stops = config.journal.reserve_bytes
    return judge(
        "disk",
        f"{free // MIB} MiB free at {place}; below {stops // MIB} MiB no new paid work is taken",
        f"make room at {place}, or a larger disk; [log] retention_days if Postgres is on it too",
        ok=free >= ROOM_FACTOR * stops,
    )


def check_backlog(config: Config, folder: Path, marks: Mapping[str, Mark]) -> Diagnosis:
    """Judge how much of the journal is not in the request log.

    Args:
        config: How large a segment is: so much may be on its way.
        folder: The journal's.
        marks: How far each generation is in the log.
    """
    waiting = sum(_unread(place, marks.get(place.name, Mark())) for place in _generations(folder))
    return judge(
        "journal backlog",
        f"{waiting // MIB} MiB of calls are not in Postgres yet",
        "systemctl status relay; the log's `shipping` lines say why rows do not get there",
        ok=waiting <= config.journal.segment_bytes_max,
    )


def check_secrets(data_dir: Path) -> Iterator[Diagnosis]:
    """Yield whether those secrets that lie here are their owner's alone."""
    files = [data_dir / "secrets" / name for name in SECRETS]
    there = [file for file in files if file.is_file()]
    if not there:
        return
    open_ones = [file.name for file in there if stat.S_IMODE(file.stat().st_mode) & 0o077]
    folder = data_dir / "secrets"
    yield judge(
        "secrets",
        f"others can read {', '.join(open_ones)}" if open_ones else "their owner's alone",
        f"chmod 0600 {folder}/*; whoever could read them may have: then change them",
        ok=not open_ones,
    )


def _generations(folder: Path) -> list[Path]:
    try:
        return list_generations(folder)
    except OSError:
        return []


def _unread(place: Path, mark: Mark) -> int:
    total = 0
    for number in list_segments(place):
        size = _size(segment_path(place, number))
        if number > mark.segment:
            total += size
        elif number == mark.segment:
            total += max(0, size - mark.offset)
    return 0 if mark.closed else total


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # shipped and removed meanwhile
        return 0


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place
