"""How far an attempt has come, and the stages under names that compiled code reads at once.

    ADMITTED -> DIALED -> ASKED -> HEADED -> COMMITTED -> ENDED

A member of an enum is looked up in its class, through a metaclass, each time it is named; a call
names one a dozen times.
"""

import enum
from typing import Final


class Stage(enum.IntEnum):
    """How far an attempt has come; COMMITTED: the client has its first byte of the answer."""

    ADMITTED = 0
    DIALED = 1
    ASKED = 2
    HEADED = 3
    COMMITTED = 4
    ENDED = 5


ADMITTED: Final = Stage.ADMITTED
DIALED: Final = Stage.DIALED
ASKED: Final = Stage.ASKED
HEADED: Final = Stage.HEADED
COMMITTED: Final = Stage.COMMITTED
ENDED: Final = Stage.ENDED
