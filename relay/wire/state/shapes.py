"""What is read of requests that name what a channel keeps."""

import msgspec


class Named(msgspec.Struct):
    """A conversation or a container, where it is named by an object."""

    id: str = ""


class Item(msgspec.Struct):
    """An item of a Responses input, as far as it can be bound to a channel."""

    type: str | None = None
    id: str | None = None
    encrypted_content: str | None = None


class Kept(msgspec.Struct):
    """What becomes of a background response: a body, or what stands in its events."""

    id: str = ""
    status: str = ""
    background: bool | None = None


class KeptVideo(msgspec.Struct):
    """How a video stands, as far as it is charged by it."""

    id: str = ""
    status: str = ""
    seconds: object = None
    size: object = None


class Opening(msgspec.Struct):
    """The first event of a stream."""

    response: Kept | None = None
