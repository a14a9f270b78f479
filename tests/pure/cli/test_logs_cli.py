"""Goal: the filters of `relay logs` mean what an operator types, and refuse what means nothing.

Method: tables of texts.
"""

import datetime

import pytest

from relay.cli.logs import parse_moment, parse_status

NOW = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - datetime.timedelta(seconds=90)),
        ("15m", NOW - datetime.timedelta(minutes=15)),
        ("2h", NOW - datetime.timedelta(hours=2)),
        ("7d", NOW - datetime.timedelta(days=7)),
        ("1w", NOW - datetime.timedelta(weeks=1)),
        ("2026-02-28", datetime.datetime(2026, 2, 28, tzinfo=datetime.UTC)),
        ("2026-02-28T10:00", datetime.datetime(2026, 2, 28, 10, tzinfo=datetime.UTC)),
        ("2026-02-28T10:00+02:00", datetime.datetime(2026, 2, 28, 8, tzinfo=datetime.UTC)),
        ("2026-02-28T10:00:00Z", datetime.datetime(2026, 2, 28, 10, tzinfo=datetime.UTC)),
    ],
)
def test_moments(text: str, moment: datetime.datetime) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "0m", "5", "5y", "-5m", "yesterday", "2026-13-01", "m5"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match="15m or 7d"):
        parse_moment(text, NOW)


@pytest.mark.parametrize(
    ("text", "range_"), [("200", (200, 200)), ("429", (429, 429)), ("5xx", (500, 599))]
)
def test_statuses(text: str, range_: tuple[int, int]) -> None:
    assert parse_status(text) == range_


@pytest.mark.parametrize("text", ["", "20", "600", "6xx", "xx", "2000", "ok", "4XX"])
def test_what_is_no_status(text: str) -> None:
    with pytest.raises(ValueError, match="5xx"):
        parse_status(text)
