"""Goal: whatever stands in a filter or an origin is answered, or refused by what is wrong.

Method: values at the edges of what their types hold, to both APIs' readers; on Postgres what it
alone refuses.
"""

import datetime
import json

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from relay.console.account_api.compat import DatesQuery, days_of
from relay.console.queries.calls import MS_MAX
from relay.console.queries.forms import LogQuery, to_filter
from relay.console.server import is_same_site
from relay.control.api.queries import parse_log_query, parse_usage_query
from relay.errors import BadRequest
from relay.wire.client_ip import network_of

NOW = datetime.datetime(2026, 11, 30, 12, 0, tzinfo=datetime.UTC)
FIRST = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
UUID7 = "req_%012x7fffbfffffffffffffff"


@pytest.mark.parametrize(
    "until",
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59Z",
        "9999-12-30",
        "2030-01-01",
    ],
)
def test_the_first_and_the_last_moments_are_moments(until: str) -> None:
    found = to_filter(LogQuery(until=until), 1, NOW)
    assert FIRST <= found.until <= NOW + datetime.timedelta(days=1)
    assert found.since <= NOW
    moved = found.until - datetime.timedelta(days=365), found.until + datetime.timedelta(days=365)
    assert moved[0] < moved[1]


@pytest.mark.parametrize("until", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_so_they_are_for_operators(until: str) -> None:
    wanted, _ = parse_log_query({"until": until}, NOW)
    assert wanted.since is not None and wanted.since >= FIRST - datetime.timedelta(days=1)
    scope, by = parse_usage_query({"until": until, "by": "day"}, NOW)
    assert by == "day" and scope.since is not None


@pytest.mark.parametrize("text", ["9999-12-31", "0001-01-01", "2026-11-30", ""])
def test_so_they_are_for_dashboards(text: str) -> None:
    start, end = days_of(DatesQuery(start_date=text, end_date=text), NOW)
    assert end <= NOW + datetime.timedelta(days=1) and start.tzinfo is datetime.UTC


@pytest.mark.parametrize("ms", [0, 1, 2**42, 2**47, 2**48 - 1])
def test_an_id_may_name_any_moment(ms: int) -> None:
    found = to_filter(LogQuery(id=UUID7 % ms), 1, NOW)
    assert found.request_id is not None and found.request_id.int >> 80 == ms
    assert FIRST + datetime.timedelta(milliseconds=min(ms, MS_MAX)) < NOW.replace(year=2110)


@pytest.mark.parametrize("ip", ["::%eth0", "fe80::1%1/64", "%", "1.2.3.4%25", "999.1.1.1", "x"])
def test_a_zone_and_what_is_no_address_are_refused(ip: str) -> None:
    with pytest.raises(BadRequest) as refused:
        to_filter(LogQuery(ip=ip), 1, NOW)
    assert refused.value.param == "ip"
    with pytest.raises(ValueError, match=r"zone|not appear|does not"):
        network_of(ip)


@pytest.mark.parametrize(
    ("origin", "same"),
    [
        ("http://relay.example", True),
        ("https://relay.example", True),
        ("http://evil.example", False),
        ("http://relay.example@evil.example", False),
        ("http://[", False),
        ("http://[::1", False),
        ("http://a]b", False),
        ("null", False),
        ("", False),
    ],
)
def test_an_origin_that_is_none_is_another_site(origin: str, *, same: bool) -> None:
    headers = {"Host": "relay.example", "Origin": origin}
    assert is_same_site(make_mocked_request("POST", "/login", headers=headers)) is same


def test_what_a_query_says_is_read_strictly() -> None:
    for name, value in (("min_ms", "nan"), ("min_ms", "inf"), ("limit", "1e9"), ("status", "600")):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(json.loads(json.dumps({name: value})), LogQuery, strict=False)
