"""What all tables of a catalog file have in common: how one is checked, plain types."""

import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from relay.billing.budget import BUDGETS_MAX

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Limit = Annotated[int, Meta(ge=0, le=2**53)]
Concurrency = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Wait = Annotated[int, Meta(ge=0, le=3_600_000)]
Budgets = Annotated[list[str], Meta(max_length=BUDGETS_MAX)]
Moment = Annotated[datetime.datetime, Meta(tz=True)]


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file; `_check` brings it into canonical form or raises ValueError."""

    def __post_init__(self) -> None:
        for field, value in self._check().items():
            msgspec.structs.force_setattr(self, field, value)

    def _check(self) -> dict[str, object]:
        return {}
