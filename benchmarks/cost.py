"""What one call and one event cost: the quick scenarios, for tuning the hot path.

    python -m benchmarks.cost [--targets relay,plain_aiohttp,nginx] [--repeats 3] [--json]

It is `relay bench --suite cost`, which takes the same options and more.
"""

import sys

from benchmarks.command import bench

if __name__ == "__main__":
    bench.main(["--suite", "cost", *sys.argv[1:]], "benchmarks.cost")
