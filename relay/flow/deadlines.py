"""How long an attempt may be silent: by its channel, by its model, or as for all others."""

from fnmatch import fnmatchcase
from typing import Final

from relay.config import Timeouts
from relay.flow.attempts.attempt import Attempt
from relay.model import Channel
from relay.slow_models import Deadlines

KNOWN_MAX: Final = 4096
"""Pairs of channel and model remembered; catalogs have some hundreds."""


class DeadlineTable:
    """The deadlines of all attempts.

    Args:
        timeouts: What relay.toml says.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._all = Deadlines(
            first_byte_s=timeouts.first_byte_s,
            answer_s=timeouts.answer_s,
            gap_s=timeouts.gap_s,
        )
        self._channels = timeouts.channels
        self._models = timeouts.models
        self._known: dict[tuple[str, str, str], Deadlines] = {}
        tables = (self._all, *self._channels.values(), *self._models.values())
        self.least_s = min(
            seconds
            for table in tables
            for seconds in (table.first_byte_s, table.answer_s, table.gap_s)
            if seconds is not None
        )
        """Silence below this is within every deadline."""

    def first_s(self, attempt: Attempt) -> float:
        """Return how long an attempt may be silent before its first output."""
        found = self._of(attempt)
        seconds = found.first_byte_s if attempt.call.request.stream else found.answer_s
        assert seconds is not None
        return seconds

    def gap_s(self, attempt: Attempt) -> float:
        """Return how long an attempt may be silent in the middle of its answer."""
        seconds = self._of(attempt).gap_s
        assert seconds is not None
        return seconds

    def _of(self, attempt: Attempt) -> Deadlines:
        channel, model = attempt.channel, attempt.call.request.model
        key = (channel.name, model, channel.models.get(model, model))
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            found = self._known[key] = self._find(channel, key[1:])
        return found

    def _find(self, channel: Channel, models: tuple[str, ...]) -> Deadlines:
        fitting = [
            *_fitting(self._channels, (channel.name,)),
            *_fitting(self._models, models),
            self._all,
        ]
        return Deadlines(
            first_byte_s=_first([one.first_byte_s for one in fitting]),
            answer_s=_first([one.answer_s for one in fitting]),
            gap_s=_first([one.gap_s for one in fitting]),
        )


def _fitting(tables: dict[str, Deadlines], names: tuple[str, ...]) -> list[Deadlines]:
    found = (
        table
        for pattern, table in tables.items()
        if any(fnmatchcase(name.rpartition("/")[2], pattern) for name in names)
    )
    return list(found)[:1]


def _first(seconds: list[float | None]) -> float | None:
    return next((one for one in seconds if one is not None), None)
