"""Goal: the filters of `relay logs` mean what an operator types, and refuse what means nothing.

Method: tables of texts.
"""

import datetime

import pytest

from relay.cli.logs import parse_moment, parse_month, parse_status
from relay.cli.output import print_csv

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


@pytest.mark.parametrize(
    ("text", "first", "next_"),
    [("2026-02", (2026, 2), (2026, 3)), ("2026-12", (2026, 12), (2027, 1))],
)
def test_months(text: str, first: tuple[int, int], next_: tuple[int, int]) -> None:
    wanted = tuple(datetime.datetime(*one, 1, tzinfo=datetime.UTC) for one in (first, next_))
    assert parse_month(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-00", "2026-1", "26-01", "2026-01-01"]
)
def test_what_is_no_month(text: str) -> None:
    with pytest.raises(ValueError, match="2026-11"):
        parse_month(text)


def test_csv_holds_no_formula(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(
        [{"model": "=1+1", "cost_usd": "0.5"}, {"model": "a,b", "cost_usd": 2}],
        ["model", "cost_usd"],
    )
    assert capsys.readouterr().out == 'model,cost_usd\n\'=1+1,0.5\n"a,b",2\n'
