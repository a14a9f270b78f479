"""The channels of the catalog as the control process knows them: names, addresses, credentials.

It follows channels only: keys and accounts, of which there may be very many, are the workers'.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import asyncpg

from relay.errors import RelayError
from relay.model import Channel
from relay.store import postgres
from relay.store.catalog import load_channels, read_generation
from relay.store.postgres import Connection
from relay.store.vault import Vault

POLL_S: Final = 2.0


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
                    await asyncio.sleep(POLL_S)
        finally:
            connection.terminate()  # A polite close could wait for a peer that is gone.

    def name(self, channel_id: int) -> str:
        """Return a channel's name, or something as good where Postgres was never there."""
        channel = self.channels.get(channel_id)
        return f"#{channel_id}" if channel is None else channel.name
