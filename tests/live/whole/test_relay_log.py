"""Goal: the request log has each call exactly once, with the right tokens and an exact cost.

Method: known calls on a real relay; tokens are compared with what each client was told, the cost
is computed again here, and the receipt's sum is worked out as its payer would.
"""

import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live.relay_process import Answer, RelayProcess, ask, question, send, streaming

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

FIELDS = [
    *("request_id", "time", "account", "key_id", "key_name", "ip", "line", "channel", "model"),
    *("served_model", "endpoint", "stream", "status", "reason", "input_tokens", "cached_tokens"),
    *("cache_write_tokens", "output_tokens", "reasoning_tokens", "estimated", "cost_usd"),
    *("ttft_ms", "total_ms", "attempts"),
]
"""What whoever reads the log may rely on."""

NANOS_PER_TOKEN = {"input": 150, "cached": 75, "output": 600}
"""0.15, 0.075 and 0.60 USD per 1M tokens."""
GROUP_MULTIPLIER = Fraction("0.77")


def round_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def cost_nanos(row: dict[str, Any]) -> int:
    """Return what a row of model "steady" must cost."""
    list_nanos = (
        (row["input_tokens"] - row["cached_tokens"]) * NANOS_PER_TOKEN["input"]
        + row["cached_tokens"] * NANOS_PER_TOKEN["cached"]
        + row["output_tokens"] * NANOS_PER_TOKEN["output"]
    )
    return round_half_up(list_nanos * GROUP_MULTIPLIER)


def nanos(row: dict[str, Any]) -> Fraction:
    """Return the cost that a row says."""
    return Fraction(row["cost_usd"]) * 10**9


def lines(text: str) -> list[dict[str, Any]]:
    """Return the objects of one JSON object a line."""
    return [json.loads(line) for line in text.splitlines()]


async def make_calls(relay: RelayProcess, key: str) -> dict[str, Answer]:
    """Make three whole answers, two refused calls and a model list; return them by request id."""
    long = [{"role": "user", "content": "word " * 40}]
    answers = [
        await ask(relay, key),
        await ask(relay, key, question(messages=long, max_tokens=77)),
        await ask(relay, key, question(max_tokens=1)),
        await ask(relay, key, question("unheard-of")),
        await ask(relay, key, b"{ this is not JSON"),
    ]
    assert [answer.status for answer in answers] == [200, 200, 200, 404, 400]
    assert (await send(f"{relay.url}/models", headers=bearer(key))).status == 200
    return {answer.request_id: answer for answer in answers}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_each_call_is_one_row_with_its_tokens_and_its_cost(relay: RelayProcess) -> None:
    key = await relay.make_key("log")
    answers = await make_calls(relay, key)
    usage_asked = question(max_tokens=30, stream_options={"include_usage": True})
    async with (
        streaming(relay, key, 2, usage_asked) as told,
        streaming(relay, key, 2, question(max_tokens=20)) as untold,
    ):
        pass
    streams = {stream.request_id: stream for stream in [*told, *untold]}

    await relay.rows("log", len(answers) + len(streams))
    rows = lines(await relay.cli("logs", "--key", "log", "--json"))
    by_id = {row["request_id"]: row for row in rows}
    assert len(rows) == len(answers) + len(streams)
    assert by_id.keys() == answers.keys() | streams.keys()
    for row in rows:
        assert list(row) == FIELDS
        assert (row["account"], row["key_name"], row["ip"]) == ("folk", "log", "127.0.0.1")
        assert nanos(row) == cost_nanos(row)
        assert row["stream"] == (row["request_id"] in streams)

    for request_id, answer in answers.items():
        check_answered(by_id[request_id], answer)
    for stream in told:
        usage = json.loads(stream.events[-2])["usage"]
        check_served(by_id[stream.request_id], usage)
    for stream in untold:
        assert b'"usage":{' not in stream.body
        assert by_id[stream.request_id]["output_tokens"] == 20
        assert by_id[stream.request_id]["estimated"] is False
    times = [datetime.fromisoformat(row["time"]) for row in rows]
    assert times == sorted(times, reverse=True)
    assert (datetime.now(UTC) - times[-1]).total_seconds() < 60


def check_answered(row: dict[str, Any], answer: Answer) -> None:
    """Compare a row with what its client got."""
    assert row["status"] == answer.status
    if answer.status == 200:
        check_served(row, json.loads(answer.body)["usage"])
    else:
        assert (row["reason"], row["cost_usd"], row["attempts"]) == ("rejected", "0", 0)
        assert (row["channel"], row["input_tokens"], row["output_tokens"]) == (None, 0, 0)


