"""Scenarios that are more than one load on one target; each returns entries for the report."""

from collections.abc import Callable
from typing import Any, Final

from benchmarks.suite import Options, Say

Run = Callable[[Options, Say], list[dict[str, Any]]]

SPECIAL: Final[dict[str, Run]] = {}
STANDARD_SPECIAL: Final[tuple[str, ...]] = ()
