"""What one generator process is told and what it answers: both cross its pipes as JSON.

A job never stands on a command line: it holds the key.
"""

from typing import Any, Final

import msgspec

from benchmarks.load.histogram import Histogram

CALLS_PER_S_MAX: Final = 200_000
SECONDS_MAX: Final = 25 * 3600
CONNECTIONS_MAX: Final = 100_000
"""A load is bounded in count and time, whoever asks for it."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of call.

    `weight`: its share among the kinds. `tokens_max`: 0 = not said. `shape`: "chat", "messages" or
    "responses" (see `request`). Of an agent's prompt, `fixed_bytes` are instructions and `tools`,
    which every call has, 0 = all of it; the rest is the turns so far.
    """

    stream: bool
    shape: str = "chat"
    tools: int = 0
    fixed_bytes: int = 0
    prompt_bytes: int = 1000
    tokens_max: int = 0
    weight: float = 1.0
    model: str = "mock-model"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One load of one process.

    `rate`: calls intended in a second (open loop); 0 = closed loop over `connections`.
    `poisson`: arrivals as of many independent callers; else evenly spaced. `begin_ns`: of
    time.monotonic_ns(). Latencies are of the calls intended in the window of `window_s` after
    `warm_s`; counts are of what happened within it. `hold`: no call is expected to end; all are
    dropped when the window closes. `connections`: at most so many at once.
    """

    host: str
    port: int
    tls: bool = False
    trust: str = ""
    """PEM of the authority to trust; "" = the system's."""
    source: str = ""
    """The address it comes from; "" = any."""
    path: str = "/v1/chat/completions"
    key: str = ""
    headers: dict[str, str] = {}
    calls: tuple[Call, ...] = (Call(stream=False),)
    rate: float = 0.0
    poisson: bool = True
    connections: int = 32
    begin_ns: int = 0
    warm_s: float = 1.0
    window_s: float = 5.0
    patience_s: float = 30.0
    """How long after the window answers are waited for."""
    hold: bool = False
    idle: bool = False
    """It takes the processor from nobody: for noise, whose own latencies say nothing then."""
    seed: int = 1
    diary: str = ""
    """A file that is told of what fails as it fails, see `diary`; "" = none."""

    def check(self) -> None:
        """Refuse a load without bounds.

        Raises:
            ValueError: Beyond what one process may do.
        """
        if not 0 <= self.rate <= CALLS_PER_S_MAX:
            raise ValueError(f"rate: at most {CALLS_PER_S_MAX} calls a second")
        if not 0 < self.warm_s + self.window_s + self.patience_s <= SECONDS_MAX:
            raise ValueError(f"duration: at most {SECONDS_MAX} seconds")
        if not 0 < self.connections <= CONNECTIONS_MAX:
            raise ValueError(f"connections: at most {CONNECTIONS_MAX}")


class Outcome(msgspec.Struct, kw_only=True):
    """What one process saw. Counts are of the window; histograms in microseconds.

    `asked`: calls sent in all, those of the warm-up too; `started`: those measured; `answered`: of
    these, with a whole good answer; `done`: such answers in the window. `latency`, `ttft`: from the
    intended start; of what was never answered, its age in the end. `gap`: between two reads of a
    stream. `lag`: actual after intended start. `loop_lag`: of a heartbeat, so that late reading
    shows too. `cpu_share`: of one core, in the window.
    """

    asked: int = 0
    started: int = 0
    answered: int = 0
    done: int = 0
    events: int = 0
    received_bytes: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    open_streams: int = 0
    cpu_share: float = 0.0
    errors: dict[str, int] = {}
    histograms: dict[str, dict[str, Any]] = {}


class Merged(msgspec.Struct, kw_only=True):
    """The outcomes of all processes of one load as one."""

    asked: int
    started: int
    answered: int
    done: int
    events: int
    received_bytes: int
    prompt_tokens: int
    completion_tokens: int
    open_streams: int
    cpu_shares: list[float]
    errors: dict[str, int]
    latency: Histogram
    ttft: Histogram
    gap: Histogram
    lag: Histogram
    loop_lag: Histogram


def merge(outcomes: list[Outcome]) -> Merged:
    """Return the sum of what several processes saw of one load."""
    errors: dict[str, int] = {}
    for outcome in outcomes:
        for kind, count in outcome.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    return Merged(
        asked=sum(o.asked for o in outcomes),
        started=sum(o.started for o in outcomes),
        answered=sum(o.answered for o in outcomes),
        done=sum(o.done for o in outcomes),
        events=sum(o.events for o in outcomes),
        received_bytes=sum(o.received_bytes for o in outcomes),
        prompt_tokens=sum(o.prompt_tokens for o in outcomes),
        completion_tokens=sum(o.completion_tokens for o in outcomes),
        open_streams=sum(o.open_streams for o in outcomes),
        cpu_shares=[o.cpu_share for o in outcomes],
        errors=errors,
        **{name: _joined(outcomes, name) for name in ("latency", "ttft", "gap", "lag", "loop_lag")},
    )


def _joined(outcomes: list[Outcome], name: str) -> Histogram:
    joined = Histogram()
    for outcome in outcomes:
        if name in outcome.histograms:
            joined.merge(Histogram.from_json(outcome.histograms[name]))
    return joined
