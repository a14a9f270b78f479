"""Whole numbers on the command line: digits and nothing else.

Python reads "1_000" as 1000 and " 7 " as 7, and so would click. A limit or a count that somebody
pasted in another notation is better asked back than guessed.
"""

import re
from typing import Any, Final

import click

_PLAIN: Final = re.compile(r"-?[0-9]+", re.ASCII)


class WholeNumber(click.IntRange):
    """An integer within bounds, in plain digits."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Any:
        """Return the number; refuse what is no plain one."""
        if isinstance(value, str) and _PLAIN.fullmatch(value) is None:
            self.fail(f"{value!r} is not a whole number in plain digits", param, ctx)
        return super().convert(value, param, ctx)
