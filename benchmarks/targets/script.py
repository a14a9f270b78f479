"""How an upstream answers: what is said to `relay mock`, or to the canned one."""

import msgspec


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream's answers.

    `chunks`: tokens of an answer. `interval_ms`: between two events. `ttft_ms`: before the first.
    `canned`: answers stand ready and prompts are not read; then `bursts` is how many events each
    write has, over and over (none = all in one), and `pause_ms` the mean pause between writes, as
    `ttft_ms` is a mean.
    """

    chunks: int = 40
    interval_ms: float = 0.0
    ttft_ms: float = 0.0
    tokens_per_event: int = 1
    canned: bool = False
    bursts: tuple[int, ...] = ()
    pause_ms: float = 0.0
