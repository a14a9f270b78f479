"""A relay under load whose processes are killed at random moments, its books checked after each.

    Mine   clients (streams, whole answers, some hang up), recharges, a scripted upstream
      .crash(dice)   load, SIGKILL of something at some moment, load, recovery
      .check()       every row against what the upstream wrote down itself

What must hold, of every call there ever was:

- A call whose client got a byte has exactly one row, and no call has two.
- A completed row costs, to the nano-dollar, the tokens in the upstream's own record.
- Any other row costs what its estimate says: the prompt by its length, and of the output no more
  than the upstream had written (two events beside the tokens may be counted: role and ending), and
  no less than its client had got when it hung up.
- The balance is what was recharged less the sum of the rows; each order is credited once; the audit
  finds no drift (balances, leases, settlements, charges).

A call is known to the upstream by the length of its prompt, which no two calls share.
"""

import asyncio
import contextlib
import json
import math
import os
import random
import re
import signal
import subprocess
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import aiohttp
import msgspec

from relay.config import Config
from relay.mock.record import ServedRecord
from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.embedded.locate import database_url
from relay.store.log.files import list_generations
from relay.store.postgres import Connection
from tests.live.relay_process import (
    RELAY,
    RelayProcess,
    family,
    left_of,
    processes,
    send,
    until,
    until_told,
)

CLIENTS = 10
PATIENCE_S = 30.0
NANOS_IN, NANOS_OUT, MULTIPLIER = 3_100, 7_300, Fraction("0.77")
RECHARGE_USD = 5
EXTRA_EVENTS = 2
"""Events of a cut stream, its role and its ending, that may have been counted as tokens."""
TOKENS_A_WORD = 3
"""What a word of the mock's, an event, may be estimated at by its bytes."""
CATALOG = """
[[channel]]
name = "mine"
base_url = "{upstream}"
models = ["ore"]
[[line]]
name = "mine"
channels = ["mine"]
[[group]]
name = "mine"
multiplier = "0.77"
lines = ["mine"]
[[price]]
model = "ore"
input = "3.1"
output = "7.3"
[[account]]
name = "miner"
group = "mine"
"""
VICTIMS = (
    *("worker", "worker", "worker", "worker", "worker"),
    *("control", "postgres", "postgres", "valkey", "supervisor", "all"),
)


class Call(msgspec.Struct, kw_only=True):
    """A call, as its client saw it. `prompt_tokens` is its name at the upstream."""

    prompt_tokens: int
    body_bytes: int
    tokens_max: int
    stream: bool
    leaves_after: int
    request_id: str = ""
    status: int = 0
    events: int = 0
    whole: bool = False


def owed(input_tokens: int, output_tokens: int) -> int:
    """Return what so many tokens must cost, in nano-USD."""
    list_nanos = input_tokens * NANOS_IN + output_tokens * NANOS_OUT
    return math.floor(list_nanos * MULTIPLIER + Fraction(1, 2))


