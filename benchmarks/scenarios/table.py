"""The scenarios as data: what is asked, how often, of which upstream, and what it shows.

A load is sized so that every peer but the slowest carries it on one core with room to spare:
costs are then compared at the same load, and not each at its own saturation.
"""

from typing import Final

import msgspec

from benchmarks.load.job import Call
from benchmarks.targets.upstream import Script

STANDARD_TARGETS: Final = ("relay", "plain_aiohttp", "nginx", "haproxy", "envoy")
UNBOUND_TPM: Final = 10_000_000_000
"""A limit that is on, leased and settled like any other, and never reached."""
_FEW: Final = ("relay", "nginx", "envoy")


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario.

    `about`: a sentence for the report. `rate`: intended calls a second; 0 = closed loop over
    `connections`. `sweep`: further rates as multiples of `rate`, each a shorter run, until the
    target is saturated. `hold`: open that many streams and keep them. `tls`: an upstream over
    https, verified. `one_core`: load, upstream and target share one, so that the target has work
    whenever the load waits, however fast it is: it is never idle. `among`: the targets that are
    measured unless others are asked for. `once`: not repeated. `line_tpm`: of the relay's line.
    `translated`: clients speak OpenAI's dialect, the upstream Anthropic's.
    """

    name: str
    about: str
    script: Script
    calls: tuple[Call, ...]
    rate: float = 0.0
    connections: int = 2000
    warm_s: float = 1.5
    window_s: float = 4.5
    sweep: tuple[float, ...] = ()
    hold: int = 0
    tls: bool = False
    one_core: bool = False
    once: bool = False
    line_tpm: int = UNBOUND_TPM
    translated: bool = False
    among: tuple[str, ...] = STANDARD_TARGETS

    @property
    def streams(self) -> bool:
        """Whether answers are event streams."""
        return any(call.stream for call in self.calls)

    @property
    def messages(self) -> bool:
        """Whether the upstream speaks Anthropic's dialect."""
        return self.translated or any(call.shape == "messages" for call in self.calls)


_MIX: Final = (
    Call(stream=True, prompt_bytes=8_000, tokens_max=200, weight=0.5),
    Call(stream=True, prompt_bytes=16_000, tokens_max=400, weight=0.4),
    Call(stream=True, prompt_bytes=24_000, tokens_max=600, weight=0.1),
)
"""The enterprise profile: 10 prompt tokens for each completion token (4 bytes are a token), long
prompts, streams. On average 3,200 + 320 tokens."""
_MIX_TOKENS: Final = 3520
_MIX_LINE_TPM: Final = 33_000_000
"""Calls come at random: a line without any room above its mean would refuse some of them."""
_MIX_RATE: Final = 30_000_000 / 60 / _MIX_TOKENS
_MIX_SCRIPT: Final = Script(chunks=1000, interval_ms=40, tokens_per_event=4)
_MIX_ABOUT: Final = (
    "30M tokens a minute on one dedicated line of 33M, everything on: 142 calls/s, prompts of "
    "8-24 KB, 10:1 prompt:completion tokens, streamed, 4 tokens an event, 100 tokens/s a stream"
)

