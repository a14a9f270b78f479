"""What one program of the supervisor leaves to the next: sockets, children, and the way back.

The process stays, and so do its descriptors and its children; only the program in it is another
one. It finds this in a file without a name, whose descriptor the environment tells. Either side may
be the older release: fields are only added, with a default.
"""

import os
from collections.abc import Iterable, MutableMapping
from typing import Final

import msgspec

VARIABLE: Final = "RELAY_HANDOVER"


class HandedSockets(msgspec.Struct, frozen=True, kw_only=True):
    """Listening sockets. `address`: as configured; "" where the service manager opened them."""

    address: str
    fds: list[int]


class HandedChild(msgspec.Struct, frozen=True, kw_only=True):
    """A child and the supervisor's end of its lifeline.

    `current`: it holds its slot; else it drains. `stopped`: it was told to.
    """

    slot: str
    pid: int
    fd: int
    ready: bool
    current: bool
    stopped: bool
    drains: bool


class Program(msgspec.Struct, frozen=True):
    """What a process executes: a file and its arguments, the program's own name first."""

    file: str
    arguments: list[str]


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """See the module."""

    sockets: dict[str, HandedSockets]
    children: list[HandedChild]
    back: Program
    """What ran before: the very release, wherever links lead by now."""
    named: Program
    """What the operator started: where the next release is looked for."""
    config: msgspec.Raw
    """The configuration in force, in the form of the program before: only that one reads it."""
    demo_port: int | None = None
    reloads: int = 0
    """Reloads that were asked for so far."""
    failure: str = ""
    """Why a successor gave up and went back: what is handed is what was in force before."""


def leave(handover: Handover, environ: MutableMapping[str, str]) -> int:
    """Put the handover where the next program looks; return the descriptor.

    The sockets and lifelines it names are made to stay open over the execution.
    """
    for fd in _descriptors(handover):
        os.set_inheritable(fd, True)  # noqa: FBT003
    fd = os.memfd_create("relay handover", 0)
    os.write(fd, msgspec.msgpack.encode(handover))
    environ[VARIABLE] = str(fd)
    return fd


def call_off(handover: Handover, fd: int, environ: MutableMapping[str, str]) -> None:
    """Undo `leave`: nothing was executed."""
    environ.pop(VARIABLE, None)
    os.close(fd)
    close_on_execution(handover)


def take(environ: MutableMapping[str, str]) -> Handover | None:
    """Return what the program before has left in this process; None: it begins afresh."""
    found = environ.pop(VARIABLE, "")
    if not found:
        return None
    with os.fdopen(int(found), "rb") as stream:
        stream.seek(0)
        handover = msgspec.msgpack.decode(stream.read(), type=Handover)
    close_on_execution(handover)  # a child is given what is its own, by name
    return handover


def close_on_execution(handover: Handover) -> None:
    """Keep what was handed from whatever is executed next."""
    for fd in _descriptors(handover):
        os.set_inheritable(fd, False)  # noqa: FBT003


def _descriptors(handover: Handover) -> Iterable[int]:
    for sockets in handover.sockets.values():
        yield from sockets.fds
    for child in handover.children:
        yield child.fd
