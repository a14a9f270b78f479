"""Is there a back-up of this host that would help? Looked for where `[maintenance]` says.

What is looked at is what nobody can make anew: secrets and configuration, by their sums, and that
the secrets are those of today. Whether the dump restores, only a restore can tell.
"""

import asyncio
import datetime
import hashlib
from pathlib import Path
from typing import Final

from relay.control.night.shapes import Plan, Step, StepFailed, Turn
from relay.store.postgres import Connection

SUMS: Final = "SHA256SUMS"
LOOKED_AT: Final = ("secrets", "config")
SECRETS: Final = ("pepper.key", "master.key")
STAMP: Final = "relay-%Y%m%dT%H%M%SZ"
"""How deploy/backup.sh names what it saves."""


class Backups:
    """Looks for back-ups.

    Args:
        folder: Where they are; None: nobody looks.
        data_dir: Whose secrets have to be in it.
        age_days_max: How old the newest may be.
    """

    def __init__(self, folder: Path | None, data_dir: Path, age_days_max: int) -> None:
        self._folder = folder
        self._data_dir = data_dir
        self._age_max = datetime.timedelta(days=age_days_max)

    async def plan(self, _connection: Connection, now: datetime.datetime) -> Plan:
        """Return the one step, or that nobody asked for it."""
        folder = self._folder
        if folder is None:
            return Plan([], "no [maintenance] backup_dir")

        async def do(_turn: Turn) -> str:
            return await asyncio.to_thread(self.examine, folder, now)

        return Plan([Step("back-up", do)])

    def examine(self, folder: Path, now: datetime.datetime) -> str:
        """Return which back-up is good.

        Raises:
            StepFailed: None is; says why.
        """
        try:
            newest, made_at = _find_newest(folder)
            if now - made_at > self._age_max:
                raise StepFailed(f"{newest.name} is {(now - made_at).days} days old")
            _check_sums(newest)
            self._compare_secrets(newest)
        except OSError as exc:
            raise StepFailed(f"{exc.filename}: {exc.strerror}") from exc
        return f"{newest.name} is whole"

    def _compare_secrets(self, newest: Path) -> None:
        """Secrets that are kept elsewhere (`cred:`) are in no folder of ours, and not looked at."""
        for name in SECRETS:
            ours = self._data_dir / "secrets" / name
            if ours.is_file() and _digest(ours) != _digest(newest / "secrets" / name):
                raise StepFailed(f"{newest.name} has another {name} than this host")


def _find_newest(folder: Path) -> tuple[Path, datetime.datetime]:
    found = []
    for path in folder.iterdir():
        try:
            made_at = datetime.datetime.strptime(path.name, STAMP).replace(tzinfo=datetime.UTC)
        except ValueError:
            continue
        found.append((made_at, path))
    if not found:
        raise StepFailed(f"{folder} holds no back-up")
    made_at, newest = max(found)
    return newest, made_at


def _check_sums(newest: Path) -> None:
    for line in (newest / SUMS).read_text().splitlines():
        digest, _, name = line.partition("  ")
        path = newest / name
        if path.relative_to(newest).parts[0] not in LOOKED_AT:
            if not path.exists():
                raise StepFailed(f"{path} is missing")
        elif _digest(path) != digest:
            raise StepFailed(f"{path} is damaged")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
