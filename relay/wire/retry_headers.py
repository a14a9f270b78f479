"""The headers by which official clients are told whether and when to come back.

They are the same in every dialect, and clients that do not know them pass them over.
"""

import math
from typing import Final

from relay.errors import RelayError

RETRY_AFTER_S_MAX: Final = 60.0
"""anthropic's Python client sleeps whatever it is told, openai's gives up above two minutes."""
RETRY_AFTER_MS_MIN: Final = 20
JITTER_SHARE: Final = 0.25
JITTER_MS: Final = 250


def error_headers(error: RelayError, dice: float) -> list[tuple[str, str]]:
    """Return the headers that say whether and when to try again.

    Args:
        error: What is answered.
        dice: Uniform in [0, 1): spreads clients that were told the same moment; their own code adds
            no jitter to a server's delay.
    """
    headers: list[tuple[str, str]] = []
    if error.should_retry is not None:
        headers.append(("x-should-retry", "true" if error.should_retry else "false"))
    if error.retry_after_s is not None and error.should_retry is False:
        # For people: the clients are told not to come back, so they do not sleep for it.
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
    elif error.retry_after_s is not None:
        wait_ms = error.retry_after_s * 1000 * (1 + JITTER_SHARE * dice) + JITTER_MS * dice
        wait_ms = min(max(wait_ms, RETRY_AFTER_MS_MIN), RETRY_AFTER_S_MAX * 1000)
        headers.append(("retry-after-ms", str(math.ceil(wait_ms))))
        headers.append(("retry-after", str(max(1, math.ceil(wait_ms / 1000)))))
    return headers
