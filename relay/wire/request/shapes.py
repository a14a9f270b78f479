"""What is read of a JSON request."""

import msgspec

Fields = dict[str, msgspec.Raw]


class StreamOptions(msgspec.Struct):
    """The part of `stream_options` that we have to know."""

    include_usage: bool | None = None


class GenerationConfig(msgspec.Struct):
    """The part of Gemini's `generationConfig` that we have to know, in both of its spellings."""

    maxOutputTokens: int | None = None  # noqa: N815 - the wire's own names
    max_output_tokens: int | None = None
    candidateCount: int | None = None  # noqa: N815
    candidate_count: int | None = None


class ToolHead(msgspec.Struct):
    """What kind of tool is declared; whatever is no string is a kind that nobody knows."""

    type: object = None


class BatchRequest(msgspec.Struct):
    """One line of a batch's input file."""

    url: str
    body: msgspec.Raw


class MessageRequest(msgspec.Struct):
    """One request of a message batch."""

    custom_id: str
    params: msgspec.Raw


class MessageBatch(msgspec.Struct):
    """A message batch that is to begin."""

    requests: list[msgspec.Raw]


class InlinedRequests(msgspec.Struct):
    """The requests of a batch of Gemini's that come with it."""

    requests: list[msgspec.Raw] = []


class InputConfig(msgspec.Struct):
    """Where the requests of a batch of Gemini's stand, in both of its spellings."""

    requests: InlinedRequests | None = None
    fileName: object = None  # noqa: N815 - the wire's own names
    file_name: object = None


class ContentBatch(msgspec.Struct, forbid_unknown_fields=True):
    """A batch of Gemini's that is to begin."""

    inputConfig: InputConfig | None = None  # noqa: N815
    input_config: InputConfig | None = None
    displayName: str = ""  # noqa: N815
    display_name: str = ""
    priority: object = None


class ContentBatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body that begins one."""

    batch: ContentBatch


class FileBatch(msgspec.Struct):
    """A batch that is to begin of a file."""

    input_file_id: str
    endpoint: str
