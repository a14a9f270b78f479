"""Goal: a host with another pepper than the keys were stored under does not serve, and says which.

Method: two hosts of one Postgres, the second with a pepper of its own; then the first, which
serves, is told to take up another one.
"""

import asyncio
import signal
from pathlib import Path

import pytest

from relay.store.embedded.embedded import Embedded
from tests.live.host_rig import Host
from tests.live.relay_process import send, settle, until

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

CATALOG = """
[[channel]]
name = "nowhere"
base_url = "http://127.0.0.1:9/v1"
models = ["m"]
[[line]]
name = "town"
channels = ["nowhere"]
[[group]]
name = "folk"
lines = ["town"]
[[price]]
model = "m"
input = "1"
output = "2"
[[account]]
name = "folk"
group = "folk"
"""


async def test_it_is_not_ready_and_the_one_that_serves_goes_on(
    reachable: Path, empty_database_url: str, servers: Embedded
) -> None:
    environ = {
        "RELAY_DATABASE__URL": empty_database_url,
        "RELAY_REDIS__URL": servers.redis_url,
        "RELAY_CONFIG": str(reachable / "pepper.toml"),
    }
    (reachable / "pepper.toml").write_text("")
    first = Host(reachable / "pepper-first", None, workers=1, environ=environ)
    second = Host(reachable / "pepper-second", None, workers=1, environ=environ)
    await first.begin()
    try:
        await first.apply(CATALOG)
        key = (await first.api("keys", {"account": "folk", "name": "k"}))["key"]
        await settle(first, key, 200)

        second.launch()
        assert await asyncio.to_thread(second.process.wait, 60) == 78
        assert second.said("all keys were stored under pepper")
        assert second.said("Every host needs the same pepper")

        (reachable / "other.key").write_text("5a" * 32)
        pepper = f'[secrets]\npepper = "file:{reachable}/other.key"\n'
        (reachable / "pepper.toml").write_text(pepper)
        pid = next(iter(first.workers().values()))[0]
        first.process.send_signal(signal.SIGHUP)
        await until(lambda: first.said("reload refused"), "the reload is refused", 30.0)
        assert first.said("all keys were stored under pepper")
        assert next(iter(first.workers().values()))[0] == pid
        models = f"{first.url}/models"
        answer = await send(models, headers={"Authorization": f"Bearer {key}"})
        assert answer.status == 200
    finally:
        await first.end()
        await second.end()
