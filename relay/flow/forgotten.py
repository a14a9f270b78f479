"""What stands in for the question of a call that nobody can be asked any more."""

from collections.abc import Mapping
from typing import Final

import msgspec

from relay.model import Channel


class Forgotten:
    """Stands for the question of a call that is asked no more (implements flow.ports.Question)."""

    __slots__ = ()
    fields = None
    strips_usage = False
    session = b""

    def frame(self, channel: Channel, model: str) -> tuple[bytes, bytes]:
        """Fail: it is gone."""
        raise AssertionError("a forgotten question is asked again")

    def carry_on(self, fields: Mapping[str, msgspec.Raw]) -> "Forgotten":
        """Fail: it is gone."""
        raise AssertionError("a forgotten question is carried on")


FORGOTTEN: Final = Forgotten()
