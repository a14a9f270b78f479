"""A catalog declared in TOML: its tables as typed structs, each checked by itself.

Pure: bytes in, values out. Money and multipliers stay decimal strings, but in one canonical form,
so that two declarations are compared and shown as they are written. What one entry says about
another (references, duplicates) is checked in `relay.store.catalog.plan`.

    TOML --parse--> Declaration --plan--> changes --write--> Postgres
"""

import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from relay.billing.budget import canonical_budgets
from relay.errors import ConfigError
from relay.model import (
    LineKind,
    LostState,
    OnLoss,
    Unpriced,
)
from relay.store.catalog.canonical import (
    MODEL_CHARS_MAX,
    canonical_multiplier,
    canonical_networks,
    canonical_usd,
    check_distinct,
    check_name,
)
from relay.store.catalog.channel_entry import KEY_MARK, ChannelEntry
from relay.store.catalog.entry import Budgets, Concurrency, Entry, Limit, Moment, Name, Wait
from relay.store.secrets.refs import HOW_TO, is_reference


class LineModelEntry(Entry, frozen=True):
    """`[[line.model]]`: limits of one model on the line, beside the line's own."""

    name: Annotated[str, Meta(min_length=1, max_length=MODEL_CHARS_MAX)]
    tpm: Limit = 0
    rpm: Limit = 0
    concurrency: Concurrency = 0

    def _check(self) -> dict[str, object]:
        check_name(self.name)
        return {}


class LineEntry(Entry, frozen=True):
    """`[[line]]`. `tpm` None: the default of the kind, filled in by `parse_catalog`.

    `hedge_ms`: without output for so long, a second channel is asked beside the first; 0 = never.
    `on_limiter_loss`: what its limits do without Redis. `*_weight`: what a token counts.
    `unpriced`: what becomes of a field that costs more than the model has a price for.
    `lost_state`: what becomes of a call whose reasoning only a channel can read that is gone.
    `wait_ms`: how long a call over its limits may wait for them; None = what its kind says.
    `by_invitation`: only accounts that were granted it (`relay line grant`) may use it.
    `translates`: channels of other dialects are asked where none of the client's is well.
    """

    name: Name
    channels: Annotated[list[Name], Meta(min_length=1)]
    kind: LineKind = LineKind.STANDARD
    tpm: Limit | None = None
    rpm: Limit = 0
    concurrency: Concurrency = 0
    splice: bool = False
    hedge_ms: Wait = 0
    on_limiter_loss: OnLoss = OnLoss.SHARE
    input_weight: str = "1"
    cached_weight: str = "0"
    output_weight: str = "1"
    unpriced: Unpriced = Unpriced.REFUSE
    lost_state: LostState = LostState.REFUSE
    by_invitation: bool = False
    wait_ms: Wait | None = None
    translates: bool = True
    model: list[LineModelEntry] = msgspec.field(default_factory=list)

    def _check(self) -> dict[str, object]:
        check_name(self.name)
        check_distinct("channels", self.channels)
        check_distinct("model", [model.name for model in self.model])
        weights = ("input_weight", "cached_weight", "output_weight")
        return {
            "model": sorted(self.model, key=lambda model: model.name),
            **{field: canonical_multiplier(field, getattr(self, field)) for field in weights},
        }


class GroupEntry(Entry, frozen=True):
    """`[[group]]`; the first line is the default."""

    name: Name
    lines: list[Name] = msgspec.field(default_factory=list)
    multiplier: str = "1"

    def _check(self) -> dict[str, object]:
        check_name(self.name)
        check_distinct("lines", self.lines)
        return {"multiplier": canonical_multiplier("multiplier", self.multiplier)}


class PriceTierEntry(Entry, frozen=True):
    """`[[price.tiers]]`: the rates of a call whose prompt is longer than `above_tokens`."""

    above_tokens: Annotated[int, Meta(ge=1, le=2**53)]
    input: str
    output: str
    cached_input: str = ""
    cache_write: str = "0"
    cache_write_1h: str = ""

    def _check(self) -> dict[str, object]:
        return _check_rates(self)


class ServiceTierEntry(Entry, frozen=True):
    """`[[price.service_tiers]]`: the rates of calls served at "priority", "flex", "batch"..."""

    name: Annotated[str, Meta(min_length=1, max_length=32)]
    input: str
    output: str
    cached_input: str = ""
    cache_write: str = "0"
    cache_write_1h: str = ""

    def _check(self) -> dict[str, object]:
        check_name(self.name)
        if self.name != self.name.lower():
            raise ValueError("service_tiers: a tier is named in lower case")
        return _check_rates(self)


