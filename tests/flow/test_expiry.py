"""Goal: thousands of clients that are late at once are ended without holding up the others.

Method: connections that never ask, made together; what one turn of the loop ends is counted.
"""

import asyncio
import contextlib
import itertools

import pytest

from relay.config import Config, Timeouts
from relay.edge.client.connection import ClientConnection
from relay.edge.server import EXPIRED_A_TURN
from tests.flow.rig import Rig, make_channel, make_snapshot
from tests.flow.test_open_streams import until

CLIENTS = 3 * EXPIRED_A_TURN


async def test_clients_that_are_late_together_are_ended_a_few_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Config(timeouts=Timeouts(head_s=0.2))
    ended_at: list[float] = []
    loop = asyncio.get_running_loop()
    async with Rig(make_snapshot([make_channel(1, 1)]), config) as rig:
        opened = [await asyncio.open_connection("127.0.0.1", rig.port) for _ in range(CLIENTS)]
        connections = rig.server._connections.open
        await until(lambda: len(connections) == CLIENTS)
        forget = rig.server._connections.forget_connection

        def note(connection: ClientConnection) -> None:
            ended_at.append(loop.time())
            forget(connection)

        monkeypatch.setattr(rig.server._connections, "forget_connection", note)
        await until(lambda: not connections)
        for _, writer in opened:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
    assert len(ended_at) == CLIENTS
    pauses = [after - before for before, after in itertools.pairwise(ended_at)]
    assert sum(pause > 0.01 for pause in pauses) >= CLIENTS // EXPIRED_A_TURN - 1
