"""What a dedicated line feels of floods beside it: the same load with and without them.

A channel's quota of which 30M tokens a minute are a dedicated line's; standard and training lines
on the same channel are offered ten times the quota each. On one worker, on four, and on two hosts
that share one Redis.

    alone     the dedicated line at its rate                -> what it is compared with
    flooded   the same beside both floods                   -> first tokens, tokens, quota used
    counting  the same beside processes that only count     -> what any busy machine would cost it
              (in turn, ROUNDS times each: the medians are compared)
    back      the floods have all of it; it begins to ask   -> from 200 ms on it has what it asks
    put on    it has its rate, and the floods begin         -> what it is refused in that moment

The floods' callers are elsewhere in truth: here they take the processor from nobody (SCHED_IDLE).
Were they in real time as the line's own, what they write would hold up its callers and the
upstream, which share a core with them, and that would be measured.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import msgspec

from benchmarks.load.job import Call, Job
from benchmarks.report.figures import note_disturbed
from benchmarks.scenarios.measure import measure
from benchmarks.scenarios.staging import entry_of, staged
from benchmarks.scenarios.suite import Options, Say, brief
from benchmarks.targets.books import Books
from benchmarks.targets.place import KEY, Place, Server
from benchmarks.targets.processes import counting
from benchmarks.targets.relay_server import start_beside
from benchmarks.targets.upstream import Script, Upstream

RESERVED_TPM: Final = 30_000_000
QUOTA_TPM: Final = 50_000_000
FLOOD_TIMES: Final = 10
WARM_S: Final = 12.0
WARM_AGAIN_S: Final = 6.0
WINDOW_S: Final = 12.0
ROUNDS: Final = 3
"""A p99 of one window is of a dozen calls, and moves by a millisecond from one to the next."""
BACK_S: Final = 0.2
"""A reserve is back so soon: what is refused after it is counted."""
BACK_WINDOW_S: Final = 6.0
PATIENCE_S: Final = 8.0
"""What still waits in a line's queue then is not waited for."""
PROMPT_BYTES: Final = 15_600
COMPLETION: Final = 400
TOKENS: Final = PROMPT_BYTES // 4 + COMPLETION
FLOOD_PROMPT_BYTES: Final = 240_000
FLOOD_TOKENS: Final = FLOOD_PROMPT_BYTES // 4 + COMPLETION
FLOODS: Final = ("standard", "training")
LIMITED: Final = "http_429"

Figures = dict[str, Any]


class Setting(msgspec.Struct, frozen=True):
    """Where it is measured: `hosts` relays of so many workers each, on one Redis."""

    name: str
    workers: int
    hosts: int


SETTINGS: Final = (
    Setting("isolation", 1, 1),
    Setting("isolation, 4 workers", 4, 1),
    Setting("isolation, 2 hosts", 1, 2),
)


def run_isolation(options: Options, say: Say) -> list[dict[str, Any]]:
    """Measure the dedicated line alone, then beside floods of the other two, in each setting."""
    return [_run_setting(options, setting, say) for setting in SETTINGS]


