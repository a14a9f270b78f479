"""A request as the scripted model sees it: what is asked, in which shape, how far to go.

Pure: bytes in, a MockQuestion or a QuestionError out. It reads JSON as strictly as a real
provider, so that a relay that damages a body is found out by a 400.
"""

import enum
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from typing import Final

import msgspec

CHAT: Final = "chat/completions"
COMPLETIONS: Final = "completions"
EMBEDDINGS: Final = "embeddings"
RESPONSES: Final = "responses"
MODERATIONS: Final = "moderations"
RERANK: Final = "rerank"
IMAGES: Final = "images/generations"
IMAGE_EDITS: Final = "images/edits"
SPEECH: Final = "audio/speech"
TRANSCRIPTIONS: Final = "audio/transcriptions"
TRANSLATIONS: Final = "audio/translations"
IMAGE_VARIATIONS: Final = "images/variations"
MESSAGES: Final = "messages"
COUNT_TOKENS: Final = "messages/count_tokens"

MULTIPART: Final = frozenset({TRANSCRIPTIONS, TRANSLATIONS, IMAGE_EDITS, IMAGE_VARIATIONS})
ANTHROPIC: Final = frozenset({MESSAGES, COUNT_TOKENS})
ENDPOINTS: Final = (
    MULTIPART
    | ANTHROPIC
    | {
        CHAT,
        COMPLETIONS,
        EMBEDDINGS,
        RESPONSES,
        MODERATIONS,
        RERANK,
        IMAGES,
        SPEECH,
    }
)
_BYTES_PER_TOKEN: Final = 4


class Shape(enum.Enum):
    """What form the words of an answer take."""

    TEXT = "text"
    JSON = "json"
    TOOL = "tool"


