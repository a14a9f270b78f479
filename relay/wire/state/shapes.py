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


class NamedItem(msgspec.Struct):
    """An item of a Responses input, as far as it may be a reference to one that is kept.

    Whatever else is wrong with it, or with the items beside it, is its provider's to say.
    """

    type: object = None
    id: object = None
    role: object = None


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


class InlinedResponses(msgspec.Struct):
    """The answers of a batch of Gemini's."""

    inlinedResponses: list[msgspec.Raw] | None = None  # noqa: N815 - the wire's own names


class ContentOutput(msgspec.Struct):
    """Where the answers of a batch of Gemini's stand."""

    inlinedResponses: InlinedResponses | None = None  # noqa: N815
    inlinedEmbedContentResponses: InlinedResponses | None = None  # noqa: N815

    @property
    def answers(self) -> list[msgspec.Raw] | None:
        """One for each request, in its order; None = they are not here."""
        told = self.inlinedResponses or self.inlinedEmbedContentResponses
        return None if told is None else told.inlinedResponses


class ContentMetadata(msgspec.Struct):
    """What an operation of Gemini's says of its batch."""

    state: str = ""
    output: ContentOutput | None = None


class ContentBatch(msgspec.Struct):
    """How a batch of Gemini's stands: an operation."""

    name: str = ""
    done: bool = False
    metadata: ContentMetadata | None = None
    response: ContentOutput | None = None
    error: msgspec.Raw = NULL

    @property
    def id(self) -> str:
        """Its name, without what stands before all of them; "" where it has none."""
        return self.name.removeprefix("batches/") if self.name.startswith("batches/") else ""

    @property
    def state(self) -> str:
        """How it stands, without what stands before all states, "" = it does not say."""
        said = "" if self.metadata is None else self.metadata.state
        return said.rpartition("_STATE_")[2]

    @property
    def output(self) -> ContentOutput | None:
        """What it has made, where it says so."""
        told = None if self.metadata is None else self.metadata.output
        return told if told is not None and told.answers is not None else self.response


class InlinedResponse(msgspec.Struct):
    """What came of one request of a batch of Gemini's."""

    response: msgspec.Raw = NULL


class EmbeddedText(msgspec.Struct):
    """The answer to one request of a batch of texts that are embedded."""

    tokenCount: object = None  # noqa: N815 - int64, which JSON of Google's writes as a string

    @property
    def tokens(self) -> int:
        """How many its text had, 0 = it does not say."""
        told = str(self.tokenCount)
        return int(told) if told.isascii() and told.isdigit() and len(told) < 10 else 0


class Opening(msgspec.Struct):
    """The first event of a stream."""

    response: Kept | None = None
