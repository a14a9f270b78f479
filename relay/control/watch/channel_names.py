"""The channels of the catalog as the control process knows them: names, addresses, credentials.

It follows channels only: keys and accounts, of which there may be very many, are the workers'.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import asyncpg

from relay.errors import RelayError
from relay.model import Channel
from relay.store import postgres
from relay.store.catalog.snapshot import load_channels, read_generation
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault

POLL_S: Final = 2.0
NAME_S: Final = 5.0


class ChannelBook:
    """All channels by id, kept current; while Postgres is away, as they last were.

    Args:
        connect: Returns a new connection to the catalog.
        vault: Opens the channels' credentials.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], vault: Vault) -> None:
        self.channels: Mapping[int, Channel] = {}
        self._connect = connect
        self._vault = vault
        self._loaded = asyncio.Event()

    async def follow_forever(self) -> None:
        """Keep `channels` current."""
        while True:
            try:
                await self._follow()
            except (RelayError, asyncpg.PostgresError):
                # The shipper says that Postgres is away; this only waits for it.
                await asyncio.sleep(POLL_S)

    async def _follow(self) -> None:
        connection = await self._connect()
        try:
            with postgres.border():
                known = None
                while True:
                    generation = await read_generation(connection)
                    if generation != known:
                        self.channels = await load_channels(connection, self._vault)
                        known = generation
                        self._loaded.set()
                    await asyncio.sleep(POLL_S)
        finally:
            connection.terminate()  # A polite close could wait for a peer that is gone.

    async def name(self, channel_id: int) -> str:
        """Return a channel's name, "#ID" where it cannot be found out within NAME_S.

        Right after a start, or for a channel that was added a moment ago, that is worth a wait.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NAME_S):
                while channel_id not in self.channels:
                    self._loaded.clear()
                    await self._loaded.wait()
        channel = self.channels.get(channel_id)
        return f"#{channel_id}" if channel is None else channel.name
