"""What everybody else feels of one address that tries 10,000 wrong keys a second.

The same load without and with it, in one sitting. What becomes of the flood is the door's to say:
an answer, 429, 403, a connection that is not read or not taken.
"""

import threading
from typing import Any, Final

import msgspec

from benchmarks.load.job import Call, Job
from benchmarks.report.figures import note_disturbed
from benchmarks.scenarios.measure import measure
from benchmarks.scenarios.staging import entry_of, staged
from benchmarks.scenarios.suite import Options, Say, brief
from benchmarks.targets.place import KEY
from benchmarks.targets.upstream import Script

WRONG_PER_S: Final = 10_000
STRANGER: Final = "127.0.0.2"
CALLS_PER_S: Final = 400
WARM_S: Final = 4.0
WINDOW_S: Final = 10.0
P99_RISE_MAX: Final = 0.10


def run_wrong_keys(options: Options, say: Say) -> list[dict[str, Any]]:
    """Measure a load alone, then beside the flood; the added latency is what counts."""
    with staged(options, Script(chunks=40)) as (server, upstreams):
        job = Job(
            host="127.0.0.1",
            port=server.port,
            key=KEY,
            calls=(Call(stream=False),),
            rate=CALLS_PER_S,
            connections=256,
            warm_s=WARM_S,
            window_s=WINDOW_S,
        )
        wrong = msgspec.structs.replace(
            job, key="relay_wrong", rate=WRONG_PER_S, source=STRANGER, patience_s=1.0
        )
        calm, _ = measure(options.bench, job, server, upstreams)
        found: list[dict[str, Any]] = []

        def flood() -> None:
            found.append(measure(options.bench, wrong, server, upstreams)[0])

        thread = threading.Thread(target=flood)
        thread.start()
        figures, _ = measure(options.bench, job, server, upstreams)
        thread.join()
    note_disturbed(figures)
    before, after = (one["request_latency_ms"]["p99"] for one in (calm, figures))
    rise = after / before - 1 if before and after else float("nan")
    figures |= {"p99_rise": rise, "flood_errors": found[0]["errors_by_kind"]}
    held = "within" if rise < P99_RISE_MAX else "NOT within"
    notes = [
        f"p99 {before} ms alone, {after} ms beside the flood: {rise:+.1%}, {held} "
        f"{P99_RISE_MAX:.0%}",
        f"{found[0]['asked']} wrong keys of {int(WRONG_PER_S * (WARM_S + WINDOW_S))} were read: "
        f"{found[0]['errors_by_kind']}",
    ]
    say(f"wrong_keys: {brief(figures)}; {'; '.join(notes)}")
    about = f"{CALLS_PER_S} JSON calls a second while one address tries {WRONG_PER_S} wrong keys"
    return [entry_of("wrong_keys", about, figures, notes)]
