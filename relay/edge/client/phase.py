"""How far a client's connection has come, and which way it may go from there.

    FRESH --> HEAD --> QUEUED --> ANSWERING <--> RECEIVING       a task serves, or, from RESTING
                                                               to RUNNING, nobody yet
      |        |          ^          |  |
      +--------+----------|----------|--+--> RUNNING <--> CARRIED   an answer on its way
                          |          v           |           |
    HELD <--> RESTING ----+----------+-----------+-----------+
    (and from everywhere: CLOSING, GONE)

In their order: below QUEUED nothing is asked, from CLOSING on nothing is taken any more. The names
stand for plain numbers, which compiled code compares at once; a member of an enum is looked up.
"""

import enum
from typing import Final


class Phase(enum.IntEnum):
    """What a connection waits for; in brackets until when the client has to do its part."""

    FRESH = 0
    """Its first request (head_s)."""
    RESTING = 1
    """Its next request (idle_s)."""
    HEAD = 2
    """The rest of a head (head_s)."""
    HELD = 3
    """Its turn: a request of it has come, others go first; or it has answers to take (write_s)."""
    QUEUED = 4
    """A task that takes what was parsed: the loop runs it next."""
    RECEIVING = 5
    """The rest of a body, as fast as it has to come (body_s); a task may wait for it."""
    ANSWERING = 6
    """An answer; a task has it made."""
    RUNNING = 7
    """An answer that no task waits for."""
    CARRIED = 8
    """An answer that was begun without a task: one carries it on."""
    CLOSING = 9
    """Nothing but that what was written goes out."""
    GONE = 10
    """Nothing: the client has left."""


FRESH: Final = 0
RESTING: Final = 1
HEAD: Final = 2
HELD: Final = 3
QUEUED: Final = 4
RECEIVING: Final = 5
ANSWERING: Final = 6
RUNNING: Final = 7
CARRIED: Final = 8
CLOSING: Final = 9
GONE: Final = 10

_ENDS: Final = (CLOSING, GONE)
MOVES: Final[dict[int, tuple[int, ...]]] = {
    FRESH: (HEAD, HELD, QUEUED, RUNNING, *_ENDS),
    RESTING: (HEAD, HELD, QUEUED, RECEIVING, RUNNING, *_ENDS),
    HEAD: (QUEUED, RUNNING, *_ENDS),
    HELD: (RESTING, *_ENDS),
    QUEUED: (ANSWERING, RUNNING, *_ENDS),
    RECEIVING: (ANSWERING, RESTING, RUNNING, *_ENDS),
    ANSWERING: (RECEIVING, RUNNING, RESTING, *_ENDS),
    RUNNING: (CARRIED, RESTING, *_ENDS),
    CARRIED: (RUNNING, RESTING, *_ENDS),
    CLOSING: (GONE,),
    GONE: (),
}
"""Where each phase may lead."""


_TARGETS: Final = [sum(1 << target for target in MOVES[phase]) for phase in range(len(MOVES))]


def may_move(phase: int, target: int) -> bool:
    """Tell whether `target` may follow `phase`."""
    return bool(_TARGETS[phase] >> target & 1)


def illegal_move(phase: int, target: int) -> AssertionError:
    """Return what a move that is not in the table ends with: a bug of ours."""
    return AssertionError(
        f"a connection cannot go from {Phase(phase).name} to {Phase(target).name}"
    )