class ImagePriceEntry(Entry, frozen=True):
    """`[[price.image_classes]]`: USD for an image of a quality and size; "" = whatever it is."""

    each: str
    quality: Annotated[str, Meta(max_length=32)] = ""
    size: Annotated[str, Meta(max_length=32)] = ""

    def _check(self) -> dict[str, object]:
        return {
            "each": canonical_usd("each", self.each),
            "quality": self.quality.lower(),
            "size": self.size.lower(),
        }


class VideoPriceEntry(Entry, frozen=True):
    """`[[price.video_classes]]`: USD for a second of video of a size; "" = whatever it is."""

    per_second: str
    size: Annotated[str, Meta(max_length=32)] = ""

    def _check(self) -> dict[str, object]:
        return {
            "per_second": canonical_usd("per_second", self.per_second),
            "size": self.size.lower(),
        }


def _check_rates(entry: PriceTierEntry | ServiceTierEntry) -> dict[str, object]:
    return {
        "input": canonical_usd("input", entry.input),
        "output": canonical_usd("output", entry.output),
        "cached_input": canonical_usd("cached_input", entry.cached_input or entry.input),
        "cache_write": canonical_usd("cache_write", entry.cache_write),
        "cache_write_1h": canonical_usd("cache_write_1h", entry.cache_write_1h, optional=True),
    }


class PriceEntry(Entry, frozen=True):
    """`[[price]]`: USD per 1M tokens or characters, and per call, image, second, search, session.

    `output_max`: the most tokens of one answer, for holds; 0 = not known.

    "" is "not set": `cached_input` costs what input costs then, `output` is input x
    `completion_multiplier`, and the rare kinds cost what they are part of (model.PriceDetail).
    """

    model: Annotated[str, Meta(min_length=1, max_length=MODEL_CHARS_MAX)]
    input: str
    output: str = ""
    cached_input: str = ""
    cache_write: str = "0"
    per_call: str = "0"
    model_multiplier: str = "1"
    completion_multiplier: str = ""
    cache_multiplier: str = ""
    cache_write_1h: str = ""
    reasoning: str = ""
    audio_input: str = ""
    audio_output: str = ""
    image_input: str = ""
    image_output: str = ""
    per_image: str = "0"
    per_second: str = "0"
    character: str = "0"
    per_search: str = "0"
    per_session: str = "0"
    per_search_unit: str = "0"
    per_video_second: str = "0"
    output_max: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    tiers: list[PriceTierEntry] = msgspec.field(default_factory=list)
    service_tiers: list[ServiceTierEntry] = msgspec.field(default_factory=list)
    image_classes: list[ImagePriceEntry] = msgspec.field(default_factory=list)
    video_classes: list[VideoPriceEntry] = msgspec.field(default_factory=list)

    def _check(self) -> dict[str, object]:
        check_name(self.model)
        if bool(self.output) == bool(self.completion_multiplier):
            raise ValueError("give either output or completion_multiplier")
        if self.cached_input and self.cache_multiplier:
            raise ValueError("give either cached_input or cache_multiplier")
        above = [tier.above_tokens for tier in self.tiers]
        if above != sorted(set(above)):
            raise ValueError("tiers: above_tokens must rise from tier to tier")
        check_distinct("service_tiers", [tier.name for tier in self.service_tiers])
        check_distinct("image_classes", [f"{o.quality} {o.size}" for o in self.image_classes])
        check_distinct("video_classes", [one.size for one in self.video_classes])
        plain = ("input", "cache_write", "per_call", *UNIT_PRICES)
        optional = ("output", *DETAIL_PRICES)
        found: dict[str, object] = {
            "model_multiplier": canonical_multiplier("model_multiplier", self.model_multiplier)
        }
        for field in (*plain, *optional):
            found[field] = canonical_usd(field, getattr(self, field), optional=field in optional)
        for field in ("completion_multiplier", "cache_multiplier"):
            found[field] = canonical_multiplier(field, getattr(self, field), optional=True)
        if not self.cache_multiplier:
            found["cached_input"] = canonical_usd("cached_input", self.cached_input or self.input)
        return found


DETAIL_PRICES: Final = (
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
)
"""Prices of model.PriceDetail that may be left unset, by their name there and here."""
UNIT_PRICES: Final = (
    *("per_image", "per_second", "character", "per_search", "per_session", "per_search_unit"),
    "per_video_second",
)
"""Those of what is no token, the same way; 0 = such calls are refused."""


