"""Hosts in network namespaces, each on three wires, any of which can be taken out of one of them.

    here, which has all else    10.X.1.1    10.X.2.1    10.X.3.1        three bridges
                                 clients     redis       postgres
    host at place 0, 1, ...     10.X.1.11   10.X.2.11   10.X.3.11       a plug in each

A cut wire is a plug taken out of its bridge: both ends stay up, nothing arrives at either, and
nobody is told. Where no namespaces can be made, hosts stand beside each other on loopback
addresses, and nothing can be cut.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import pytest

NETWORKS: Final = 150
"""10.100 to 10.249: several runs on one machine take different ones."""


class Wire(StrEnum):
    """What goes over it."""

    CLIENTS = "clients"
    REDIS = "redis"
    POSTGRES = "postgres"


class Wires(Protocol):
    """How the hosts of a test reach each other and what they stand on."""

    def here(self, wire: Wire) -> str:
        """Return the address of this side: of upstreams, balancers, Redis, Postgres."""

    def there(self, place: int) -> str:
        """Return the address at which clients reach a host."""

    def enter(self, place: int) -> tuple[str, ...]:
        """Return the command before a command that runs it on a host."""

    def cut(self, place: int, *wires: Wire) -> contextlib.AbstractContextManager[None]:
        """Cut wires of a host while the block runs."""


class Namespaces:
    """Wires between network namespaces; only root can make them."""

    def __init__(self) -> None:
        self._number = os.getpid() % NETWORKS
        self._name = f"rl{os.getpid()}"

    @contextlib.contextmanager
    def laid(self, hosts: int) -> Iterator["Namespaces"]:
        """Lay them for as long as the block runs."""
        with contextlib.ExitStack() as undo:
            for wire in Wire:
                undo.callback(_ip, "link", "del", self._bridge(wire))
                _ip("link", "add", self._bridge(wire), "type", "bridge")
                _ip("addr", "add", f"{self.here(wire)}/24", "dev", self._bridge(wire))
                _ip("link", "set", self._bridge(wire), "up")
            for place in range(hosts):
                _ip("netns", "add", self._space(place))
                undo.callback(_ip, "netns", "del", self._space(place))
                _ip("-n", self._space(place), "link", "set", "lo", "up")
                for wire in Wire:
                    self._plug_in(place, wire)
            yield self

    def here(self, wire: Wire) -> str:
        return f"10.{100 + self._number}.{_order(wire)}.1"

    def there(self, place: int) -> str:
        return self._address(place, Wire.CLIENTS)

    def enter(self, place: int) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self._space(place))

    @contextlib.contextmanager
    def cut(self, place: int, *wires: Wire) -> Iterator[None]:
        for wire in wires:
            _ip("link", "set", self._plug(place, wire), "nomaster")
        try:
            yield
        finally:
            for wire in wires:
                _ip("link", "set", self._plug(place, wire), "master", self._bridge(wire))

    def _plug_in(self, place: int, wire: Wire) -> None:
        plug, space = self._plug(place, wire), self._space(place)
        far = f"{wire.value[:8]}0"
        _ip("link", "add", plug, "type", "veth", "peer", "name", far, "netns", space)
        _ip("link", "set", plug, "master", self._bridge(wire), "up")
        _ip("-n", space, "addr", "add", f"{self._address(place, wire)}/24", "dev", far)
        _ip("-n", space, "link", "set", far, "up")

    def _address(self, place: int, wire: Wire) -> str:
        return f"10.{100 + self._number}.{_order(wire)}.{11 + place}"

    def _space(self, place: int) -> str:
        return f"{self._name}-{place}"

    def _bridge(self, wire: Wire) -> str:
        return f"{self._name}b{_order(wire)}"

    def _plug(self, place: int, wire: Wire) -> str:
        return f"{self._name}p{_order(wire)}{place}"


class Loopback:
    """Hosts on addresses of this one; nothing can be cut."""

    def here(self, wire: Wire) -> str:
        return "127.0.0.1"

    def there(self, place: int) -> str:
        return f"127.0.0.{11 + place}"

    def enter(self, place: int) -> tuple[str, ...]:
        return ()

    def cut(self, place: int, *wires: Wire) -> contextlib.AbstractContextManager[None]:
        pytest.skip(f"no network namespaces here: host {place} cannot be cut off from {wires}")


@contextlib.contextmanager
def lay_wires(hosts: int) -> Iterator[Wires]:
    """Give wires to so many hosts: namespaces where they can be made, loopback addresses else."""
    if not _can_make_namespaces():
        yield Loopback()
        return
    with Namespaces().laid(hosts) as wires:
        yield wires


def _can_make_namespaces() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"rl{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    if made.returncode == 0:
        _ip("netns", "del", name)
    return made.returncode == 0 and Path("/sys/class/net").is_dir()


def _order(wire: Wire) -> int:
    return list(Wire).index(wire) + 1


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
