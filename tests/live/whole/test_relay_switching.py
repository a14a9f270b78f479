"""Goal: an operator of a real relay sees channels die, heal and empty, and its clients see nothing.

Method: the real commands on a real relay of two workers, before upstreams that are killed, refuse
its credential or are drained; every client checks its answer to the letter.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.flow.load import Killed, mocks, script
from tests.live.relay_process import RelayProcess, Stream, ask, question, until_told

pytestmark = [pytest.mark.live, pytest.mark.timeout(150)]

CHANNEL = """
[[channel]]
name = "{name}"
base_url = "http://127.0.0.1:{port}/v1"
models = ["{model}"]
resume = "trailing"
"""
LINE = """
[[line]]
name = "{model}-line"
channels = [{names}]
splice = true
[[group]]
name = "{model}-group"
lines = ["{model}-line"]
[[price]]
model = "{model}"
input = "1"
output = "1"
[[account]]
name = "{model}-account"
group = "{model}-group"
credit_limit = "100"
"""
STREAMS, CALLERS = 30, 10


async def sell(relay: RelayProcess, model: str, **ports: int) -> str:
    """Put a model on sale over channels by name and port; return a key for it."""
    channels = [CHANNEL.format(name=name, port=port, model=model) for name, port in ports.items()]
    names = ", ".join(f'"{name}"' for name in ports)
    await relay.apply("".join(channels) + LINE.format(model=model, names=names))
    return await relay.make_key(model, f"{model}-account")


async def standing(relay: RelayProcess, name: str) -> dict[str, Any]:
    """Return what `relay channel list` says of a channel."""
    rows: list[dict[str, Any]] = json.loads(await relay.cli("channel", "list", "--json"))
    return next(row for row in rows if row["name"] == name)


async def stands(relay: RelayProcess, name: str, state: str, wait_s: float) -> dict[str, Any]:
    """Wait until `relay channel list` says that a channel is in that state; return its row."""

    async def look() -> dict[str, Any]:
        row = await standing(relay, name)
        return row if row["state"] == state else {}

    return await until_told(look, f"{name} is {state}", wait_s)


@asynccontextmanager
async def crowd(relay: RelayProcess, key: str, model: str) -> AsyncIterator[list[str]]:
    """Keep streams and plain calls running; yield what went wrong for their clients."""
    wrong: list[str] = []
    prompts = (f"{model} {number}" for number in itertools.count())
    running = True
    async with asyncio.TaskGroup() as tasks:
        for number in range(STREAMS + CALLERS):
            client = _stream if number < STREAMS else _call
            tasks.create_task(
                _keep_asking(client, relay, key, model, prompts, wrong, lambda: running)
            )
        try:
            yield wrong
        finally:
            running = False


async def _keep_asking(
    client: Any,
    relay: RelayProcess,
    key: str,
    model: str,
    prompts: Iterator[str],
    wrong: list[str],
    running: Any,
) -> None:
    while running():
        prompt = next(prompts)
        body = question(model, messages=[{"role": "user", "content": prompt}], max_tokens=500)
        text, trouble = await client(relay, key, body)
        if trouble or text != script(prompt):
            wrong.append(trouble or f"{text!r} is not the answer")


async def _stream(relay: RelayProcess, key: str, body: dict[str, Any]) -> tuple[str, str]:
    stream = Stream()
    await stream.run(relay, key, body)
    events = [json.loads(event) for event in stream.events if event.startswith(b"{")]
    deltas = [choice["delta"] for event in events for choice in event.get("choices", ())]
    trouble = "" if stream.whole and stream.error is None else f"{stream.status} {stream.body!r}"
    return "".join(delta.get("content") or "" for delta in deltas), trouble


async def _call(relay: RelayProcess, key: str, body: dict[str, Any]) -> tuple[str, str]:
    answer = await ask(relay, key, body)
    if answer.status != 200:
        return "", f"{answer.status} {answer.body!r}"
    return json.loads(answer.body)["choices"][0]["message"]["content"], ""


async def test_an_upstream_killed_under_load_is_seen_by_its_operator_only(
    relay: RelayProcess,
) -> None:
    left, right = await Killed.stand(10.0), await Killed.stand(10.0)
    try:
        key = await sell(relay, "bridge", left=left.port, right=right.port)
        async with crowd(relay, key, "bridge") as wrong:
            await asyncio.sleep(1.5)
            await left.die()
            row = await stands(relay, "left", "open", 10.0)
            assert row["reason"] == "failing" and 0 <= row["trial_in_s"] <= 40
            assert (await standing(relay, "right"))["state"] == "in service"
            await asyncio.sleep(5.0)
            healed_s = time.monotonic()
            await left.heal()
            await stands(relay, "left", "in service", 60.0)
            back_s = time.monotonic() - healed_s
        assert wrong == []
        assert back_s < 30
    finally:
        await left.close()
        await right.close()


async def test_a_refused_credential_raises_the_alarm_and_a_drain_empties_a_channel(
    relay: RelayProcess,
) -> None:
    async with mocks(2, ttft_ms=5.0, interval_ms=10.0) as (denied, good):
        key = await sell(relay, "gate", denied=denied.port, good=good.port)
        async with crowd(relay, key, "gate") as wrong:
            await denied.until(lambda state: state.in_flight > 3)
            denied.set_fail("status:401")
            row = await stands(relay, "denied", "open", 10.0)
            assert row["reason"] == "denied" and 0 < row["trial_in_s"] <= 110

            async def counted() -> bool:
                said = await relay.metrics()
                return 'relay_channel_alarms_total{channel="denied",reason="denied"} 1.0' in said

            await until_told(counted, "the alarm is counted, once", 10.0)
            said = [line for line in relay.complaints() if "refused our credential" in line]
            assert len([line for line in said if '"channel":"denied"' in line]) == 1
            denied.set_fail()
            await relay.cli("channel", "drain", "denied", "--now")
            await denied.until(lambda state: state.in_flight == 0)
            await stands(relay, "denied", "evicted", 10.0)
            asked = denied.state.calls
            await asyncio.sleep(1.0)
            assert denied.state.calls == asked
            await relay.cli("channel", "enable", "denied")
            await stands(relay, "denied", "in service", 120.0)
            await denied.until(lambda state: state.in_flight > 3)
        assert wrong == []