class Mine:
    """One data dir over any number of relay lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prompt_tokens = 20
        self._orders = 0
        self._served_file = folder.with_name(f"{folder.name}.served")
        self._key = ""
        behaviour = ("--chunks", "400", "--interval-ms", "5", "--ttft-ms", "20")
        self._upstream = subprocess.Popen(
            [RELAY, "mock", "--port", "0", "--served", str(self._served_file), *behaviour],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.relay: RelayProcess
        self.calls: list[Call] = []
        self.killed: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        assert self._upstream.stderr is not None
        found = re.search(r"listens on (\S+)", self._upstream.stderr.readline())
        assert found is not None
        await self._start("127.0.0.1:0", "127.0.0.1:0")
        await self.relay.apply(CATALOG.format(upstream=found[1]))
        await self._recharge()
        self._key = await self.relay.make_key("miner", "miner")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.relay.end()
        self._upstream.terminate()
        self._upstream.communicate()

    async def _start(self, address: str, admin: str) -> None:
        # Checkpoints come so often that a call of two seconds has some.
        environ = {"RELAY_JOURNAL__CHECKPOINT_S": "0.2", "RELAY_JOURNAL__RESERVE_BYTES": "0"}
        self.relay = RelayProcess.start(self._folder, address=address, admin=admin, environ=environ)
        await self.relay.__aenter__()

    # --- load ------------------------------------------------------------------------------------

    async def crash(self, dice: random.Random) -> str:
        """Let clients call, kill something in the middle, wait until all is well; return what."""
        victim = dice.choice(VICTIMS)
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(self._be_a_client(random.Random(dice.random()), ending))
            tasks.create_task(self._recharge())
            await asyncio.sleep(dice.uniform(0.2, 0.8))
            await self._kill(victim, dice)
            await asyncio.sleep(dice.uniform(0.1, 0.4))
            ending.set()
        self.killed[victim] += 1
        await self._recover()
        return victim

    async def _be_a_client(self, dice: random.Random, ending: asyncio.Event) -> None:
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while not ending.is_set():
                call = self._new_call(dice)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await self._carry_out(session, call)
                if call.status != 200:
                    await asyncio.sleep(0.05)  # a client that backs off

    def _new_call(self, dice: random.Random) -> Call:
        self._prompt_tokens += 1
        stream = dice.random() < 0.7
        call = Call(
            prompt_tokens=self._prompt_tokens,
            body_bytes=0,
            tokens_max=dice.choice([1, 5, 20, 60, 150, 400]) if stream else dice.choice([1, 20]),
            stream=stream,
            leaves_after=dice.randrange(1, 40) if dice.random() < 0.25 else 0,
        )
        self.calls.append(call)
        return call

    async def _carry_out(self, session: aiohttp.ClientSession, call: Call) -> None:
        body = {
            "model": "ore",
            "messages": [{"role": "user", "content": "word" * call.prompt_tokens}],
            "max_tokens": call.tokens_max,
            "stream": call.stream,
        }
        content = json.dumps(body)
        call.body_bytes = len(content)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        url = f"{self.relay.url}/chat/completions"
        async with session.post(url, data=content, headers=headers) as answer:
            call.status = answer.status
            call.request_id = answer.headers["x-request-id"]
            if not call.stream:
                await answer.read()
                call.whole = answer.status == 200
                return
            async for line in answer.content:
                call.events += line.startswith(b"data: {")
                call.whole = call.whole or line == b"data: [DONE]\n"
                if call.leaves_after and call.events >= call.leaves_after:
                    return  # leaving the block hangs up

    async def _recharge(self) -> None:
        """Recharge once, by one order number, however often that has to be tried; and once more."""
        self._orders += 1
        order = ("--amount", str(RECHARGE_USD), "--order", f"mine-{self._orders}")
        done = 0
        while done < 2:
            with contextlib.suppress(AssertionError):
                await self.relay.cli("recharge", "--account", "miner", *order)
                done += 1

    # --- death and recovery ----------------------------------------------------------------------

    async def _kill(self, victim: str, dice: random.Random) -> None:
        root = self.relay.process.pid
        members = family(root)
        if victim in ("supervisor", "all"):
            targets = [one.pid for one in members if victim == "all" or one.pid == root]
        else:
            targets = [dice.choice(self._pids_of(victim))]
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim in ("supervisor", "all"):
            await asyncio.to_thread(self.relay.process.wait)
            workers = {one for one in members if one.program not in ("postgres", "valkey-server")}
            await until(lambda: not left_of(workers), "nothing of the old relay is left")
            await self._start(self.relay.address, self.relay.admin)

    def _pids_of(self, victim: str) -> list[int]:
        if victim == "worker":
            return [pid for pid, _ in self.relay.workers().values()]
        root = self.relay.process.pid
        if victim == "control":
            lines = [line for line in self.relay.words.read_text().splitlines() if line[:1] == "{"]
            told = [said for line in lines if (said := json.loads(line)).get("child") == "control"]
            return [said["pid"] for said in told if "pid" in said][-1:]
        program = {"postgres": "postgres", "valkey": "valkey-server"}[victim]
        return [one.pid for one in processes() if one.program == program and one.parent == root]

    async def _recover(self) -> None:
        """Wait until both workers serve and every record of the dead is in the ledger."""
        journals = self._folder / "journal"

        async def well() -> bool:
            with contextlib.suppress(aiohttp.ClientError, AssertionError, TimeoutError):
                ready = await send(f"http://{self.relay.admin}/readyz")
                metrics = await self.relay.metrics()
                return (
                    ready.status == 200
                    and len(list_generations(journals)) == 2
                    and "relay_log_lag_bytes 0.0" in metrics
                    and "relay_log_failures 0.0" in metrics
                    and not any(self.relay.in_flight().values())
                )
            return False

        await until_told(well, "the relay recovers", PATIENCE_S)

    # --- the books -------------------------------------------------------------------------------

    async def check(self) -> None:
        """Compare every row with what the upstream wrote down, and the books with themselves."""
        connection = await postgres.connect(database_url(Config(), self._folder))
        try:
            await until_told(lambda: self._all_logged(connection), "every call has its row")
            await self._check_books(connection, self._read_served())
        finally:
            await connection.close()

    async def _all_logged(self, connection: Connection) -> bool:
        ids = {UUID(call.request_id[4:]) for call in self.calls if call.status == 200}
        found = await connection.fetchval(
            "SELECT count(DISTINCT request_id) FROM request_log WHERE request_id = ANY($1)", ids
        )
        return bool(found == len(ids))

    async def _check_books(
        self, connection: Connection, served: dict[int, list[ServedRecord]]
    ) -> None:
        async with connection.transaction(isolation="repeatable_read"):
            rows = await connection.fetch(
                """SELECT request_id, reason, status, input_tokens, output_tokens, cost_nanos,
                    estimated FROM request_log JOIN accounts ON accounts.id = account_id
                WHERE accounts.name = 'miner'"""
            )
            self._check_rows(rows, served)
            balance = await connection.fetchval(
                "SELECT balance_nanos FROM balances JOIN accounts ON id = account_id "
                "WHERE name = 'miner'"
            )
            recharged = self._orders * RECHARGE_USD * 10**9
            assert balance == recharged - sum(row["cost_nanos"] for row in rows)
        assert (await run_audit(connection)).drifts == []

    def _check_rows(self, rows: list[Any], served: dict[int, list[ServedRecord]]) -> None:
        counted = Counter(row["request_id"] for row in rows)
        assert counted.most_common(1)[0][1] == 1
        by_id = {f"req_{row['request_id'].int:032x}": row for row in rows}
        callers = {call.request_id: call for call in self.calls if call.request_id}
        assert [one for one in callers if callers[one].status == 200 and one not in by_id] == []
        self.outcomes = Counter(row["reason"] for row in rows)
        for request_id, row in by_id.items():
            problem = judge(row, callers.get(request_id), served)
            assert not problem, (problem, dict(row), callers.get(request_id))

    def _read_served(self) -> dict[int, list[ServedRecord]]:
        found: dict[int, list[ServedRecord]] = {}
        for line in self._served_file.read_bytes().splitlines():
            one = msgspec.json.decode(line, type=ServedRecord)
            found.setdefault(one.prompt_tokens, []).append(one)
        return found


def judge(row: Any, call: Call | None, served: dict[int, list[ServedRecord]]) -> str:
    """Return what is wrong with a row, "" if nothing is."""
    tokens, cost = (row["input_tokens"], row["output_tokens"]), row["cost_nanos"]
    if row["reason"] == "completed":
        told = [one for one in served.get(tokens[0], []) if not one.aborted]
        exact = [owed(one.prompt_tokens, one.completion_tokens) for one in told]
        return "" if cost in exact and not row["estimated"] else "not what was served"
    if not cost:
        return "delivered, but free" if call and call.events and _is_ours(row) else ""
    if call is None:
        return "charged, and nobody heard of it"
    delivered = max((one.completion_tokens for one in served[call.prompt_tokens]), default=0)
    got = min(call.events, call.tokens_max) if row["reason"] == "client_gone" else 0
    problems = {
        "not what it says it costs": cost != owed(*tokens),
        "not its prompt": not _is_its_prompt(tokens[0], call, estimated=row["estimated"]),
        "more than was delivered": tokens[1] > TOKENS_A_WORD * delivered + EXTRA_EVENTS,
        "less than its client got": TOKENS_A_WORD * tokens[1] < got,
    }
    return ", ".join(problem for problem, there in problems.items() if there)


def _is_its_prompt(tokens: int, call: Call, *, estimated: bool) -> bool:
    """Tell whether it is what the mock counts, where that was heard, or about what its bytes are.

    The client of a stream that had said its last word may go before the usage: then it is read on.
    """
    if not estimated:
        return tokens == call.prompt_tokens
    return call.body_bytes // 8 <= tokens <= call.body_bytes // 2


def _is_ours(row: Any) -> bool:
    """Tell whether a worker itself ended the call: it knew then what it had delivered."""
    return row["reason"] in ("client_gone", "truncated", "shut_down")
