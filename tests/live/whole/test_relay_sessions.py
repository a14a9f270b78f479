"""Goal: sessions of turns lose none when workers are rolled, and no money when they are killed.

Method: a whole relay before a provider that speaks HTTP alone; agents that hold a session each,
ask one turn after the other, and connect anew when they are told that the relay restarts, as Codex
does. The request log, the balances and the audit are the judges.
"""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.store.billing.audit import run_audit
from tests.flow.test_sessions import create, hear
from tests.live.relay_process import until_told
from tests.live.whole.test_relay_background import COST_NANOS, Town, town

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

AGENTS = 6
PAUSE_S = 0.25
TURNS_MAX = 40
"""Of each: however long a roll takes, their account's credit covers them."""
RESTARTED = 1012
ENDS = ("response.completed", "response.failed", "error")


class Agent:
    """Holds a session; `cut` counts turns of which something came, but not the end."""

    def __init__(self, it: Town, http: aiohttp.ClientSession) -> None:
        self._it = it
        self._http = http
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self.done = self.cut = self.restarts = 0

    async def connect(self) -> aiohttp.ClientWebSocketResponse:
        if self._socket is None or self._socket.closed:
            headers = {"Authorization": f"Bearer {self._it.key}"}
            url = f"{self._it.relay.url}/responses"
            self._socket = await self._http.ws_connect(url, headers=headers)
        return self._socket

    async def ask(self, said: str) -> aiohttp.ClientWebSocketResponse:
        socket = await self.connect()
        await socket.send_json(create(said, model="deep", max_output_tokens=10))
        return socket

    async def turn(self, said: str) -> None:
        """Have a turn done, over a new session where this one ends before it began."""
        while True:
            events: list[str] = []
            with contextlib.suppress(AssertionError, ConnectionError):  # the session ended
                socket = await self.ask(said)
                while not events or events[-1] not in ENDS:
                    event = await hear(socket)
                    events.append(event["type"])
            if events and events[-1] in ENDS:
                assert events[-1] == "response.completed", event
                self.done += 1
                return
            assert self._socket is not None
            self.restarts += self._socket.close_code == RESTARTED
            self.cut += bool(events)
            await self._socket.close()


async def test_a_roll_of_the_workers_loses_no_turn(reachable: Path) -> None:
    async with town(reachable / "rolled") as it, aiohttp.ClientSession() as http:
        agents = [Agent(it, http) for _ in range(AGENTS)]
        before = {slot: pid for slot, (pid, _) in it.relay.workers().items()}
        over = asyncio.Event()

        async def work(agent: Agent) -> None:
            number = 0
            while number < (5 if over.is_set() else TURNS_MAX):
                await agent.turn(f"turn {number}")
                number += 1
                await asyncio.sleep(PAUSE_S)

        working = [asyncio.create_task(work(agent)) for agent in agents]
        await asyncio.sleep(1.0)
        it.relay.process.send_signal(signal.SIGHUP)
        await it.renewed(before)
        await asyncio.sleep(2.0)
        over.set()
        await asyncio.gather(*working)
        assert sum(agent.cut for agent in agents) == 0
        assert sum(agent.restarts for agent in agents) >= 1  # some sessions were open meanwhile
        done = sum(agent.done for agent in agents)
        rows = await it.settled(done)
        assert {row["reason"] for row in rows} == {"completed"}
        assert sum(row["cost_nanos"] for row in rows) == done * COST_NANOS


async def test_a_worker_that_is_killed_in_mid_turn_loses_no_money(reachable: Path) -> None:
    async with town(reachable / "killed") as it, aiohttp.ClientSession() as http:
        agents = [Agent(it, http) for _ in range(AGENTS)]
        for number in range(3):
            await asyncio.gather(*(agent.turn(f"turn {number}") for agent in agents))
        it.provider.holds = asyncio.Event()
        for agent in agents:
            await agent.ask("a long one")
        asked = 4 * AGENTS
        async with asyncio.timeout(20):
            while len(it.provider.bodies) < asked:
                await asyncio.sleep(0.02)
        before = {slot: pid for slot, (pid, _) in it.relay.workers().items()}
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        await it.renewed(before)

        async def all_there() -> list[dict[str, Any]]:
            rows = await it.rows()
            return rows if len(rows) >= asked else []

        rows = await until_told(all_there, "every turn is in the log", 60.0)
        it.provider.holds.set()
        whole = [row for row in rows if row["reason"] == "completed"]
        assert len(rows) == asked and len(whole) == 3 * AGENTS
        assert sum(row["cost_nanos"] for row in whole) == 3 * AGENTS * COST_NANOS
        assert {row["reason"] for row in rows} == {"completed", "interrupted"}
        assert (await run_audit(it.database)).drifts == []
        await asyncio.gather(*(agent.turn("and on") for agent in agents))
