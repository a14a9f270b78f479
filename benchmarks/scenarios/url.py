"""A load on any OpenAI-compatible URL: what its users see, without a look into its processes."""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from benchmarks.load.job import Call, Job
from benchmarks.report.cells import number
from benchmarks.scenarios.measure import Bench, measure

_WARM_S: Final = 1.0


class UrlLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask of which URL. `rate`: 0 = closed loop over `connections`."""

    url: str
    key: str
    model: str
    stream: bool
    rate: float
    connections: int
    duration_s: float
    prompt_bytes: int
    tokens_max: int
    generators: int


def make_job(load: UrlLoad) -> Job:
    """Return the job for it."""
    url = urlsplit(load.url)
    assert url.hostname is not None, "checked before"
    secure = url.scheme == "https"
    call = Call(
        stream=load.stream,
        prompt_bytes=load.prompt_bytes,
        tokens_max=load.tokens_max,
        model=load.model,
    )
    return Job(
        host=url.hostname,
        port=url.port or (443 if secure else 80),
        tls=secure,
        path=f"{url.path.rstrip('/')}/chat/completions",
        key=load.key,
        calls=(call,),
        rate=load.rate,
        connections=load.connections,
        warm_s=_WARM_S,
        window_s=load.duration_s,
    )


def run_url(load: UrlLoad, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure; return the one entry of the report."""
    bench = Bench(target_cores=frozenset(), load_cores=_all_cores(), generators=load.generators)
    loop = f"{load.rate:g} calls/s" if load.rate else f"closed loop, {load.connections} callers"
    say(f"{load.url}: {loop}, {load.duration_s:g} s")
    figures, _ = measure(bench, make_job(load), None, [])
    kind = "streams" if load.stream else "JSON calls"
    about = f"{kind}, {loop}, prompt of {load.prompt_bytes} bytes, at most {load.tokens_max} tokens"
    return [
        {
            "name": "url",
            "target": load.url,
            "about": about,
            "does": "unknown",
            **figures,
            "notes": _notes(figures, closed=not load.rate),
        }
    ]


def _notes(figures: dict[str, Any], *, closed: bool) -> list[str]:
    notes = []
    for field in ("ttft_ms", "request_latency_ms", "inter_chunk_latency_ms"):
        found = figures[field]
        if found and found["p50"] is not None:
            spans = " ".join(f"{p} {number(found[p], 2)}" for p in ("p50", "p90", "p99", "p99_9"))
            notes.append(f"{field.removesuffix('_ms')} {spans} ms")
    if closed:
        notes.append("closed loop: its latencies hide stalls; use --rate for latency")
    return notes


def _all_cores() -> frozenset[int]:
    import os

    return frozenset(os.sched_getaffinity(0))
