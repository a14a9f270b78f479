"""The channels of the catalog as the control process knows them: names, addresses, credentials.

It follows channels only: keys and accounts, of which there may be very many, are the workers'.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import asyncpg

from relay.clock import until_beat_s
from relay.errors import RelayError
from relay.model import Channel
from relay.store import postgres
from relay.store.catalog.snapshot import load_channels, read_generation
from relay.store.kept import Kept
from relay.store.postgres import Connection, hang_up
from relay.store.secrets.vault import Vault
from relay.tasks import Bell

POLL_S: Final = 10.0
"""Whoever follows the catalog rings where it has changed; this is for what that would miss."""
NAME_S: Final = 5.0


class ChannelBook:
    """All channels by id, kept current; while Postgres is away, as they last were.

    Args:
        connect: Returns a new connection to the catalog.
        vault: Opens the channels' credentials.
        changed: Rings where the catalog has changed.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], vault: Vault, changed: Bell
    ) -> None:
        self._changed = changed
        self.channels: Mapping[int, Channel] = {}
        self._connect = connect
        self._vault = vault
        self._generation: int | None = None
        self._loaded = asyncio.Event()

    async def follow_forever(self) -> None:
        """Keep `channels` current."""
        kept = Kept(self._connect, hang_up)
        try:
            while True:
                # The shipper says that Postgres is away; this only waits for it.
                with contextlib.suppress(RelayError, asyncpg.PostgresError):
                    await self._look(kept)
                await self._changed.wait(until_beat_s(POLL_S))
        finally:
            kept.close()

    async def _look(self, kept: Kept[Connection]) -> None:
        with postgres.border():
            async with kept.use() as connection:
                generation = await read_generation(connection)
                if generation != self._generation:
                    self.channels = await load_channels(connection, self._vault)
                    self._generation = generation
                    self._loaded.set()

    async def name(self, channel_id: int) -> str:
        """Return a channel's name, "#ID" where it cannot be found out within NAME_S.

        Right after a start, or for a channel that was added a moment ago, that is worth a wait.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NAME_S):
                while channel_id not in self.channels:
                    self._loaded.clear()
                    self._changed.ring()
                    await self._loaded.wait()
        channel = self.channels.get(channel_id)
        return f"#{channel_id}" if channel is None else channel.name
