"""What a dedicated line feels of floods beside it: the same load with and without them.

One worker, a channel's quota of which 30M tokens a minute are a dedicated line's; standard and
training lines on the same channel are offered ten times the quota each.
"""

import threading
from typing import Any, Final

import msgspec

from benchmarks.load.job import Call, Job
from benchmarks.report.figures import note_disturbed
from benchmarks.scenarios.measure import measure
from benchmarks.scenarios.staging import entry_of, staged
from benchmarks.scenarios.suite import Options, Say, brief
from benchmarks.targets.books import Books
from benchmarks.targets.place import KEY
from benchmarks.targets.upstream import Script

RESERVED_TPM: Final = 30_000_000
QUOTA_TPM: Final = 50_000_000
FLOOD_TIMES: Final = 10
WARM_S: Final = 12.0
WINDOW_S: Final = 20.0
PROMPT_BYTES: Final = 15_600
COMPLETION: Final = 400
TOKENS: Final = PROMPT_BYTES // 4 + COMPLETION
FLOOD_PROMPT_BYTES: Final = 240_000
FLOOD_TOKENS: Final = FLOOD_PROMPT_BYTES // 4 + COMPLETION


def run_isolation(options: Options, say: Say) -> list[dict[str, Any]]:
    """Measure the dedicated line alone, then beside floods of the other two."""
    calm = _measure(options, flooded=False)
    flooded = _measure(options, flooded=True)
    note_disturbed(flooded)
    used = sum(flooded.pop("flood_tpm").values()) + flooded["tokens_per_min"]
    calm.pop("flood_tpm")
    flooded["quota_used"] = used / QUOTA_TPM
    flooded["admitted_ratio"] = flooded["tokens_per_min"] / calm["tokens_per_min"]
    notes = [
        f"first token p99 {_p99(calm)} ms alone, {_p99(flooded)} ms beside the floods",
        f"admitted tokens {flooded['admitted_ratio'] - 1:+.2%} against the run without them",
        f"{flooded['quota_used']:.1%} of the channel's quota was used",
    ]
    say(f"isolation: {brief(flooded)}; {'; '.join(notes)}")
    about = (
        "a dedicated line at its 30M tokens a minute; standard and training lines on the same "
        "channel are offered ten times its quota each"
    )
    return [entry_of("isolation", about, flooded, notes)]


def _p99(figures: dict[str, Any]) -> str:
    found = figures["ttft_ms"]["p99"]
    return "?" if found is None else f"{found:.2f}"


def _measure(options: Options, *, flooded: bool) -> dict[str, Any]:
    script = Script(chunks=COMPLETION)
    with staged(options, script, line_tpm=RESERVED_TPM, quota_tpm=QUOTA_TPM) as (server, upstreams):
        job = Job(
            host="127.0.0.1",
            port=server.port,
            key=KEY,
            headers={"x-relay-line": "bench"},
            calls=(Call(stream=True, prompt_bytes=PROMPT_BYTES, tokens_max=COMPLETION),),
            rate=0.97 * RESERVED_TPM / 60 / TOKENS,
            connections=1000,
            warm_s=WARM_S,
            window_s=WINDOW_S,
        )
        flood_tpm: dict[str, float] = {}
        asked: list[int] = []

        def flood(line: str) -> None:
            calls = (Call(stream=True, prompt_bytes=FLOOD_PROMPT_BYTES, tokens_max=COMPLETION),)
            rate = FLOOD_TIMES * QUOTA_TPM / 60 / FLOOD_TOKENS
            headers = {"x-relay-line": line}
            other = msgspec.structs.replace(job, calls=calls, rate=rate, headers=headers)
            figures, _ = measure(options.bench, other, server, upstreams)
            flood_tpm[line] = figures["tokens_per_min"]
            asked.append(figures["asked"])

        lines = ("standard", "training") if flooded else ()
        floods = [threading.Thread(target=flood, args=(line,)) for line in lines]
        for thread in floods:
            thread.start()
        books = Books(server)
        figures, _ = measure(options.bench, job, server, upstreams)
        for thread in floods:
            thread.join()
        books.asked += figures["asked"] + sum(asked)
        figures |= books.check()
    figures["flood_tpm"] = flood_tpm
    return figures
