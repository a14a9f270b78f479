"""How long to wait before the next try, and how often it has failed: one rule for all that retry.

failures   1        2          3          ...
wait       first_s  2 first_s  4 first_s  ... most_s, less what the dice take off
"""

from typing import Final

_DOUBLINGS_MAX: Final = 32


def backoff_s(
    failures: int, *, first_s: float, most_s: float, jitter: float = 0.0, dice: float = 0.0
) -> float:
    """Return how long to wait after so many failures in a row.

    Args:
        failures: 1 for the first; 0 waits as long as that.
        first_s: After the first failure; each further one doubles it.
        most_s: The longest wait.
        jitter: The part of it that is drawn, so that who failed together does not come back
            together: 0 = none, 1 = all of it.
        dice: In [0, 1).
    """
    full_s = min(most_s, first_s * 2.0 ** min(max(failures - 1, 0), _DOUBLINGS_MAX))
    return full_s * (1 - jitter + jitter * dice)


class Backoff:
    """Failures in a row of one thing that is tried for ever.

    The first failure and the first success after one are worth a line of the log; what lies between
    is not.
    """

    __slots__ = ("_first_s", "_jitter", "_most_s", "failures")

    def __init__(self, *, first_s: float, most_s: float, jitter: float = 0.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._jitter = jitter
        self.failures = 0
        """Tries since the last one that worked; 0 = all is well."""

    def fail(self) -> bool:
        """Note a failure; return whether it is the first of a row."""
        self.failures += 1
        return self.failures == 1

    def succeed(self) -> int:
        """Note that all is well; return how many failures came before it."""
        failures, self.failures = self.failures, 0
        return failures

    def wait_s(self, dice: float = 0.0) -> float:
        """Return how long to wait before the next try."""
        return backoff_s(
            self.failures,
            first_s=self._first_s,
            most_s=self._most_s,
            jitter=self._jitter,
            dice=dice,
        )
