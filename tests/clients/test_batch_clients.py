"""Goal: the official openai clients run a batch to its end, and it is charged once.

Method: each client is a process of its own (Python 2.x and 3.x, Node 6.x and 7.x) before a whole
data plane with a scripted upstream behind it. Anthropic's runs in tests/flow/test_batches.py.
"""

import asyncio

import pytest

from relay.flow.state import background
from relay.wire.state.jobs import BATCH_JOB
from tests.clients.process import CLIENTS, ClientProcess
from tests.flow.rig import KEY
from tests.flow.test_batches import paid, standing


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant in ("FIRST_S", "LOOK_S"):
        monkeypatch.setattr(background, constant, 0.02)
    monkeypatch.setattr(BATCH_JOB, "most_s", 0.02)
    client = ClientProcess(name)
    try:
        async with standing() as scene:
            outcome = await client.play("batch", scene.rig.url, KEY)
            assert outcome.failure is None, outcome.failure
            assert outcome.value == {
                "listed": True,
                "status": "completed",
                "served": ["r0", "r1", "r2"],
            }
            async with asyncio.timeout(10):
                while len(scene.ends) < 2:
                    await asyncio.sleep(0.01)
            costs = sorted(end.cost_nanos for end in scene.ends)
            assert costs in ([paid(1), paid(3)], [paid(3), paid(3)])  # cancelled, or too late
    finally:
        await client.close()
