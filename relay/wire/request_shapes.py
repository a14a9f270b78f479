"""What is read of a JSON request."""

import msgspec

Fields = dict[str, msgspec.Raw]


class StreamOptions(msgspec.Struct):
    """The part of `stream_options` that we have to know."""

    include_usage: bool | None = None


class Request(msgspec.Struct, frozen=True):
    """What a body asks for.

    `output_tokens_max`: the largest bound it gives, None without one. `usage_asked`: the client
    itself wants the usage event. `fields`: the top level, values as they came.
    """

    model: str
    stream: bool
    output_tokens_max: int | None
    n: int
    usage_asked: bool
    fields: Fields
