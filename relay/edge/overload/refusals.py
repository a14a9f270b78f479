"""Prepared answers to who is not let in.

The answers of one beat have one id: there is no row that it would name. Nothing is logged.
"""

import random

from relay.clock import dice, wall_ns
from relay.edge.answers import error_answer
from relay.edge.client.body_room import RETRY_AFTER_S
from relay.edge.ids import RequestIds
from relay.errors import Unavailable
from relay.model import Dialect


def overloaded() -> Unavailable:
    """Return what is told to who is not let in."""
    return Unavailable("The relay is overloaded; try again.", retry_after_s=RETRY_AFTER_S)


class Refusals:
    """Prepared answers, by dialect, made anew for each beat: so their clients come back spread."""

    def __init__(self) -> None:
        self._ids = RequestIds(random.getrandbits(74))
        self._made: dict[tuple[Dialect, bool], bytes] = {}

    def renew(self) -> None:
        """Make them anew when they are next wanted."""
        self._made.clear()

    def answer(self, dialect: Dialect, *, closing: bool) -> bytes:
        """Return a whole answer; `closing`: it says that the connection ends behind it."""
        made = self._made.get((dialect, closing))
        if made is None:
            name = f"req_{self._ids.next(wall_ns() // 1000).hex()}"
            made = error_answer(overloaded(), name, dice(), closing=closing, dialect=dialect)
            self._made[dialect, closing] = made
        return made
