"""Which buckets and permits a call draws on, under which keys, and by which rules.

    line       {l:ID}   what was sold: the dedicated line's 30M tokens a minute
    model      {l:ID}   a model's part of a line
    account    {a:ID}   over all lines of the account
    key        {a:ID}
    channel    {c:ID}   the upstream's own quota, shared by lines

The braces are Redis Cluster's hash tag: what one script call touches must lie in one slot. Where
there is one Redis, one call touches them all.
"""

import enum
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from relay.limits.bucket import MINUTE_MS, Rule
from relay.model import Account, Key, Line, OnLoss
from relay.units import PPM

PREFIX: Final = "relay:"
LINE_BURST_MS: Final = 5_500
"""6 s would be 1.10x in the worst minute; half a second is left for what leases hold.

Source: docs/limits.md, "Bursts".
"""
BURST_MS: Final = 6_000
BURST_MS_MAX: Final = 60_000
"""A bucket that holds its whole minute lets 2x through in the worst one: only for small limits."""
LARGE_TPM: Final = 1_000_000
FAIR_TOKENS: Final = 1_000
CALL_TOKENS_MAX: Final = 128_000
"""A small bucket is deep enough for a call of this size, as far as its minute allows."""


class Scope(enum.StrEnum):
    """Whose limit it is."""

    LINE = "line"
    MODEL = "model"
    ACCOUNT = "account"
    KEY = "key"
    CHANNEL = "channel"


class Measure(enum.StrEnum):
    """What a bucket counts."""

    TOKENS = "tokens"
    REQUESTS = "requests"


class Weights(msgspec.Struct, frozen=True):
    """How a line counts each class of token, in parts per million of a token.

    Source: docs/limits.md, "What providers count".
    """

    input_ppm: int = PPM
    cached_ppm: int = 0
    output_ppm: int = PPM

    def cost(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """Return the tokens counted, rounded up; `cached_tokens` are part of the input."""
        weighted = (
            (input_tokens - cached_tokens) * self.input_ppm
            + cached_tokens * self.cached_ppm
            + output_tokens * self.output_ppm
        )
        return -(-weighted // PPM)


class Bid(msgspec.Struct, frozen=True):
    """How one class of lines draws on what it shares with others; the default shares with none.

    `rank`: 0 comes first. `kept_parts`: so many tenths of burst and permits it leaves to those
    above. `alone_ppm`: its part of the limit while Redis cannot be asked.
    """

    rank: int = 0
    kept_parts: int = 0
    alone_ppm: int = PPM


FIRST: Final = Bid()
KEPT_PARTS: Final = 10


class Bucket(msgspec.Struct, frozen=True, eq=False):
    """One limit as the limiter works with it; made once for each snapshot, not for each call.

    `name`: what a worker knows it by: each class of bidders has its own leases on one key.
    """

    key: str
    tag: str
    scope: Scope
    measure: Measure
    rule: Rule
    weights: Weights = Weights()
    on_loss: OnLoss = OnLoss.SHARE
    rank: int = 0
    alone_ppm: int = PPM
    name: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "name", _ranked(self.key, self.rank))


class ConcurrencyLimit(msgspec.Struct, frozen=True, eq=False):
    """A limit on calls in flight: so many permits, for this class of bidders."""

    key: str
    tag: str
    scope: Scope
    permits: int
    rank: int = 0
    on_loss: OnLoss = OnLoss.SHARE
    name: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "name", _ranked(self.key, self.rank))


class Limited(Protocol):
    """What the catalog says of a limit; 0 = none. Line, Account, Key and Channel are such."""

    @property
    def tpm(self) -> int:
        """Tokens a minute."""
        ...

    @property
    def rpm(self) -> int:
        """Calls a minute."""
        ...

    @property
    def concurrency(self) -> int:
        """Calls in flight."""
        ...


class Terms(msgspec.Struct, frozen=True):
    """What a line says of its limits beside the numbers; the default fits all that say nothing."""

    weights: Weights = Weights()
    on_loss: OnLoss = OnLoss.SHARE
    call_tokens_max: int = CALL_TOKENS_MAX


class Limit(msgspec.Struct, frozen=True, eq=False):
    """Everything that one scope limits: up to two buckets and a concurrency limit."""

    buckets: tuple[Bucket, ...]
    concurrency: ConcurrencyLimit | None


PLAIN: Final = Terms()


