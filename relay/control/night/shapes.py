"""What the night is made of: works, each planned as steps when its turn comes.

A step is what may be interrupted only whole: one table, one index, one day, one worker. Between two
steps the night looks at the clock, and at what operators ask.
"""

import datetime
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from relay.store.postgres import Connection


class Turn(NamedTuple):
    """What a step is given: a connection, and how long it may take."""

    connection: Connection
    left_s: float


class Step(NamedTuple):
    """One step. `do` returns what it did, in words, or raises what went wrong."""

    name: str
    do: Callable[[Turn], Awaitable[str]]


class StepFailed(Exception):
    """A step found something wrong; its message is for the operator. Other steps go on."""


class Plan(NamedTuple):
    """A work's steps, and what is to be said beside them."""

    steps: list[Step]
    note: str = ""


class Work(NamedTuple):
    """One work of the night. `shared`: one host does it for all; else each does its own."""

    name: str
    shared: bool
    plan: Callable[[Connection, datetime.datetime], Awaitable[Plan]]


async def limit_statements(turn: Turn, *, lock_s: float) -> None:
    """Have what follows on the connection end by the end of the night, and wait for no lock long.

    Everybody else would queue up behind a lock that is waited for.
    """
    await turn.connection.execute(
        """SELECT set_config('statement_timeout', $1, false),
            set_config('lock_timeout', $2, false), set_config('vacuum_cost_delay', '2ms', false)""",
        f"{max(int(turn.left_s * 1000), 1)}ms",
        f"{int(lock_s * 1000)}ms",
    )
