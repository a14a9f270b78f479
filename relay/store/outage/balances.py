"""What each account may spend, on this host's disk: credit for the time without Postgres.

Workers lease credit ahead of need, and live on it when Postgres goes away. An account that was
idle then, or a worker that starts then, has none leased. It may spend `[billing] outage_usd` at
most, and never more than the account had when the copy was made. So what an outage can cost is
known: so much for each account and worker, less what the account pays for after all.
"""

import logging
from pathlib import Path
from typing import Final

import msgspec

from relay.errors import NotFound
from relay.store.outage import checked
from relay.store.postgres import Connection

NAME: Final = "balances"

_FREE: Final = """
    SELECT account_id, balance_nanos + credit_limit_nanos - held_nanos AS free_nanos
    FROM balances JOIN accounts ON accounts.id = customer_id
    WHERE deleted_at IS NULL AND NOT disabled
        AND balance_nanos + credit_limit_nanos > held_nanos"""
_DECODER: Final = msgspec.msgpack.Decoder(dict[int, int])

_log = logging.getLogger(__name__)


def copy_path(data_dir: Path) -> Path:
    """Return where the copy is."""
    return data_dir / "copies" / NAME


async def read_balances(connection: Connection) -> dict[int, int]:
    """Return the nano-USD that each account has free; those that have none are left out."""
    rows = await connection.fetch(_FREE)
    return {row["account_id"]: row["free_nanos"] for row in rows}


def write_balances(path: Path, free_nanos: dict[int, int]) -> None:
    """Write the copy anew.

    Raises:
        OSError: The disk does not take it; the old copy stands.
    """
    checked.write(path, msgspec.msgpack.encode(free_nanos))


class OutageCredit:
    """What one worker may let accounts spend while Postgres is away (flow.ports.OutageLender).

    Args:
        path: Of the copy.
        nanos_max: For each account.
    """

    def __init__(self, path: Path, nanos_max: int) -> None:
        self._path = path
        self._nanos_max = nanos_max
        self._free_nanos: dict[int, int] | None = None

    def advance_nanos(self, account_id: int) -> int:
        """Return what an account may spend now; the copy is read when the first one asks."""
        if not self._nanos_max:
            return 0
        if self._free_nanos is None:
            self._free_nanos = self._read()
        return min(self._free_nanos.get(account_id, 0), self._nanos_max)

    def end(self) -> None:
        """Forget the copy: Postgres is back, and the next outage finds another one."""
        self._free_nanos = None

    def _read(self) -> dict[int, int]:
        try:
            return _DECODER.decode(checked.read(self._path).content)
        except (NotFound, msgspec.MsgspecError) as error:
            _log.warning("no credit without Postgres: %s", error)
            return {}