def limit_of(
    scope: Scope,
    owner: int,
    limited: Limited,
    terms: Terms = PLAIN,
    *,
    part: str = "",
    bid: Bid = FIRST,
) -> Limit:
    """Return the buckets and the concurrency limit of one scope.

    Args:
        scope: Whose limit it is.
        owner: Id of the line, account or channel that the hash tag names.
        limited: The numbers.
        terms: How tokens are counted, and what happens without Redis.
        part: Which model of the line, or which key of the account; "" for the owner itself.
        bid: Which class draws on it.
    """
    tag = f"{{{_letter(scope)}:{owner}}}"
    stem = f"{PREFIX}{tag}:{part}" if part else f"{PREFIX}{tag}"
    rules = []
    if limited.tpm > 0:
        rules.append(
            ("tpm", Measure.TOKENS, tokens_rule(scope, limited.tpm, terms.call_tokens_max))
        )
    if limited.rpm > 0:
        rules.append(("rpm", Measure.REQUESTS, requests_rule(limited.rpm)))
    buckets = tuple(
        Bucket(
            f"{stem}:{suffix}",
            tag,
            scope,
            measure,
            _keeping(rule, bid),
            terms.weights,
            terms.on_loss,
            bid.rank,
            bid.alone_ppm,
        )
        for suffix, measure, rule in rules
    )
    concurrency = None
    if limited.concurrency > 0:
        permits = limited.concurrency - limited.concurrency * bid.kept_parts // KEPT_PARTS
        concurrency = ConcurrencyLimit(
            f"{stem}:seats", tag, scope, permits, bid.rank, terms.on_loss
        )
    return Limit(buckets, concurrency)


def limits_of(
    line: Line,
    account: Account,
    key: Key,
    model: str | None,
    make: Callable[..., Limit] = limit_of,
) -> tuple[Limit, ...]:
    """Return everything that limits a key's calls to a model over a line; the channel's is apart.

    Args:
        line: Where they go.
        account: Who pays.
        key: Who calls.
        model: The public name; None = one without a limit of its own.
        make: Makes a limit, as `limit_of`.
    """
    terms = terms_of(line)
    found = [make(Scope.LINE, line.id, line, terms)]
    if model is not None and model in line.model_limits:
        found.append(make(Scope.MODEL, line.id, line.model_limits[model], terms, part=model))
    found.append(make(Scope.ACCOUNT, account.id, account))
    found.append(make(Scope.KEY, account.id, key, part=f"key{key.id}"))
    return tuple(found)


def terms_of(line: Line) -> Terms:
    """Return what a line says of its limits beside the numbers."""
    weights = Weights(line.input_weight_ppm, line.cached_weight_ppm, line.output_weight_ppm)
    return Terms(weights=weights, on_loss=line.on_limiter_loss)


def tokens_rule(scope: Scope, tpm: int, call_tokens_max: int = CALL_TOKENS_MAX) -> Rule:
    """Return the rule of a token bucket.

    Large lines hold 5.5 s and are fair by size. The others hold 6 s, or as much as a large prompt
    needs, up to their whole minute: what they cannot hold then is refused for good.
    """
    fair = FAIR_TOKENS if scope is Scope.LINE and tpm >= LARGE_TPM else 0
    if fair:
        return Rule(tpm, LINE_BURST_MS, fair)
    needed_ms = -(-call_tokens_max * 5 * MINUTE_MS // (4 * tpm))
    return Rule(tpm, min(max(BURST_MS, needed_ms), BURST_MS_MAX))


def requests_rule(rpm: int) -> Rule:
    """Return the rule of a bucket that counts calls: 6 s, but always room for one call."""
    return Rule(rpm, max(BURST_MS, -(-MINUTE_MS // rpm)))


def _keeping(rule: Rule, bid: Bid) -> Rule:
    """Return a rule as a class of bidders sees it: a call of one token always fits."""
    kept_ms = rule.burst_ms * bid.kept_parts // KEPT_PARTS
    least_ms = -(-MINUTE_MS // rule.per_minute)
    return msgspec.structs.replace(rule, kept_ms=max(0, min(kept_ms, rule.burst_ms - least_ms)))


def _ranked(key: str, rank: int) -> str:
    return f"{key}/{rank}" if rank else key


def hash_slot(key: str) -> int:
    """Return the Redis Cluster slot of a key.

    Source: Redis Cluster specification, "Hash tags" and appendix A (CRC16, XMODEM).
    """
    start = key.find("{")
    end = key.find("}", start + 1)
    tagged = key[start + 1 : end] if start >= 0 and end > start + 1 else key
    crc = 0
    for byte in tagged.encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16_384


def _letter(scope: Scope) -> str:
    if scope in (Scope.LINE, Scope.MODEL):
        return "l"
    return "c" if scope is Scope.CHANNEL else "a"
