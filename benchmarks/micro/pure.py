"""`relay bench micro`: what the pure parts of a call cost, each alone, best of several rounds.

The least of the rounds is what the code costs; all that is above it is the machine's doing. These
are for finding what got slower, not for adding up: caches are warm and nothing else runs.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from relay.config import JournalConfig
from relay.limits.broker import Broker
from relay.limits.bucket import Buckets, Rule, read_reply
from relay.limits.decision import Waiter
from relay.limits.limit_set import LimitSet
from relay.limits.scopes import Bucket, Limit, Measure, Scope
from relay.records import CallEnd, CallStart, Endpoint
from relay.store.log.journal import Journal
from relay.wire.api_keys import RANDOM_BYTES, digest, mint
from relay.wire.request.json_request import peek_json, reframe_json
from relay.wire.sse import EventBuffer
from relay.wire.usage.reader import find_usage

ROUNDS: Final = 7
ROUND_S: Final = 0.03
_BUCKETS: Final = 6
"""A call draws on the tokens and the requests of its line, account and key."""

_EVENT: Final = (
    b'data: {"id":"chatcmpl-AbCdEf0123456789","object":"chat.completion.chunk","created":1763900000'
    b',"model":"gpt-4o-mini","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":'
    b'" token"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
_TAIL: Final = (
    _EVENT
    * 3
    + b'data: {"id":"chatcmpl-AbCdEf0123456789","object":"chat.completion.chunk","choices"'
    b':[],"usage":{"prompt_tokens":250,"completion_tokens":40,"total_tokens":290,'
    b'"prompt_tokens_details":{"cached_tokens":128},"completion_tokens_details":'
    b'{"reasoning_tokens":0}}}\n\ndata: [DONE]\n\n'
)

Work = Callable[[], object]


def body_of(prompt_bytes: int) -> bytes:
    """Return a chat request with a prompt of that size."""
    message = {"role": "user", "content": "lorem ipsum " * (prompt_bytes // 12)}
    return json.dumps({"model": "gpt-4o-mini", "stream": True, "messages": [message]}).encode()


def make_records() -> tuple[CallStart, CallEnd]:
    """Return the two journal records of a usual call."""
    asked: dict[str, Any] = {
        "request_id": bytes(range(16)),
        "time_us": 1_790_000_000_000_000,
        "account_id": 7,
        "key_id": 12,
        "ip": "203.0.113.9",
        "endpoint": "chat/completions",
        "model": "gpt-4o-mini",
        "line_id": 3,
        "stream": True,
    }
    start = CallStart(**asked, input_estimate=1000)
    end = CallEnd(
        **asked,
        channel_id=5,
        served_model="gpt-4o-mini",
        status=200,
        reason="stop",
        input_tokens=3800,
        cached_tokens=128,
        cache_write_tokens=0,
        output_tokens=380,
        reasoning_tokens=0,
        estimated=False,
        ttft_us=400_000,
        total_us=4_200_000,
        attempts=1,
        cost_nanos=798_000,
        price_id=41,
        group_multiplier_ppm=800_000,
        model_multiplier_ppm=1_000_000,
        error_code="",
    )
    return start, end


def _admit() -> Work:
    """Return the admission of a call whose leases are full: what nearly every call meets."""
    rule = Rule(30_000_000, 6_000)
    measures = [Measure.REQUESTS, Measure.TOKENS] * (_BUCKETS // 2)
    buckets = tuple(
        Bucket(f"b{n}", "b", Scope.LINE, measure, rule) for n, measure in enumerate(measures)
    )
    limit_set = LimitSet((Limit(buckets, None),))
    broker = Broker(lambda _: "", lambda _: None)
    asked = broker.ask(limit_set, limit_set.costs((1000, 0, 100)), 0.0)
    assert isinstance(asked, Waiter)
    bank = Buckets()
    batch = broker.take_batch("", 0.0)
    assert batch is not None
    broker.land(batch, read_reply(batch.question, bank.answer(batch.question, 0.0)), 0.0)
    for lease in broker.leases:
        lease.balance = 10**15
    return lambda: broker.take(limit_set, limit_set.costs((1000, 0, 100)), 1.0)


def pure_works() -> dict[str, Work]:
    """Return what is measured, by name."""
    buffer = EventBuffer(1 << 20)
    key, pepper = mint(bytes(range(RANDOM_BYTES))), bytes(32)
    short, long = body_of(1000), body_of(64 * 1024)
    asked = peek_json(short, Endpoint.CHAT)
    return {
        "sse_scan": lambda: buffer.feed(_EVENT),
        "usage_find": lambda: find_usage(_EVENT, _TAIL),
        "limiter_admit": _admit(),
        "key_digest": lambda: digest(pepper, key),
        "json_peek_1k": lambda: peek_json(short, Endpoint.CHAT),
        "json_peek_64k": lambda: peek_json(long, Endpoint.CHAT),
        "json_reframe_1k": lambda: reframe_json(asked, model="gpt-4o", add_usage=True),
    }


def time_work(work: Work, rounds: int = ROUNDS, round_s: float = ROUND_S) -> float:
    """Return the nanoseconds of one `work`: the best round's average."""
    count = 1
    while True:
        begun_s = time.perf_counter()
        for _ in range(count):
            work()
        if time.perf_counter() - begun_s >= round_s:
            break
        count *= 2
    best_s = float("inf")
    for _ in range(rounds):
        begun_s = time.perf_counter()
        for _ in range(count):
            work()
        best_s = min(best_s, time.perf_counter() - begun_s)
    return 1e9 * best_s / count


async def time_journal(folder: Path, calls: int = 2000, rounds: int = ROUNDS) -> float:
    """Return the nanoseconds that START and END of a call cost the loop, their write included."""
    journal = Journal(folder, "w0", JournalConfig())
    journal.open()
    start, end = make_records()
    best_s = float("inf")
    try:
        for _ in range(rounds):
            begun_s = time.process_time()
            for _ in range(calls):
                journal.start(start)
                journal.end(end)
            # The group commit falls into the round: it waits flush_ms, which is no CPU time.
            await asyncio.sleep(0.01)
            best_s = min(best_s, time.process_time() - begun_s)
    finally:
        await journal.close()
    return 1e9 * best_s / calls


def run_micro() -> dict[str, float]:
    """Return nanoseconds by name."""
    found = {name: time_work(work) for name, work in pure_works().items()}
    with tempfile.TemporaryDirectory() as folder:
        found["journal_append"] = asyncio.run(time_journal(Path(folder)))
    return {name: round(ns, 1) for name, ns in found.items()}


@click.command()
@click.option("--json", "as_json", is_flag=True)
def command(*, as_json: bool) -> None:
    """Measure the pure parts: SSE scan, usage, limiter, journal, key digest, JSON."""
    found = run_micro()
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, ns in found.items():
        sys.stdout.write(f"{name:18} {ns / 1000:9.3f} us\n")
