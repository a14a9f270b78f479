"""Goal: the limiter works on a primary that Sentinels name, and on a cluster of three.

Method: all of them real; a primary is killed, and the limiter must find its way by itself.
"""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from relay.limits.bucket import Rule
from relay.limits.decision import Denied
from relay.limits.limit_set import Grant
from relay.limits.scopes import Bucket, ConcurrencyLimit, Measure, Scope, hash_slot
from relay.store.embedded.binaries import find_valkey
from relay.store.embedded.home import leave, settle
from relay.store.limits.limiter import Limiter
from relay.store.limits.nodes import ask_ranges, cluster_nodes, one_node
from relay.store.limits.sentinel import follow_sentinels
from tests.live.limit_rig import ask, ask_all, now_ms, spend, until
from tests.live.redis_servers import Fleet, cluster_node, reply_of

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(60)]

LINE = Bucket("relay:{l:1}:tpm", "{l:1}", Scope.LINE, Measure.TOKENS, Rule(6_000_000, 6_000))


@pytest.fixture
def program(reachable: Path) -> Iterator[Path]:
    folder = reachable / "programs"
    folder.mkdir(exist_ok=True)
    home = settle(folder)
    yield find_valkey(home)
    leave(home)


async def test_a_failover_is_followed(program: Path, tmp_path: Path) -> None:
    with ExitStack() as ends:
        fleet = Fleet(program, tmp_path, ends)
        primary = fleet.start()
        replica = fleet.start(f"replicaof 127.0.0.1 {primary}")
        await fleet.says(replica, b"master_link_status:up", "INFO", "replication")
        sentinel = fleet.start(
            f"sentinel monitor limits 127.0.0.1 {primary} 1",
            "sentinel down-after-milliseconds limits 500",
            "sentinel failover-timeout limits 3000",
            sentinel=True,
        )
        await fleet.says(sentinel, b"slaves=1", "INFO", "sentinel")
        locate = follow_sentinels(
            ["redis://127.0.0.1:1", f"redis://127.0.0.1:{sentinel}"], "limits"
        )
        async with Limiter(one_node(locate), "worker", now_ms) as limiter:
            await spend(limiter, LINE, 100, 1.0)
            assert limiter.losses == 0
            fleet.processes[primary].send_signal(signal.SIGKILL)
            await spend(limiter, LINE, 100, 1.0)
            assert limiter.losses >= 1
            await fleet.says(replica, b"role:master", "INFO", "replication")
            await asked_again(limiter)
        assert await reply_of(replica, "GET", "relay:born") != b"None"


async def test_a_call_is_decided_over_three_shards(program: Path, tmp_path: Path) -> None:
    account = Bucket("relay:{a:4}:tpm", "{a:4}", Scope.ACCOUNT, Measure.TOKENS, Rule(60, 60_000))
    channel = Bucket("relay:{c:1}:tpm", "{c:1}", Scope.CHANNEL, Measure.TOKENS, Rule(60, 60_000))
    hall = ConcurrencyLimit("relay:{c:1}:seats", "{c:1}", Scope.CHANNEL, 3)
    with ExitStack() as ends:
        fleet = Fleet(program, tmp_path, ends)
        ports = [await cluster_node(fleet, number) for number in range(3)]
        for port in ports[1:]:
            await reply_of(
                ports[0], "CLUSTER", "MEET", "127.0.0.1", str(port), str(fleet.buses[port])
            )
        for port in ports:
            await fleet.says(port, b"cluster_state:ok", "CLUSTER", "INFO")
            await fleet.says(port, b"cluster_known_nodes:3", "CLUSTER", "INFO")
        seeds = [fleet.url(port) for port in ports]
        nodes = cluster_nodes(seeds, await ask_ranges(seeds))
        assert {nodes.place_of(bucket.tag) for bucket in (LINE, account, channel)} == {0, 1, 2}
        for bucket in (LINE, account, channel):
            await old_guard(ports, bucket)
        async with Limiter(nodes, "worker", now_ms) as limiter:
            first = await ask_all(limiter, [(LINE, 5), (account, 50), (channel, 20)], (hall,))
            assert isinstance(first, Grant)
            refused = await ask_all(limiter, [(LINE, 5), (account, 5), (channel, 50)], (hall,))
            assert isinstance(refused, Denied) and refused.limit is channel
            assert isinstance(await ask(limiter, account, 10), Grant), "it took nothing"
            assert isinstance(await ask(limiter, account, 10), Denied)
            assert limiter.losses == 0
            fleet.processes[ports[nodes_port(ports, channel)]].kill()
            await until(lambda: limiter.losses == 1)
            assert isinstance(await ask(limiter, LINE, 5), Grant), "the others go on"


def nodes_port(ports: list[int], bucket: Bucket) -> int:
    """Return which node keeps a bucket: slots were given out in the order of the ports."""
    return min(hash_slot(bucket.key) * 3 // 16_384, len(ports) - 1)


async def old_guard(ports: list[int], bucket: Bucket) -> None:
    """Make a bucket's shard look old, so that the bucket begins full."""
    for port in ports:
        await reply_of(port, "SET", f"relay:{bucket.tag}:born", "0")


async def asked_again(limiter: Limiter) -> None:
    """Wait until fallback is over, and calls are granted."""
    last = -1.0
    async with asyncio.timeout(20):
        while limiter.fallback_ms != last or not isinstance(await ask(limiter, LINE, 1), Grant):
            last = limiter.fallback_ms
            await asyncio.sleep(0.1)
