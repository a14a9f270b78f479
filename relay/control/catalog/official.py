"""Official prices and context windows, out of a package that is kept by others.

genai-prices (MIT) is an extra: `pip install relay[prices]`. It stands on pydantic, so no worker
ever imports it, and a command only when it is asked for prices. Its numbers are exact decimals; a
price that cannot be kept exactly here is left out, with a reason.

    model as sold -> its channel's provider's list -> the list of who makes it -> Official
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from relay.errors import ConfigError
from relay.model import Price, PriceDetail, PriceTier, ServiceTier
from relay.units import NANOS_PER_USD

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

MAKERS: Final = (
    *("openai", "anthropic", "google", "deepseek", "x-ai", "mistral", "moonshotai", "zhipuai"),
    *("minimax", "cohere", "meta", "perplexity", "voyageai", "arcee"),
)
"""Whose own list counts where the provider that is asked has none."""
TIERS: Final = ("priority", "flex")
"""Service tiers that are priced here."""
_RATES: Final = {
    "cache_write_1h": "cache_write_1h_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_input": "input_audio_mtok",
    "audio_output": "output_audio_mtok",
    "image_input": "input_image_mtok",
    "image_output": "output_image_mtok",
}
_IGNORED: Final = frozenset(
    {
        *("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", *_RATES.values()),
        *("web_searches_kcount", "requests_kcount"),
        # Of kinds of input that the price of all input covers, at least.
        *("cache_audio_read_mtok", "cache_image_read_mtok", "storage_searches_kcount"),
        "input_video_mtok",
    }
)
_NO_DETAIL: Final = PriceDetail()


class Official(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says of a model. `source`: "provider/model" of the list it is from."""

    price: Price
    source: str
    context_tokens: int = 0


class OfficialError(Exception):
    """A price that cannot be kept exactly; its text is the reason."""


class PriceBook:
    """The lists of all providers as of one day.

    Args:
        now: Aware; a price that starts later is not in force yet.

    Raises:
        ConfigError: The package is not installed.
    """

    def __init__(self, now: datetime.datetime) -> None:
        try:
            from genai_prices.data import providers
        except ImportError:
            raise ConfigError(
                "official prices need the package genai-prices: pip install 'relay[prices]'"
            ) from None
        self._now = now
        self._providers: dict[str, Provider] = {one.id: one for one in providers}

    def find(self, model: str, sellers: Sequence[str]) -> tuple[Official | None, str]:
        """Return what is known of a model, and why it is not.

        Args:
            model: The name that the upstream knows it by.
            sellers: Ids of the providers it is bought from, the most important first.
        """
        found = self._look(model, sellers)
        if found is None:
            return None, "no list names it"
        provider, listed = found
        try:
            price = to_price(model, listed, self._now)
        except OfficialError as error:
            return None, str(error)
        official = Official(
            price=price,
            source=f"{provider.id}/{listed.id}",
            context_tokens=listed.context_window or 0,
        )
        return official, ""

    def _look(self, model: str, sellers: Iterable[str]) -> "tuple[Provider, ModelInfo] | None":
        bare = model.rpartition("/")[2]
        wanted = [(one, model) for one in sellers]
        # "model:free" is another thing than the model.
        makers = [(one, bare) for one in MAKERS] if ":" not in bare else []
        for provider_id, name in (*wanted, *makers):
            provider = self._providers.get(provider_id)
            for listed in provider.models if provider is not None else ():
                if listed.is_match(name):
                    assert provider is not None
                    return provider, listed
        return None


def to_price(model: str, listed: "ModelInfo", now: datetime.datetime) -> Price:
    """Return a listed price as one of ours.

    Raises:
        OfficialError: It has a part that is not billed here, or no exact number.
    """
    found = listed.get_prices(now)
    said: Mapping[str, Any] = {
        key: value for key, value in found.__dict__.items() if value is not None
    }
    odd = sorted(said.keys() - _IGNORED)
    if odd:
        raise OfficialError(f"has a price that is not billed here: {odd[0]}")
    if not said.get("input_mtok") and not said.get("output_mtok"):
        raise OfficialError("is listed without a price for its tokens")
    detail = PriceDetail(
        tiers=_tiers(said),
        service_tiers=_service_tiers(listed, found, now),
        per_search=_nanos(said.get("web_searches_kcount"), per=1000) or 0,
    )
    rare = {field: _plain(said.get(key)) for field, key in _RATES.items()}
    detail = msgspec.structs.replace(detail, **rare)
    rates = _Rates.read(said, _plain)
    return Price(
        id=0,
        model=model,
        input=rates.input,
        output=rates.output,
        cached_input=rates.cached_input,
        cache_write=rates.cache_write,
        per_call=_nanos(said.get("requests_kcount"), per=1000) or 0,
        detail=None if detail == _NO_DETAIL else detail,
    )


class _Rates(msgspec.Struct, frozen=True):
    input: int
    output: int
    cached_input: int
    cache_write: int
    cache_write_1h: int | None

    @staticmethod
    def read(said: Mapping[str, Any], nanos: Any) -> "_Rates":
        """Return the rates of one tier; what is not said of the cache costs what input costs."""
        given = nanos(said.get("input_mtok")) or 0
        cached = nanos(said.get("cache_read_mtok"))
        return _Rates(
            given,
            nanos(said.get("output_mtok")) or 0,
            given if cached is None else cached,
            nanos(said.get("cache_write_mtok")) or 0,
            nanos(said.get("cache_write_1h_mtok")),
        )


def _tiers(said: Mapping[str, Any]) -> tuple[PriceTier, ...]:
    starts = {tier.start for value in said.values() for tier in getattr(value, "tiers", ())}
    tiers = []
    for start in sorted(starts):
        rates = _Rates.read(said, lambda value, at=start: _nanos(_at(value, at)))
        tiers.append(
            PriceTier(
                above_tokens=start,
                input=rates.input,
                output=rates.output,
                cached_input=rates.cached_input,
                cache_write=rates.cache_write,
                cache_write_1h=rates.cache_write_1h,
            )
        )
    return tuple(tiers)


def _service_tiers(
    listed: "ModelInfo", found: "ModelPrice", now: datetime.datetime
) -> tuple[ServiceTier, ...]:
    variants = listed.price_variants or ()
    named = {one.when.get("service_tier") for one in variants if len(one.when) == 1}
    tiers = []
    for name in TIERS:
        if name not in named:
            continue
        priced = listed.get_prices(now, {"service_tier": name})
        if priced == found:
            continue
        rates = _Rates.read(priced.__dict__, _plain)
        tiers.append(
            ServiceTier(
                name=name,
                input=rates.input,
                output=rates.output,
                cached_input=rates.cached_input,
                cache_write=rates.cache_write,
                cache_write_1h=rates.cache_write_1h,
            )
        )
    return tuple(tiers)


def _plain(value: Any) -> int | None:
    """Return a rate below all tiers."""
    return _nanos(getattr(value, "base", value))


def _at(value: Any, tokens: int) -> Any:
    """Return the rate of a prompt of more than so many tokens."""
    if not hasattr(value, "tiers"):
        return value
    found = value.base
    for tier in sorted(value.tiers, key=lambda one: one.start):
        if tier.start <= tokens:
            found = tier.price
    return found


def _nanos(value: Any, *, per: int = 1) -> int | None:
    if value is None:
        return None
    if not isinstance(value, Decimal):
        raise OfficialError("has a price of a form that is not known here")
    nanos = value * NANOS_PER_USD / per
    if nanos < 0 or nanos != nanos.to_integral_value():
        raise OfficialError("has a price that is finer than can be kept")
    return int(nanos)
