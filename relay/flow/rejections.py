"""How many refused calls of an account are written down: enough to see what is wrong with them.

A call that is refused before any channel is asked costs its client nothing, and nobody else either,
but for its row of the request log. Beyond this it is counted, as a stranger's is, and no more.
"""

from typing import Final

BURST: Final = 5_000
PER_S: Final = 20.0
"""Of an account and a worker: 1.7 million rows a day, about 1 GB, at the most."""
ACCOUNTS_MAX: Final = 50_000


class RejectionRows:
    """What each of the last `accounts_max` refused accounts may still have written down."""

    def __init__(
        self, burst: int = BURST, per_s: float = PER_S, accounts_max: int = ACCOUNTS_MAX
    ) -> None:
        self._burst = burst
        self._per_s = per_s
        self._accounts_max = accounts_max
        self._left: dict[int, tuple[float, float]] = {}
        """Account -> rows that are left, and when that was."""

    def __len__(self) -> int:
        return len(self._left)

    def take(self, account_id: int, now_s: float) -> bool:
        """Tell whether one more refusal of an account is written down, and count it."""
        left, since_s = self._left.pop(account_id, (float(self._burst), now_s))
        left = min(left + (now_s - since_s) * self._per_s, float(self._burst))
        written = left >= 1.0
        if len(self._left) >= self._accounts_max:
            del self._left[next(iter(self._left))]
        self._left[account_id] = (left - 1.0 if written else left), now_s
        return written
