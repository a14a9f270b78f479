"""What is read of a frame."""

import msgspec


class Done(msgspec.Struct):
    """An event that holds a whole item of an answer."""

    item: msgspec.Raw = msgspec.Raw(b"null")


class ItemHead(msgspec.Struct):
    """What kind of item it is, and whether it can be sent back."""

    type: str | None = None
    encrypted_content: str | None = None


class RefusalTold(msgspec.Struct):
    """A text that tells an error, with the status that HTTP would have."""

    error: dict[str, object] = {}
    status: int | None = None
    status_code: int | None = None
    headers: dict[str, str | int | float] | None = None


class ToldError(msgspec.Struct):
    """A provider's own body that tells an error."""

    error: dict[str, msgspec.Raw] = {}
