"""A call that has ended, as the shipper reads it."""

import msgspec

from relay.records import CallEnd

_PLAIN = CallEnd(
    request_id=bytes(16),
    time_us=0,
    account_id=1,
    key_id=2,
    ip="192.0.2.1",
    endpoint="/v1/chat/completions",
    model="m",
    line_id=3,
    stream=True,
    channel_id=5,
    served_model="up",
    status=200,
    reason="completed",
    input_tokens=10,
    cached_tokens=0,
    cache_write_tokens=0,
    output_tokens=5,
    reasoning_tokens=0,
    estimated=False,
    ttft_us=0,
    total_us=0,
    attempts=1,
    cost_nanos=7,
    price_id=1,
    group_multiplier_ppm=1_000_000,
    model_multiplier_ppm=1_000_000,
    error_code="",
)


def ended(**fields: object) -> CallEnd:
    """Return a call that differs from a plain one in these fields."""
    return msgspec.structs.replace(_PLAIN, **fields)
