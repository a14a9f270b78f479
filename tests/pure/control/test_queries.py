"""Query strings become filters or a 400: parameters in, structs out."""

import datetime

import pytest

from relay.control.api.queries import LOGS_MAX, parse_log_query, parse_usage_query
from relay.errors import BadRequest
from relay.store.log.reports import CallFilter, ReportScope

NOW = datetime.datetime(2026, 5, 17, 12, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def test_without_parameters_the_last_day_is_shown() -> None:
    assert parse_log_query({}, NOW) == (CallFilter(since=NOW - DAY), 100)
    assert parse_usage_query({}, NOW) == (ReportScope(since=NOW - DAY), "hour")


def test_until_moves_the_default_since() -> None:
    wanted, _ = parse_log_query({"until": "2026-05-01T00:00:00Z"}, NOW)
    assert wanted.until is not None
    assert wanted.since == wanted.until - DAY


@pytest.mark.parametrize(
    ("text", "status"), [("429", (429, 429)), ("5xx", (500, 599)), ("200", (200, 200))]
)
def test_a_status_is_a_number_or_a_class(text: str, status: tuple[int, int]) -> None:
    assert parse_log_query({"status": text}, NOW)[0].status == status


def test_all_filters_arrive() -> None:
    query = {"account": "a", "key": "k", "line": "l", "model": "m", "channel": "c"}
    more = {"reason": "completed", "ip": "10.0.0.0/8", "limit": "7"}
    wanted, limit = parse_log_query({**query, **more}, NOW)
    assert limit == 7
    assert {name: getattr(wanted, name) for name in query} == query
    assert (wanted.reason, wanted.ip) == ("completed", "10.0.0.0/8")


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": str(LOGS_MAX + 1)},
        {"limit": "many"},
        {"status": "600"},
        {"status": "4x"},
        {"since": "yesterday"},
        {"since": "2026-05-01T00:00:00"},
        {"account": ""},
        {"acount": "a"},
    ],
)
def test_what_means_nothing_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        parse_log_query(query, NOW)
    if query.keys() != {"limit"}:
        with pytest.raises(BadRequest):
            parse_usage_query(query, NOW)


def test_usage_is_by_minute_hour_or_day() -> None:
    assert parse_usage_query({"by": "minute"}, NOW)[0].since == NOW - DAY / 24
    assert parse_usage_query({"by": "day"}, NOW)[1] == "day"
    with pytest.raises(BadRequest):
        parse_usage_query({"by": "week"}, NOW)
