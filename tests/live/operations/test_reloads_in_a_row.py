"""Goal: a reload into a database that is not there changes nothing, and the next one is not lost.

Method: a host whose configuration names its Postgres; the name is made wrong, and mended again
while the reload into it is still under way; calls that cost money go on all the time.
"""

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from relay.process.succession import outcome
from relay.process.succession.outcome import Result
from relay.store import postgres
from relay.store.embedded.embedded import Embedded
from tests.live.one_host import one_host
from tests.live.relay_process import ask, settle, until, until_told

pytestmark = [pytest.mark.live, pytest.mark.timeout(150)]


async def test_a_wrong_database_and_the_right_one_again_while_the_first_is_tried(
    reachable: Path, empty_database_url: str, servers: Embedded
) -> None:
    config = reachable / "reloads.toml"
    right = f'[database]\nurl = "{empty_database_url}"\n'
    config.write_text(right)
    environ = {"RELAY_CONFIG": str(config)}
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:  # takes, and says nothing
        silent.setblocking(False)
        loop = asyncio.get_running_loop()
        wrong = f"postgresql://relay@127.0.0.1:{silent.getsockname()[1]}/relay"
        found = one_host(reachable / "reloads", "", servers.redis_url, environ, workers=1)
        async with found as (host, key):
            before = {pid for pid, _ in host.workers().values()}
            config.write_text(f'[database]\nurl = "{wrong}"\nconnect_s = 4.0\n')
            host.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(60.0):
                asking, _ = await loop.sock_accept(silent)
            assert result(host.data_dir) is Result.RUNNING
            assert (await ask(host, key)).status == 200
            config.write_text(right)
            host.process.send_signal(signal.SIGHUP)
            await until(lambda: host.said("reload refused"), "the first one is refused", 60.0)
            asking.close()
            await until(
                lambda: result(host.data_dir) is Result.DONE, "the second one is done", 60.0
            )
            await until(
                lambda: not before & {pid for pid, _ in host.workers().values()},
                "those of before have gone",
                60.0,
            )
            await settle(host, key, 200)
            assert (await host.readiness())[0] == 200
            for _ in range(5):
                assert (await ask(host, key)).status == 200
            await in_log(empty_database_url, 6)


def result(data_dir: Path) -> Result | None:
    found = outcome.read(data_dir)
    return None if found is None else found.result


async def in_log(url: str, wanted: int) -> None:
    """Wait until the log has all calls: whoever ships them reads the right configuration."""
    connection = await postgres.connect(url)
    try:

        async def shipped() -> bool:
            found: int = await connection.fetchval("SELECT count(*) FROM request_log")
            return found == wanted

        await until_told(shipped, f"{wanted} calls are in the log", 30.0)
    finally:
        await connection.close()


async def test_the_wrong_one_alone_is_refused_and_the_right_one_serves_on(
    reachable: Path, empty_database_url: str, servers: Embedded
) -> None:
    config = reachable / "refused.toml"
    config.write_text(f'[database]\nurl = "{empty_database_url}"\n')
    environ = {"RELAY_CONFIG": str(config)}
    found = one_host(reachable / "refused", "", servers.redis_url, environ, workers=1)
    async with found as (host, key):
        before = {slot: pid for slot, (pid, _) in host.workers().items()}
        config.write_text('[database]\nurl = "postgresql://relay@127.0.0.1:9/relay"\n')
        host.process.send_signal(signal.SIGHUP)
        await until(lambda: host.said("reload refused"), "it is refused", 60.0)
        assert {slot: pid for slot, (pid, _) in host.workers().items()} == before
        assert (await ask(host, key)).status == 200
        await in_log(empty_database_url, 1)
        await asyncio.sleep(1.0)
        assert (await host.readiness())[0] == 200