def _run_setting(options: Options, setting: Setting, say: Say) -> dict[str, Any]:
    with _hosts(options, setting) as (hosts, upstreams):
        stage = Stage(options, hosts, upstreams)
        books = Books(*hosts)  # they share the log
        calms: list[Figures] = []
        floodeds: list[Figures] = []
        busy: list[Figures] = []
        for number in range(ROUNDS):
            warm_s = WARM_AGAIN_S if number else WARM_S
            stage.seed = number + 1
            calms.append(stage.run(warm_s, WINDOW_S))
            floodeds.append(stage.run(warm_s, WINDOW_S, flood_warm_s=warm_s))
            with counting():
                busy.append(stage.run(WARM_AGAIN_S, WINDOW_S))
        # The floods have begun long before, and have spent whatever stood idle.
        back = stage.run(BACK_S, BACK_WINDOW_S, flood_warm_s=WARM_S, late_s=WARM_S)
        # They begin when the window does.
        put_on = stage.run(WARM_S, BACK_WINDOW_S, flood_warm_s=BACK_S, flood_late_s=WARM_S)
        books.asked = stage.asked
        flooded = sorted(floodeds, key=lambda one: one["ttft_ms"]["p99"])[ROUNDS // 2]
        flooded |= books.check()
    note_disturbed(flooded)
    flooded["quota_used"] = _median(floodeds, "all_tokens_per_min") / QUOTA_TPM
    flooded["admitted_ratio"] = statistics.median(
        beside["tokens_per_min"] / (alone["tokens_per_min"] or float("nan"))
        for alone, beside in zip(calms, floodeds, strict=True)
    )
    notes = [
        *(_compare(name, calms, floodeds, "the floods") for name in ("p50", "p90", "p99")),
        _compare("p99", calms, busy, "processes that only count"),
        f"admitted tokens {flooded['admitted_ratio'] - 1:+.2%} against the run without them",
        f"{flooded['quota_used']:.1%} of the channel's quota was used",
        f"{_refused(back)} once it had asked for {BACK_S:.1f} s of what was lent",
        f"{_refused(put_on)} while the floods began",
    ]
    say(f"{setting.name}: {brief(flooded)}; {'; '.join(notes)}")
    about = (
        "a dedicated line at its 30M tokens a minute; standard and training lines on the same "
        f"channel are offered ten times its quota each; {setting.hosts} hosts of {setting.workers}"
    )
    return entry_of(setting.name, about, flooded, notes)


@contextmanager
def _hosts(options: Options, setting: Setting) -> Iterator[tuple[Sequence[Server], list[Upstream]]]:
    script = Script(chunks=COMPLETION)
    place: dict[str, Any] = {"line_tpm": RESERVED_TPM, "quota_tpm": QUOTA_TPM}
    workers = setting.workers
    with ExitStack() as stack:
        server, upstreams = stack.enter_context(staged(options, script, workers=workers, **place))
        hosts = [server]
        for number in range(1, setting.hosts):
            assert server.data_dir is not None
            beside = Place(
                folder=server.data_dir.parents[1] / f"host-{number}",
                cores=options.bench.target_cores,
                upstreams=(),
                workers=workers,
            )
            hosts.append(stack.enter_context(start_beside(server, beside)))
        yield hosts, upstreams


class Stage:
    """Puts loads on the hosts, each of them an equal part."""

    def __init__(
        self, options: Options, hosts: Sequence[Server], upstreams: list[Upstream]
    ) -> None:
        self._options = options
        self._hosts = hosts
        self._upstreams = upstreams
        self.asked = 0
        """Calls that were sent in all."""
        self.seed = 1
        """Of the schedules of those that are sent next; no two loads have the same."""

    def run(
        self,
        warm_s: float,
        window_s: float,
        *,
        late_s: float = 0.0,
        flood_warm_s: float = 0.0,
        flood_late_s: float = 0.0,
    ) -> Figures:
        """Return the figures of the dedicated line; its tokens and the floods' together as well.

        Args:
            warm_s: It asks so long before it is measured,
            window_s: ...and is measured for so long; the floods end with it.
            late_s: It begins so much later than the floods.
            flood_warm_s: The floods ask so long before they are measured; 0 = there are none.
            flood_late_s: They begin so much later than it.
        """
        own = _job(PROMPT_BYTES, "bench", 0.97 * RESERVED_TPM / 60 / TOKENS)
        own = msgspec.structs.replace(own, warm_s=warm_s, window_s=window_s)
        rate = FLOOD_TIMES * QUOTA_TPM / 60 / FLOOD_TOKENS
        loads = [(own, late_s)]
        for line in FLOODS if flood_warm_s else ():
            flood = _job(FLOOD_PROMPT_BYTES, line, rate)
            flood = msgspec.structs.replace(
                flood,
                idle=True,
                warm_s=flood_warm_s,
                window_s=late_s + warm_s + window_s - flood_late_s - flood_warm_s,
            )
            loads.append((flood, flood_late_s))
        found = self._put(loads)
        self.asked += sum(figures["asked"] for figures in found)
        mine, others = found[: len(self._hosts)], found[len(self._hosts) :]
        joined = max(mine, key=lambda figures: figures["ttft_ms"]["p99"] or 0.0)
        joined["tokens_per_min"] = sum(figures["tokens_per_min"] for figures in mine)
        joined["limited"] = sum(figures["errors_by_kind"].get(LIMITED, 0) for figures in mine)
        joined["calls"] = sum(figures["measured"] for figures in mine)
        flood_tpm = sum(figures["tokens_per_min"] for figures in others)
        joined["all_tokens_per_min"] = joined["tokens_per_min"] + flood_tpm
        return joined

    def _put(self, loads: list[tuple[Job, float]]) -> list[Figures]:
        """Return the figures of each load on each host, in this order."""
        count = len(self._hosts)
        with ThreadPoolExecutor(len(loads) * count) as threads:
            running: list[Future[Figures]] = []
            for number, (job, late_s) in enumerate(loads):
                for at, host in enumerate(self._hosts):
                    part = msgspec.structs.replace(
                        job,
                        port=host.port,
                        rate=job.rate / count,
                        seed=100 * self.seed + count * number + at,
                    )
                    running.append(threads.submit(self._measure, part, host, late_s))
            return [future.result() for future in running]

    def _measure(self, job: Job, host: Server, late_s: float) -> Figures:
        time.sleep(late_s)
        return measure(self._options.bench, job, host, self._upstreams)[0]


def _job(prompt_bytes: int, line: str, rate: float) -> Job:
    return Job(
        host="127.0.0.1",
        port=0,
        key=KEY,
        headers={"x-relay-line": line},
        calls=(Call(stream=True, prompt_bytes=prompt_bytes, tokens_max=COMPLETION),),
        rate=rate,
        connections=1000,
        patience_s=PATIENCE_S,
    )


def _median(rounds: list[Figures], name: str) -> float:
    return statistics.median(float(one[name]) for one in rounds)


def _compare(percentile: str, calms: list[Figures], louds: list[Figures], what: str) -> str:
    """Return what a percentile of the first token is alone and beside it, by the medians."""
    alone, beside = (
        statistics.median(float(one["ttft_ms"][percentile] or "nan") for one in rounds)
        for rounds in (calms, louds)
    )
    return (
        f"first token {percentile} {alone:.2f} ms alone, {beside:.2f} ms beside {what} "
        f"({beside - alone:+.2f})"
    )


def _refused(figures: Figures) -> str:
    return f"{figures['limited']} of {figures['calls']} calls refused"