def check_served(row: dict[str, Any], usage: dict[str, Any]) -> None:
    """Compare a row with the usage that its client was told."""
    assert (row["line"], row["channel"], row["model"]) == ("town", "mock", "steady")
    assert (row["served_model"], row["endpoint"]) == ("steady", "chat/completions")
    assert (row["status"], row["reason"], row["attempts"]) == (200, "completed", 1)
    assert row["input_tokens"] == usage["prompt_tokens"]
    assert row["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert row["output_tokens"] == usage["completion_tokens"]
    assert (row["cache_write_tokens"], row["reasoning_tokens"]) == (0, 0)
    assert row["estimated"] is False
    assert 0 < row["ttft_ms"] <= row["total_ms"] < 20_000
    assert nanos(row) > 0


async def test_one_call_is_shown_with_the_sum_of_its_cost(relay: RelayProcess) -> None:
    key = await relay.make_key("receipt")
    answer = await ask(relay, key, question(max_tokens=123))
    await relay.rows("receipt", 1)
    shown = json.loads(await relay.cli("logs", "show", answer.request_id, "--json"))
    assert nanos(shown) == cost_nanos(shown)
    assert (shown["group_multiplier"], shown["model_multiplier"]) == ("0.77", "1")
    summands, _, cost_usd = shown["receipt"].partition(" = $")
    assert cost_usd == shown["cost_usd"]
    assert round_half_up(sum_up(summands) * 10**9) == nanos(shown)
    assert shown["receipt"] in await relay.cli("logs", "show", answer.request_id)
    await relay.cli("logs", "show", f"req_{'0' * 32}", code=1)


def sum_up(summands: str) -> Fraction:
    """Return the USD of "123 x $0.6/M + ..., x 0.77", the left side of a receipt."""
    terms, _, factors = summands.partition(", x ")
    value = Fraction(0)
    for term in terms.split(" + "):
        found = re.fullmatch(r"([\d,]+) x \$([\d.]+)/M", term)
        assert found is not None, term
        value += int(found[1].replace(",", "")) * Fraction(found[2]) / 10**6
    for factor in factors.split(" x "):
        value *= Fraction(factor)
    return value


async def test_usage_by_minute_sums_up_to_the_rows(relay: RelayProcess) -> None:
    key = await relay.make_key("usage")
    count = len(await make_calls(relay, key))
    rows = await relay.rows("usage", count)
    minutes = lines(await relay.cli("usage", "--by", "minute", "--key", "usage", "--json"))
    for field in ("input_tokens", "cached_tokens", "output_tokens"):
        assert total(minutes, field) == total(rows, field)
    assert sum(nanos(minute) for minute in minutes) == sum(nanos(row) for row in rows)
    assert (total(minutes, "requests"), total(minutes, "errors")) == (5, 2)
    assert {minute["time"][17:] for minute in minutes} == {"00.000Z"}
    days = lines(await relay.cli("usage", "--by", "day", "--key", "usage", "--json"))
    assert total(days, "requests") == 5


def total(rows: Iterable[dict[str, Any]], field: str) -> int:
    """Return the sum of a field."""
    return sum(int(row[field]) for row in rows)


async def test_filters_find_what_they_say_and_nothing_else(relay: RelayProcess) -> None:
    key = await relay.make_key("filters")
    answers = list(await make_calls(relay, key))
    other = await ask(relay, key, question("other"), local_ip="127.0.0.9")
    rows = await relay.rows("filters", 6)

    async def find(*flags: str) -> set[str]:
        found = lines(await relay.cli("logs", "--key", "filters", *flags, "--json"))
        return {row["request_id"] for row in found}

    everything = {*answers, other.request_id}
    assert await find("--account", "folk") == everything
    assert await find("--model", "other") == {other.request_id}
    assert await find("--ip", "127.0.0.8/30") == {other.request_id}
    assert await find("--status", "4xx") == set(answers[3:])
    assert await find("--status", "404", "--reason", "rejected") == {answers[3]}
    assert await find("--line", "town", "--channel", "mock", "--model", "steady") == {*answers[:3]}
    assert await find("--limit", "2") == {row["request_id"] for row in rows[:2]}
    middle = rows[2]["time"]
    assert await find("--since", middle) | await find("--until", middle) == everything
    assert await find("--since", middle) & await find("--until", middle) == set()
    await relay.cli("logs", "--key", "nobody's", code=1)
    await relay.cli("logs", "--status", "9xx", code=2)


# --- what monitoring sees ---------------------------------------------------------------------


def samples(text: str) -> dict[tuple[str, str], float]:
    """Return (sample, labels as text) -> value of a scrape."""
    return {
        (
            sample.name,
            ",".join(f"{name}={sample.labels[name]}" for name in sorted(sample.labels)),
        ): (sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_exactly_the_calls_made(relay: RelayProcess) -> None:
    key = await relay.make_key("metrics")
    await relay.figures_published()
    before = samples(await relay.metrics())
    await make_calls(relay, key)
    async with streaming(relay, key, 1, question(max_tokens=20)):
        pass
    rows = await relay.rows("metrics", 6)
    await relay.figures_published()
    after = samples(await relay.metrics())
    grown = {at: after[at] - before.get(at, 0) for at in after if after[at] != before.get(at, 0)}

    requests = {at[1]: count for at, count in grown.items() if at[0] == "relay_requests_total"}
    assert requests.pop("code=2xx,endpoint=chat/completions,line=town") == 4
    assert sum(requests.values()) == 2
    assert grown["relay_attempts_total", ""] == 4
    assert grown["relay_ttfb_seconds_count", ""] == 4
    tokens = {at[1]: count for at, count in grown.items() if at[0] == "relay_tokens_total"}
    assert tokens == {
        "type=input": total(rows, "input_tokens"),
        "type=cached": total(rows, "cached_tokens"),
        "type=output": total(rows, "output_tokens"),
    }
    assert after["relay_log_lag_bytes", ""] == 0
    assert not [at for at in grown if at[0] == "relay_upstream_errors_total"]


async def test_health_is_open_and_the_rest_asks_for_the_token(relay: RelayProcess) -> None:
    ready = await send(f"http://{relay.admin}/readyz")
    assert ready.status == 200
    assert json.loads(ready.body)["workers"] == {"worker-0": "ready", "worker-1": "ready"}
    assert (await send(f"http://{relay.admin}/livez")).status == 200
    for path in ("keys", "channels", "logs", "usage"):
        url = f"http://{relay.admin}/admin/v1/{path}"
        for headers in ({}, {"Authorization": "Bearer wrong"}, bearer(relay.key)):
            refused = await send(url, headers=headers)
            assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
