"""What is read of requests that name what a channel keeps."""

from typing import Final

import msgspec

NULL: Final = msgspec.Raw(b"null")


class Named(msgspec.Struct):
    """A conversation or a container, where it is named by an object."""

    id: str = ""


class InputFile(msgspec.Struct):
    """A batch that is to begin, as far as it can be bound to a channel."""

    input_file_id: str


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


class RequestCounts(msgspec.Struct):
    """How many requests of a batch came to what: OpenAI's word for it, and Anthropic's."""

    completed: int = 0
    succeeded: int = 0


class KeptBatch(msgspec.Struct):
    """How a batch stands, in OpenAI's words or in Anthropic's."""

    id: str = ""
    status: str = ""
    processing_status: str = ""
    endpoint: str = ""
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: RequestCounts | None = None
    usage: msgspec.Raw = NULL


class LineResponse(msgspec.Struct):
    """The answer to one request of a batch."""

    status_code: int = 0
    body: msgspec.Raw = NULL


class BatchLine(msgspec.Struct):
    """One line of an output file."""

    custom_id: str | None = None
    response: LineResponse | None = None


class MessageResult(msgspec.Struct):
    """What came of one request of a message batch."""

    type: str = ""
    message: msgspec.Raw = NULL


class MessageLine(msgspec.Struct):
    """One line of the results of a message batch."""

    custom_id: str | None = None
    result: MessageResult | None = None


class Opening(msgspec.Struct):
    """The first event of a stream."""

    response: Kept | None = None
