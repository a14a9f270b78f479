"""A price as a catalog file writes it, and as bills are computed from it: both ways, exactly.

Pure. `to_entry(to_price(entry)) == entry`, so a second apply of a file finds nothing to change.
"""

import msgspec

from relay.model import ImagePrice, Price, PriceDetail, PriceTier, ServiceTier, VideoPrice
from relay.store.catalog.declaration import (
    DETAIL_PRICES,
    UNIT_PRICES,
    ImagePriceEntry,
    PriceEntry,
    PriceTierEntry,
    ServiceTierEntry,
    VideoPriceEntry,
)
from relay.units import PPM, divide_half_up, format_multiplier, format_usd
from relay.units import parse_multiplier as ppm_of
from relay.units import parse_usd as nanos_of


def to_price(entry: PriceEntry) -> Price:
    """Return the price an entry declares; its id is 0 until it is stored."""
    given = nanos_of(entry.input)
    completion = _optional_ppm(entry.completion_multiplier)
    cache = _optional_ppm(entry.cache_multiplier)
    rare = {field: _optional_nanos(getattr(entry, field)) for field in DETAIL_PRICES}
    units = {field: nanos_of(getattr(entry, field)) for field in UNIT_PRICES}
    detail = PriceDetail(
        cache_multiplier_ppm=cache,
        tiers=tuple(_to_tier(tier) for tier in entry.tiers),
        service_tiers=tuple(_to_service_tier(tier) for tier in entry.service_tiers),
        image_classes=tuple(_to_image_price(one) for one in entry.image_classes),
        video_classes=tuple(
            VideoPrice(per_second=nanos_of(one.per_second), size=one.size)
            for one in entry.video_classes
        ),
        output_max=entry.output_max,
    )
    detail = msgspec.structs.replace(detail, **rare, **units)
    return Price(
        id=0,
        model=entry.model,
        input=given,
        output=nanos_of(entry.output) if completion is None else _share(given, completion),
        cached_input=nanos_of(entry.cached_input) if cache is None else _share(given, cache),
        cache_write=nanos_of(entry.cache_write),
        per_call=nanos_of(entry.per_call),
        model_multiplier_ppm=ppm_of(entry.model_multiplier),
        completion_multiplier_ppm=completion,
        detail=None if detail == PriceDetail() else detail,
    )


def to_entry(price: Price) -> PriceEntry:
    """Return the entry that declares a price."""
    detail = price.detail or PriceDetail()
    completion, cache = price.completion_multiplier_ppm, detail.cache_multiplier_ppm
    plain = PriceEntry(
        model=price.model,
        input=format_usd(price.input),
        output=format_usd(price.output) if completion is None else "",
        cached_input=format_usd(price.cached_input) if cache is None else "",
        cache_write=format_usd(price.cache_write),
        per_call=format_usd(price.per_call),
        model_multiplier=format_multiplier(price.model_multiplier_ppm),
        completion_multiplier="" if completion is None else format_multiplier(completion),
        cache_multiplier="" if cache is None else format_multiplier(cache),
        tiers=[_to_tier_entry(tier) for tier in detail.tiers],
        service_tiers=[_to_service_tier_entry(tier) for tier in detail.service_tiers],
        image_classes=[_to_image_price_entry(one) for one in detail.image_classes],
        video_classes=[
            VideoPriceEntry(per_second=format_usd(one.per_second), size=one.size)
            for one in detail.video_classes
        ],
        output_max=detail.output_max,
    )
    rare = {field: getattr(detail, field) for field in DETAIL_PRICES}
    units = {field: format_usd(getattr(detail, field)) for field in UNIT_PRICES}
    return msgspec.structs.replace(
        plain,
        **{field: _optional_usd(nanos) for field, nanos in rare.items()},
        **units,
    )


def _to_tier(entry: PriceTierEntry) -> PriceTier:
    return PriceTier(
        above_tokens=entry.above_tokens,
        input=nanos_of(entry.input),
        output=nanos_of(entry.output),
        cached_input=nanos_of(entry.cached_input),
        cache_write=nanos_of(entry.cache_write),
        cache_write_1h=_optional_nanos(entry.cache_write_1h),
    )


def _to_tier_entry(tier: PriceTier) -> PriceTierEntry:
    return PriceTierEntry(
        above_tokens=tier.above_tokens,
        input=format_usd(tier.input),
        output=format_usd(tier.output),
        cached_input=format_usd(tier.cached_input),
        cache_write=format_usd(tier.cache_write),
        cache_write_1h=_optional_usd(tier.cache_write_1h),
    )


def _to_service_tier(entry: ServiceTierEntry) -> ServiceTier:
    return ServiceTier(
        name=entry.name,
        input=nanos_of(entry.input),
        output=nanos_of(entry.output),
        cached_input=nanos_of(entry.cached_input),
        cache_write=nanos_of(entry.cache_write),
        cache_write_1h=_optional_nanos(entry.cache_write_1h),
    )


def _to_service_tier_entry(tier: ServiceTier) -> ServiceTierEntry:
    return ServiceTierEntry(
        name=tier.name,
        input=format_usd(tier.input),
        output=format_usd(tier.output),
        cached_input=format_usd(tier.cached_input),
        cache_write=format_usd(tier.cache_write),
        cache_write_1h=_optional_usd(tier.cache_write_1h),
    )


def _to_image_price(entry: ImagePriceEntry) -> ImagePrice:
    return ImagePrice(each=nanos_of(entry.each), quality=entry.quality, size=entry.size)


def _to_image_price_entry(one: ImagePrice) -> ImagePriceEntry:
    return ImagePriceEntry(each=format_usd(one.each), quality=one.quality, size=one.size)


def _share(nanos: int, ppm: int) -> int:
    return divide_half_up(nanos * ppm, PPM)


def _optional_nanos(text: str) -> int | None:
    return nanos_of(text) if text else None


def _optional_usd(nanos: int | None) -> str:
    return "" if nanos is None else format_usd(nanos)


def _optional_ppm(text: str) -> int | None:
    return ppm_of(text) if text else None