_PROMPT_BYTES: Final = {
    "1k": 1_000,
    "4k": 4_000,
    "12k": 12_500,
    "39k": 39_000,
    "64k": 64 * 1024,
    "76k": 76_000,
    "300k": 300_000,
    "1m": 1_000_000,
}
"""39 and 76 KB are what Codex and Claude Code send to say hello; 1 MB is a picture."""
_NEVER_IDLE: Final = 8
"""Connections of a closed loop that keeps one worker busy, and no queue before it."""
_CLOSED: Final = f"closed loop over {_NEVER_IDLE} connections, all on one core: never idle"
_PROMPTS: Final = tuple(
    Scenario(
        name=f"json_prompt_{name}",
        about=f"JSON calls, prompt of {size:,} bytes, {_CLOSED}",
        script=Script(canned=True),
        calls=(Call(stream=False, prompt_bytes=size),),
        connections=_NEVER_IDLE,
        one_core=True,
        window_s=4,
    )
    for name, size in _PROMPT_BYTES.items()
)
_BURSTS: Final = tuple(
    Scenario(
        name=f"sse_burst_{events}",
        about=f"streams whose upstream sends {events} event{'s' * (events > 1)} in one write, "
        f"{_CLOSED}",
        script=Script(canned=True, chunks=events),
        calls=(Call(stream=True),),
        connections=_NEVER_IDLE,
        one_core=True,
        window_s=4,
    )
    for events in (1, 20, 200)
)
_AGENT_SCRIPT: Final = Script(
    canned=True, chunks=300, ttft_ms=400, bursts=(1, 3, 8, 1, 20, 2, 5), pause_ms=50
)
"""A model thinks, then speaks in bursts: 300 events in some 50 writes, over about three seconds."""
_AGENTS: Final = (
    Scenario(
        name="claude_code",
        about="like Claude Code: /v1/messages with 18 tools, prompts of 76 KB to 800 KB, 30 calls/s"
        ", 300 events in bursts of 1 to 20 with pauses",
        script=_AGENT_SCRIPT,
        calls=tuple(
            Call(
                stream=True,
                shape="messages",
                tools=18,
                prompt_bytes=size,
                fixed_bytes=75_000,
                weight=weight,
            )
            for size, weight in ((76_000, 0.6), (150_000, 0.3), (800_000, 0.1))
        ),
        rate=30,
        warm_s=5,
        window_s=6,
        once=True,
    ),
    Scenario(
        name="codex",
        about="like Codex: /v1/responses with 8 tools, prompts of 39 KB to 400 KB, 30 calls/s, "
        "300 events in bursts of 1 to 20 with pauses",
        script=_AGENT_SCRIPT,
        calls=tuple(
            Call(
                stream=True,
                shape="responses",
                tools=8,
                prompt_bytes=size,
                fixed_bytes=36_000,
                weight=weight,
            )
            for size, weight in ((39_000, 0.6), (120_000, 0.3), (400_000, 0.1))
        ),
        rate=30,
        warm_s=5,
        window_s=6,
        once=True,
    ),
)

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="json_short",
            about="JSON calls, 1 KB prompt, 40-token answer, 1,500 calls/s",
            script=Script(chunks=40),
            calls=(Call(stream=False),),
            rate=1500,
            once=True,
        ),
        Scenario(
            name="json_busy",
            about="as json_short, 5,000 calls/s: what a call costs a server that is busy",
            script=Script(chunks=40),
            calls=(Call(stream=False),),
            rate=5000,
        ),
        Scenario(
            name="json_64k",
            about="JSON calls, 64 KiB prompt, 40-token answer, 250 calls/s",
            script=Script(chunks=40),
            calls=(Call(stream=False, prompt_bytes=64 * 1024),),
            rate=250,
            once=True,
        ),
        Scenario(
            name="sse_paced",
            about="150 streams at once, an event each 10 ms, 300 events each",
            script=Script(chunks=300, interval_ms=10),
            calls=(Call(stream=True),),
            rate=50,
            warm_s=3.3,
        ),
        Scenario(
            name="sse_paced_tls",
            about="as sse_paced, the upstream over TLS and verified",
            script=Script(chunks=300, interval_ms=10),
            calls=(Call(stream=True),),
            rate=50,
            warm_s=3.3,
            tls=True,
            among=("relay", "nginx", "haproxy", "envoy"),
        ),
        Scenario(
            name="translated",
            about="as sse_paced at 15 streams/s: OpenAI's clients, an upstream of Anthropic's",
            script=Script(chunks=300, interval_ms=10),
            calls=(Call(stream=True, tokens_max=4096),),  # Anthropic wants a bound
            rate=15,
            warm_s=3.3,
            translated=True,
            among=("relay", "litellm", "portkey"),
        ),
        Scenario(
            name="sse_burst",
            about="100 streams/s, 200 events each, as fast as they are read",
            script=Script(chunks=200),
            calls=(Call(stream=True),),
            rate=100,
            once=True,
        ),
        Scenario(
            name="open_streams",
            about="10,000 streams held open (or as many as open files allow), an event each second",
            script=Script(chunks=120, interval_ms=1000),
            calls=(Call(stream=True),),
            hold=10_000,
            warm_s=12,
            window_s=5,
            once=True,
        ),
        Scenario(
            name="open_streams_tls",
            about="as open_streams, the upstream over TLS and verified, an event each two seconds",
            script=Script(chunks=90, interval_ms=2000),
            calls=(Call(stream=True),),
            hold=10_000,
            warm_s=60,
            window_s=5,
            tls=True,
            among=("relay", "nginx"),
            once=True,
        ),
        Scenario(
            name="mixed_30m",
            about=_MIX_ABOUT,
            script=_MIX_SCRIPT,
            calls=_MIX,
            rate=_MIX_RATE,
            line_tpm=_MIX_LINE_TPM,
            among=_FEW,
            warm_s=6.3,
            window_s=7,
            once=True,
        ),
        Scenario(
            name="mixed_30m_tls",
            about=_MIX_ABOUT + "; the upstream over TLS and verified",
            script=_MIX_SCRIPT,
            calls=_MIX,
            rate=_MIX_RATE,
            line_tpm=_MIX_LINE_TPM,
            among=_FEW,
            warm_s=6.3,
            window_s=7,
            tls=True,
            once=True,
        ),
        Scenario(
            name="mixed_30m_token",
            about="as mixed_30m, but each token an event of its own: 45,000 events/s",
            script=Script(chunks=1000, interval_ms=10),
            calls=_MIX,
            rate=_MIX_RATE,
            line_tpm=_MIX_LINE_TPM,
            among=_FEW,
            warm_s=6.3,
            window_s=7,
            once=True,
        ),
        Scenario(
            name="json_sweep",
            about="json_short at rising rates, up to saturation",
            script=Script(chunks=40),
            calls=(Call(stream=False),),
            rate=1000,
            warm_s=1,
            window_s=3,
            sweep=(1, 2, 4, 7, 11, 16, 22),
            among=_FEW,
            once=True,
        ),
        Scenario(
            name="sse_sweep",
            about="sse_paced at rising numbers of streams, up to saturation",
            script=Script(chunks=100, interval_ms=10),
            calls=(Call(stream=True),),
            rate=100,
            warm_s=1.3,
            window_s=3,
            sweep=(0.5, 1, 2, 3, 4, 5),
            among=_FEW,
            once=True,
        ),
        Scenario(
            name="json_closed",
            about="JSON calls in a closed loop over 32 connections: the most that is answered",
            script=Script(chunks=40),
            calls=(Call(stream=False),),
            connections=32,
        ),
        *_PROMPTS,
        *_BURSTS,
        *_AGENTS,
    )
}

EVERY_PEER: Final = ("json_busy", "sse_paced")
"""What a call and what an event costs: asked of every peer that is installed."""
COST: Final = (*EVERY_PEER, "json_closed", "json_prompt_76k", "sse_burst_20")
"""The quick ones; the last three tell what calls cost a worker that is never idle."""
STANDARD: Final = (
    *(
        "json_short",
        "json_busy",
        "json_64k",
        "sse_paced",
        "sse_paced_tls",
        "sse_burst",
        "open_streams",
    ),
    *("mixed_30m", "mixed_30m_tls", "json_sweep", "json_prompt_64k", "sse_burst_20"),
    *("claude_code", "codex"),
)
