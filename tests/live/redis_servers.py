"""Redis servers that tests may hurt: a primary behind Sentinels, and a cluster.

trio       a primary, a replica, three Sentinels of which two must agree
cluster    three primaries with a third of the slots each, and a replica of the first
"""

import asyncio
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from relay.store.limits.resp import connect

WAIT_S: Final = 20.0
BOUNDS: Final = (0, 5_461, 10_923, 16_384)
"""The slots of three shards."""


class Fleet:
    """Servers on ports of one address; all end with the test."""

    def __init__(
        self, program: Path, folder: Path, ends: ExitStack, address: str = "127.0.0.1"
    ) -> None:
        self._program = program
        self._folder = folder
        self._ends = ends
        self.address = address
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.buses: dict[int, int] = {}

    def url(self, port: int) -> str:
        return f"redis://{self.address}:{port}"

    def start(self, *lines: str, sentinel: bool = False) -> int:
        port = free_port(self.address)
        config = self._folder / f"{port}.conf"
        local = (
            *(f"port {port}", f"bind {self.address}", "protected-mode no", 'save ""'),
            f"dir {self._folder}",
        )
        config.write_text("\n".join([*local, *lines, ""]))
        command = [str(self._program), str(config), *(["--sentinel"] if sentinel else [])]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._ends.callback(process.wait)
        self._ends.callback(process.kill)
        self.processes[port] = process
        return port

    async def ask(self, port: int, *command: str) -> bytes:
        return await reply_of(port, *command, address=self.address)

    async def says(self, port: int, word: bytes, *command: str) -> None:
        """Wait until a server's answer has a word in it."""
        async with asyncio.timeout(WAIT_S):
            while word not in await self.ask(port, *command):
                await asyncio.sleep(0.05)


class Trio(NamedTuple):
    """A primary, its replica, and the Sentinels that watch both as `relay`."""

    primary: int
    replica: int
    sentinels: list[int]


async def start_trio(fleet: Fleet, down_after_ms: int = 500) -> Trio:
    """Start them; the Sentinels know each other and the replica."""
    primary = fleet.start()
    replica = fleet.start(f"replicaof {fleet.address} {primary}")
    await fleet.says(replica, b"master_link_status:up", "INFO", "replication")
    sentinels = [
        fleet.start(
            f"sentinel monitor relay {fleet.address} {primary} 2",
            f"sentinel down-after-milliseconds relay {down_after_ms}",
            "sentinel failover-timeout relay 3000",
            sentinel=True,
        )
        for _ in range(3)
    ]
    for sentinel in sentinels:
        await fleet.says(sentinel, b"slaves=1,sentinels=3", "INFO", "sentinel")
    return Trio(primary, replica, sentinels)


async def start_cluster(fleet: Fleet) -> tuple[list[int], int]:
    """Start three primaries and a replica of the first; return their ports."""
    ports = [await cluster_node(fleet, number) for number in range(3)]
    replica = await cluster_node(fleet, 3)
    for port in (*ports[1:], replica):
        meeting = ("CLUSTER", "MEET", fleet.address, str(port), str(fleet.buses[port]))
        await fleet.ask(ports[0], *meeting)
    for port in (*ports, replica):
        await fleet.says(port, b"cluster_state:ok", "CLUSTER", "INFO")
        await fleet.says(port, b"cluster_known_nodes:4", "CLUSTER", "INFO")
    first = (await fleet.ask(ports[0], "CLUSTER", "MYID")).decode()
    await fleet.says(replica, b"OK", "CLUSTER", "REPLICATE", first)
    await fleet.says(replica, b"master_link_status:up", "INFO", "replication")
    for port in ports:  # a failover needs the votes of those who know the replica as one
        await fleet.says(port, b"slave", "CLUSTER", "NODES")
    return ports, replica


async def cluster_node(fleet: Fleet, number: int) -> int:
    """Start a node; the first three get a third of the slots each."""
    bus = free_port(fleet.address)
    port = fleet.start(
        "cluster-enabled yes",
        f"cluster-port {bus}",
        f"cluster-config-file nodes-{number}.conf",
        "cluster-require-full-coverage no",
        "cluster-node-timeout 1000",
    )
    fleet.buses[port] = bus
    await fleet.says(port, b"PONG", "PING")
    if number < 3:
        first, last = BOUNDS[number], BOUNDS[number + 1] - 1
        await fleet.ask(port, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
    return port


async def reply_of(port: int, *command: str, address: str = "127.0.0.1") -> bytes:
    """Return a server's answer as bytes; b"" while it is not up."""
    try:
        connection = await connect(f"redis://{address}:{port}")
        [reply] = await connection.ask([command])
        connection.close()
    except Exception:  # noqa: BLE001 -- it is not up yet
        return b""
    return reply if isinstance(reply, bytes) else repr(reply).encode()


def free_port(address: str = "127.0.0.1") -> int:
    with socket.create_server((address, 0)) as probe:
        return int(probe.getsockname()[1])