class AccountEntry(Entry, frozen=True):
    """`[[account]]`. `credit_limit`: USD the balance may go below zero.

    `low_balance_alert`: the balance in USD below which an operator is told; "" = never. `budgets`:
    what it may use by the calendar, as "50 usd/month@Europe/Berlin".
    """

    name: Name
    group: Name
    credit_limit: str = "0"
    low_balance_alert: str = ""
    tpm: Limit = 0
    rpm: Limit = 0
    concurrency: Concurrency = 0
    budgets: Budgets = msgspec.field(default_factory=list)
    disabled: bool = False

    def _check(self) -> dict[str, object]:
        check_name(self.name)
        alert = canonical_usd("low_balance_alert", self.low_balance_alert, optional=True)
        return {
            "credit_limit": canonical_usd("credit_limit", self.credit_limit),
            "low_balance_alert": "" if alert == "0" else alert,
            "budgets": canonical_budgets(self.budgets),
        }


class KeyEntry(Entry, frozen=True):
    """`[[key]]`: a key that exists already; only its digest is stored.

    `models` and `allow_ip` None: any. `lines`: of those its account may use, the default first;
    None: all of them, in the group's order. `quota`: USD it may spend in all, "" = no bound.
    `budgets`: what it may use by the calendar, beside the quota.
    `key` is "" only in an entry read back from the database, which does not know it.
    """

    account: Name
    name: Name
    key: str
    expires: Moment | None = None
    models: Annotated[list[str], Meta(min_length=1)] | None = None
    allow_ip: Annotated[list[str], Meta(min_length=1)] | None = None
    lines: Annotated[list[Name], Meta(min_length=1)] | None = None
    quota: str = ""
    budgets: Budgets = msgspec.field(default_factory=list)
    tpm: Limit = 0
    rpm: Limit = 0
    concurrency: Concurrency = 0

    def _check(self) -> dict[str, object]:
        check_name(self.name)
        if self.key and not is_reference(self.key):
            raise ValueError(f"key: {HOW_TO}")
        found: dict[str, object] = {
            "quota": canonical_usd("quota", self.quota, optional=True),
            "budgets": canonical_budgets(self.budgets),
        }
        if self.expires is not None:
            found["expires"] = self.expires.astimezone(datetime.UTC)
        if self.models is not None:
            found["models"] = sorted(set(self.models))
        if self.allow_ip is not None:
            found["allow_ip"] = canonical_networks("allow_ip", self.allow_ip)
        check_distinct("lines", self.lines or [])
        return found


class Declaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A catalog file: the tables it has, in its order."""

    channel: list[ChannelEntry] = []
    line: list[LineEntry] = []
    group: list[GroupEntry] = []
    price: list[PriceEntry] = []
    account: list[AccountEntry] = []
    key: list[KeyEntry] = []


def parse_catalog(source: bytes, *, dedicated_tpm: int, plain_upstreams: bool) -> Declaration:
    """Return what a catalog file declares.

    Args:
        source: TOML.
        dedicated_tpm: Tokens a minute of a dedicated line that names none.
        plain_upstreams: Whether http:// base URLs are taken.

    Raises:
        ConfigError: Not TOML, an unknown or ill-typed field, an impossible value; with its path.
    """
    try:
        found = msgspec.toml.decode(source, type=Declaration)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(error)) from None
    check_upstreams(found, plain_upstreams=plain_upstreams)
    return msgspec.structs.replace(
        found, line=[_with_default_tpm(line, dedicated_tpm) for line in found.line]
    )


def check_upstreams(declared: Declaration, *, plain_upstreams: bool) -> None:
    """Refuse addresses that everybody on the way can read along, and names of credentials.

    Raises:
        ConfigError: One begins with http://, though such are not taken; or it is named as if it
            were a credential of another one.
    """
    for at, channel in enumerate(declared.channel):
        if KEY_MARK in channel.name and channel.references:
            raise ConfigError(
                f"name: {KEY_MARK} leads to the number of a credential - at `$.channel[{at}]`"
            )
        if not plain_upstreams and channel.base_url.startswith("http:"):
            raise ConfigError(
                f"base_url: http:// needs server.allow_plain_upstreams - at `$.channel[{at}]`"
            )


def _with_default_tpm(line: LineEntry, dedicated_tpm: int) -> LineEntry:
    if line.tpm is not None:
        return line
    default = dedicated_tpm if line.kind is LineKind.DEDICATED else 0
    return msgspec.structs.replace(line, tpm=default)
