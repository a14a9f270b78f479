"""What is read of a JSON request."""

import msgspec

Fields = dict[str, msgspec.Raw]


class StreamOptions(msgspec.Struct):
    """The part of `stream_options` that we have to know."""

    include_usage: bool | None = None
