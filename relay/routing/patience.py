"""How long silence may last before it says something: told from how long answers really take.

A channel that accepts calls and never answers would be found out only by the deadline that leaves
reasoning models time to think, and until then every call on it hangs. But whoever else serves the
same model shows how long it thinks. So silence is judged by the slowest recent answer of the model,
over all channels: longer than a few times that, and it counts as a failure of its channel though
the call goes on waiting; on a channel out of service the call is moved.

Pure: microseconds of the caller's clock are arguments.
"""

from typing import Final

TIMES: Final = 3
"""Silence of so many times the slowest recent answer is no longer thinking."""
DECAY_BITS: Final = 6
"""The slowest answer is forgotten by a 64th of the difference with each faster one."""


class Patience:
    """The slowest recent first output of each model, and what silence means by it.

    Args:
        least_us: Silence below this never says anything.
        most_us: The deadline for a first output, whatever the model.
    """

    __slots__ = ("_least_us", "_most_us", "_slowest_us")

    def __init__(self, least_us: int, most_us: int) -> None:
        self._least_us = min(least_us, most_us)
        self._most_us = most_us
        self._slowest_us: dict[str, int] = {}

    def note(self, model: str, took_us: int) -> None:
        """Note how long an answer of the model took to begin."""
        slowest_us = self._slowest_us.get(model, 0)
        if took_us < slowest_us:
            took_us = slowest_us - (slowest_us - took_us >> DECAY_BITS)
        self._slowest_us[model] = took_us

    def limit_us(self, model: str, *, doubted: bool) -> int:
        """Return how long a channel may be silent about the model before that says something.

        Args:
            model: Its public name.
            doubted: The channel is out of service, so that the burden of proof is its own: of a
                model that has not answered yet the shortest silence counts, else the longest.
        """
        slowest_us = self._slowest_us.get(model)
        if slowest_us is None:
            return self._least_us if doubted else self._most_us
        return max(self._least_us, min(TIMES * slowest_us, self._most_us))

    def keep(self, models: set[str]) -> None:
        """Forget all other models: the catalog has changed."""
        for model in self._slowest_us.keys() - models:
            del self._slowest_us[model]