class QuestionError(Exception):
    """The request is wrong; answer 400 with `message`, which quotes none of it."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class MockQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """One request, understood.

    `said`: what the answer grows from. `prefix`: text to go on from, "" = none; `resume`: the
    dialect that asked for it (trailing, prefix, partial, continue_final_message), "" = none.
    `inputs`: the texts to embed, judge or rank. `format`: response or encoding format, "" = the
    default. `dimensions`: of an embedding.
    """

    endpoint: str
    model: str
    stream: bool = False
    include_usage: bool = False
    said: bytes = b""
    prefix: str = ""
    resume: str = ""
    prompt_tokens: int = 0
    tokens_max: int | None = None
    n: int = 1
    shape: Shape = Shape.TEXT
    tool: str = ""
    inputs: tuple[str, ...] = ()
    format: str = ""
    dimensions: int = 8


class _Message(msgspec.Struct):
    role: str = ""
    content: object = None
    prefix: bool = False
    partial: bool = False


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Typed(msgspec.Struct):
    type: str = "text"


class _Body(msgspec.Struct):
    """The fields of all JSON endpoints that change an answer; others pass unread."""

    model: str
    messages: list[_Message] = []
    system: object = None
    prompt: object = ""
    input: object = None
    query: str = ""
    documents: list[object] = []
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    tools: list[dict[str, object]] | None = None
    tool_choice: object = None
    response_format: _Typed | str | None = None
    encoding_format: str = ""
    dimensions: int | None = None
    continue_final_message: bool = False
    add_generation_prompt: bool = True


_DECODER: Final = msgspec.json.Decoder(_Body)


def parse(endpoint: str, content_type: str, body: bytes) -> MockQuestion:
    """Return the question that a request body asks at `endpoint` (one of ENDPOINTS).

    Raises:
        QuestionError: Not JSON, not multipart where that is due, or a field of the wrong type.
    """
    if endpoint in MULTIPART:
        return _parse_multipart(endpoint, content_type, body)
    if not content_type.lower().startswith("application/json"):
        raise QuestionError("Unsupported content type: expected application/json.")
    try:
        fields = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise QuestionError(f"Invalid request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise QuestionError("We could not parse the JSON body of your request.") from None
    if fields.n is not None and not 1 <= fields.n <= 128:
        raise QuestionError("Invalid value for n: expected 1 to 128.", "n")
    if endpoint == CHAT:
        return _parse_chat(fields)
    if endpoint in ANTHROPIC:
        return _parse_messages(endpoint, fields)
    return _parse_plain(endpoint, fields)


def _parse_chat(fields: _Body) -> MockQuestion:
    if not fields.messages:
        raise QuestionError("Missing required parameter: 'messages'.", "messages")
    if fields.continue_final_message and fields.add_generation_prompt:
        # Source: vLLM, ChatCompletionRequest.check_generation_prompt.
        raise QuestionError("Cannot set both continue_final_message and add_generation_prompt.")
    resume = _resume(fields)
    shape, tool = _shape(fields)
    return MockQuestion(
        endpoint=CHAT,
        model=fields.model,
        stream=fields.stream,
        include_usage=fields.stream_options is not None and fields.stream_options.include_usage,
        said=_last_said(fields.messages),
        prefix="".join(_texts(fields.messages[-1].content)) if resume else "",
        resume=resume,
        prompt_tokens=_tokens(
            text for message in fields.messages for text in _texts(message.content)
        ),
        tokens_max=fields.max_completion_tokens or fields.max_tokens,
        n=fields.n or 1,
        shape=shape,
        tool=tool,
    )


def _parse_messages(endpoint: str, fields: _Body) -> MockQuestion:
    if not fields.messages:
        raise QuestionError("messages: at least one message is required", "messages")
    if endpoint == MESSAGES and fields.max_tokens is None:
        raise QuestionError("max_tokens: Field required", "max_tokens")
    resume = "trailing" if fields.messages[-1].role == "assistant" else ""
    contents = [fields.system, *(message.content for message in fields.messages)]
    shape, tool = _shape(fields)
    return MockQuestion(
        endpoint=endpoint,
        model=fields.model,
        stream=fields.stream,
        said=_last_said(fields.messages),
        prefix="".join(_texts(fields.messages[-1].content)) if resume else "",
        resume=resume,
        prompt_tokens=_tokens(text for content in contents for text in _texts(content)),
        tokens_max=fields.max_tokens,
        shape=shape,
        tool=tool,
    )


def _parse_plain(endpoint: str, fields: _Body) -> MockQuestion:
    """Return the question of the endpoints without a message list of their own."""
    inputs = tuple(_asked(endpoint, fields))
    said = inputs[-1].encode() if inputs else b""
    if endpoint == RESPONSES and isinstance(fields.input, list):
        said = _last_said(_convert_messages(fields.input))
    format_name = fields.response_format if isinstance(fields.response_format, str) else ""
    return MockQuestion(
        endpoint=endpoint,
        model=fields.model,
        stream=fields.stream,
        include_usage=fields.stream_options is not None and fields.stream_options.include_usage,
        said=said,
        prompt_tokens=_tokens(inputs),
        tokens_max=fields.max_output_tokens or fields.max_tokens,
        n=fields.n or 1,
        inputs=inputs,
        format=fields.encoding_format or format_name,
        dimensions=fields.dimensions or 8,
    )


def _asked(endpoint: str, fields: _Body) -> Iterator[str]:
    if endpoint == RERANK:
        yield fields.query
        yield from _texts(fields.documents)
    elif endpoint in (COMPLETIONS, IMAGES):
        yield from _texts(fields.prompt)
    elif fields.input is None:
        raise QuestionError("Missing required parameter: 'input'.", "input")
    else:
        yield from _texts(fields.input)


def _resume(fields: _Body) -> str:
    last = fields.messages[-1]
    if last.role != "assistant":
        return ""
    if last.prefix:
        return "prefix"
    if last.partial:
        return "partial"
    return "continue_final_message" if fields.continue_final_message else "trailing"


def _shape(fields: _Body) -> tuple[Shape, str]:
    choice = fields.tool_choice
    named = isinstance(choice, dict) and choice.get("type") not in ("auto", "none")
    forced = choice == "required" or named
    if fields.tools and forced:
        function = fields.tools[0].get("function", fields.tools[0])  # Anthropic's have no wrapping
        name = function.get("name") if isinstance(function, dict) else None
        return Shape.TOOL, name if isinstance(name, str) else "tool"
    wanted = fields.response_format
    if isinstance(wanted, _Typed) and wanted.type in ("json_object", "json_schema"):
        return Shape.JSON, ""
    return Shape.TEXT, ""


def _convert_messages(items: list[object]) -> list[_Message]:
    try:
        return msgspec.convert(items, list[_Message])
    except msgspec.ValidationError:
        raise QuestionError("Invalid type for 'input'.", "input") from None


def _last_said(messages: list[_Message]) -> bytes:
    for message in reversed(messages):
        if message.role == "user":
            return "".join(_texts(message.content)).encode()
    return b""


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a content, an input or a list of them, in order.

    Token ids, which embeddings and completions also take, count as the digits they are written in.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        yield from _texts(value.get("text", value.get("content")))
    elif isinstance(value, int):
        yield str(value)


def _tokens(texts: Iterator[str] | tuple[str, ...]) -> int:
    return count_tokens(sum(len(text.encode()) for text in texts))


def count_tokens(size: int) -> int:
    """Return how many tokens the mock's tokenizer makes of `size` bytes: one per 4, rounded up."""
    return -(-size // _BYTES_PER_TOKEN)


def _parse_multipart(endpoint: str, content_type: str, body: bytes) -> MockQuestion:
    if not content_type.lower().startswith("multipart/form-data"):
        raise QuestionError("Unsupported content type: expected multipart/form-data.")
    head = b"Content-Type: %b\r\n\r\n" % content_type.encode("latin-1", "replace")
    form = BytesParser(EmailMessage, policy=HTTP).parsebytes(head + body)
    fields: dict[str, bytes] = {}
    for part in form.iter_parts():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(payload, bytes):
            fields[name.removesuffix("[]")] = payload
    file = fields.get("file", fields.get("image"))
    if "model" not in fields or not file:
        raise QuestionError("Missing required parameter: 'model' and a file are needed.", "model")
    prompt = fields.get("prompt", b"")
    return MockQuestion(
        endpoint=endpoint,
        model=fields["model"].decode("utf-8", "replace"),
        stream=fields.get("stream") == b"true",
        said=prompt + file,
        prompt_tokens=count_tokens(len(prompt) + len(file)),
        n=_form_count(fields.get("n", b"1")),
        format=fields.get("response_format", b"").decode("utf-8", "replace"),
    )


def _form_count(text: bytes) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10:
        raise QuestionError("Invalid value for n: expected 1 to 10.", "n")
    return int(text)
