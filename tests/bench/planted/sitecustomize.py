"""What the workers of the relay under test run first: each read of an upstream costs more.

Whatever a worker has used of the processor since its last read, it uses PLANTED_SHARE of once more;
so the load is by that share slower on any machine, and nothing in the relay knows of it.
"""

import os
import sys
import time
from typing import Any

if "worker" in sys.orig_argv:
    import httptools

    SHARE = float(os.environ["PLANTED_SHARE"])
    used_ns = [0]
    """When the last read was done with, on the clock of what this thread uses; in a list, because a
    class that changes costs more than is planted."""

    class SlowParser(httptools.HttpResponseParser):
        """The parser of upstreams' answers, with work that leads to nothing."""

        def feed_data(self, raw: Any) -> None:
            """Parse, and use up a share of what was used meanwhile."""
            super().feed_data(raw)
            now_ns = time.thread_time_ns()
            until_ns = now_ns + (now_ns - used_ns[0]) * SHARE
            while now_ns < until_ns:
                now_ns = time.thread_time_ns()
            used_ns[0] = now_ns

    used_ns[0] = time.thread_time_ns()
    httptools.HttpResponseParser = SlowParser  # type: ignore[misc]
