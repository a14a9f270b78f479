"""One whole relay and one scripted upstream for all tests that call it from outside.

    clients -> relay serve --demo, 2 workers -> relay mock: 20 ms between events, 3 tokens cached

The catalog: models "steady" and "other" on line "town", sold to group "folk" at 0.8 of the list
price. Accounts come with each test, so that none sees another's calls.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live.relay_process import RELAY, RelayProcess

CATALOG = """
[[channel]]
name = "mock"
base_url = "{upstream}"
models = ["steady", "other"]
[[line]]
name = "town"
channels = ["mock"]
[[group]]
name = "folk"
multiplier = "0.8"
lines = ["town"]
[[price]]
model = "steady"
input = "0.15"
output = "0.60"
cached_input = "0.075"
[[price]]
model = "other"
input = "1"
output = "2"
"""
