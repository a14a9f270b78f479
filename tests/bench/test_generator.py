"""Goal: the generator tells the truth about a server. Method: servers whose delays are known.

Generator and server share this test's loop, so bounds from above are generous: a loaded machine
adds to every delay. Bounds from below allow for the millisecond by which a loop's timer is early.
"""

import asyncio
import time

from benchmarks.load.generator import intended_times
from benchmarks.load.job import Job
from benchmarks.report.figures import Usage, derive
from tests.bench.servers import BODY, JSON, STREAM_HEAD, chunk, later, put, serving

SLACK_MS = 40.0


def event(text: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text.encode()


async def test_percentiles_are_those_of_the_servers_delays() -> None:
    def answer(transport: asyncio.Transport, number: int) -> None:
        later(0.100 if number % 10 == 9 else 0.010, transport)

    async with serving(answer) as port:
        seen = await put(port, rate=200.0, poisson=False, connections=200)
    assert seen.done > 150 and not seen.errors
    assert 8.9 < seen.latency.percentile(50) / 1000 < 10 + SLACK_MS
    assert 98.9 < seen.latency.percentile(95) / 1000 < 100 + SLACK_MS
    assert 98.9 < seen.latency.percentile(99) / 1000 < 100 + SLACK_MS


class Stalling:
    """Answers at once; but for one second, from its request number `first` on, not at all."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._until_s = 0.0

    def __call__(self, transport: asyncio.Transport, number: int) -> None:
        now_s = time.monotonic()
        if number == self._first:
            self._until_s = now_s + 1.0
        if now_s < self._until_s:
            later(self._until_s - now_s, transport)
        else:
            transport.write(JSON)


async def test_an_open_loop_sees_a_stall_of_a_second_in_its_p99() -> None:
    async with serving(Stalling(100)) as port:
        seen = await put(port, rate=150.0, connections=400, window_s=2.5)
    assert not seen.errors
    # 40 % of the calls were intended in the stall; they waited from 0 to 1 s.
    assert seen.latency.percentile(99) / 1000 > 850
    assert seen.latency.percentile(80) / 1000 > 300


async def test_a_closed_loop_would_have_hidden_it() -> None:
    async with serving(Stalling(3000)) as port:
        seen = await put(port, connections=4, warm_s=0.001, window_s=2.5)
    assert seen.latency.max / 1000 > 800
    assert seen.latency.percentile(99) / 1000 < 100


async def test_a_generator_that_cannot_keep_up_is_invalid() -> None:
    async with serving(lambda transport, _: transport.write(JSON)) as port:
        seen = await put(
            port, rate=200_000.0, connections=300, window_s=0.2, warm_s=0.1, patience_s=1.0
        )
    figures = derive(seen, Usage(window_s=0.2), offered_rps=200_000.0, streams=False)
    assert figures["valid"] is False
    assert any("late at p99" in reason for reason in figures["invalid_reasons"])


async def test_streams_are_counted_by_event_and_timed_by_their_first_text() -> None:
    def answer(transport: asyncio.Transport, _: int) -> None:
        transport.write(STREAM_HEAD + chunk(b'data: {"choices":[{"delta":{"content":""}}]}\n\n'))
        later(0.030, transport, chunk(event("one")))
        later(0.060, transport, chunk(event("two")))
        usage = b"data: " + BODY + b"\n\n"
        later(0.090, transport, chunk(usage) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with serving(answer) as port:
        seen = await put(port, stream=True, rate=50.0, connections=50)
    assert not seen.errors
    assert seen.latency.count == seen.ttft.count == seen.started
    assert 28.9 < seen.ttft.percentile(50) / 1000 < 30 + SLACK_MS
    assert 28 < seen.gap.percentile(50) / 1000 < 30 + SLACK_MS
    assert 88.9 < seen.latency.percentile(50) / 1000 < 90 + SLACK_MS
    assert seen.events >= 4 * seen.done
    assert seen.prompt_tokens == 250 * seen.done


async def test_every_way_a_call_can_fail_is_told_by_its_kind() -> None:
    def answer(transport: asyncio.Transport, number: int) -> None:
        kind = number % 4
        if kind == 0:
            transport.write(b"HTTP/1.1 429 No\r\nContent-Length: 2\r\n\r\n{}")
        elif kind == 1:
            transport.write(STREAM_HEAD + chunk(event("cut")) + b"0\r\n\r\n")
        elif kind == 2:
            told = b'data: {"error":{"message":"broken"}}\n\n'
            transport.write(STREAM_HEAD + chunk(event("x")) + chunk(told) + b"0\r\n\r\n")
        else:
            transport.write(STREAM_HEAD + chunk(event("lost")))
            transport.close()

    async with serving(answer) as port:
        seen = await put(port, stream=True, rate=100.0, connections=50)
    assert set(seen.errors) == {"http_429", "truncated", "error_event", "closed"}
    assert sum(seen.errors.values()) == seen.started


async def test_calls_without_an_answer_are_unfinished() -> None:
    async with serving(lambda *_: None) as port:
        seen = await put(port, rate=50.0, connections=100, window_s=0.4, patience_s=0.2)
    assert seen.errors == {"unfinished": seen.started}


async def test_a_server_that_hangs_a_tenth_of_its_calls_shows_no_healthy_p99() -> None:
    def answer(transport: asyncio.Transport, number: int) -> None:
        if number % 10 != 9:
            transport.write(JSON)

    async with serving(answer) as port:
        seen = await put(port, rate=100.0, connections=400, window_s=1.0, patience_s=1.0)
    hung = seen.errors["unfinished"]
    assert 0.05 < hung / seen.started < 0.2
    assert seen.answered == seen.started - hung
    # Each of them is as old as the patience of the load, at least.
    assert seen.latency.count == seen.started
    assert seen.latency.percentile(99) / 1000 >= 1000
    assert seen.latency.percentile(80) / 1000 < 200
    figures = derive(seen, Usage(window_s=1.0), offered_rps=100.0, streams=False)
    assert figures["request_latency_ms"]["p99"] >= 1000
    assert figures["saturated"] is True


async def test_a_stream_that_never_says_a_word_counts_in_the_time_to_the_first() -> None:
    def answer(transport: asyncio.Transport, number: int) -> None:
        said = chunk(event("hi")) if number % 2 else b""
        transport.write(STREAM_HEAD + said)

    async with serving(answer) as port:
        seen = await put(port, stream=True, rate=50.0, connections=100, patience_s=0.5)
    assert seen.answered == 0
    assert seen.ttft.count == seen.latency.count == seen.started
    assert seen.ttft.percentile(40) / 1000 < 200
    assert seen.ttft.percentile(90) / 1000 >= 500


async def test_a_call_that_was_cut_off_counts_with_its_age_and_a_refused_one_does_not() -> None:
    def answer(transport: asyncio.Transport, number: int) -> None:
        if number % 2:
            transport.write(b"HTTP/1.1 429 No\r\nContent-Length: 2\r\n\r\n{}")
        else:
            transport.close()

    async with serving(answer) as port:
        seen = await put(port, rate=50.0, connections=100)
    assert set(seen.errors) == {"closed", "http_429"}
    assert seen.latency.count == seen.errors["closed"]


async def test_a_port_that_refuses_is_an_error_to_connect() -> None:
    async with serving(lambda *_: None) as port:
        pass
    seen = await put(port, rate=50.0, connections=10, window_s=0.3)
    assert seen.started > 0
    assert seen.errors == {"connect": seen.started}


async def test_held_streams_are_counted_as_open_and_dropped_in_the_end() -> None:
    async with serving(lambda t, _: t.write(STREAM_HEAD + chunk(event("hi")))) as port:
        seen = await put(
            port, stream=True, rate=100.0, poisson=False, connections=40, warm_s=0.4, hold=True
        )
    assert 35 <= seen.open_streams <= 40
    assert not seen.errors


async def test_an_answer_in_single_bytes_reads_the_same() -> None:
    whole = STREAM_HEAD + chunk(event("slow")) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"

    def answer(transport: asyncio.Transport, _: int) -> None:
        # One after the other: timers that are due in the same millisecond may change places.
        def send(index: int) -> None:
            if index < len(whole):
                transport.write(whole[index : index + 1])
                asyncio.get_running_loop().call_later(0.001, send, index + 1)

        send(0)

    async with serving(answer) as port:
        seen = await put(port, stream=True, rate=5.0, poisson=False, warm_s=0.6, window_s=0.6)
    assert not seen.errors
    assert seen.latency.count == seen.started > 0


def test_a_schedule_is_reproducible_and_has_its_rate() -> None:
    job = Job(host="", port=0, rate=1000.0, begin_ns=5, seed=3)
    first, again = intended_times(job), intended_times(job)
    times = [next(first) for _ in range(4000)]
    assert times == [next(again) for _ in range(4000)]
    assert times == sorted(times)
    assert 0.9 < 4000 / ((times[-1] - 5) / 1e9) / 1000 < 1.1
