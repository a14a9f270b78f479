"""A request's body: read for what routing and billing need, framed anew for each channel.

What an upstream gets is written from the parsed top level, never the client's bytes as they came:
so both sides read the same model out of a body that names two.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from relay.errors import UnsupportedMedia
from relay.extras import Asked
from relay.flow.call import Call
from relay.flow.ports import Question
from relay.flow.request import RequestFacts
from relay.flow.state.bound import UNNAMED, Bound
from relay.model import Channel
from relay.records import FREE_ENDPOINTS, MULTIPART_ENDPOINTS, VIDEO_ENDPOINTS, Endpoint
from relay.wire.dialects.known import TABLES
from relay.wire.http import JSON
from relay.wire.request.asked import read_asked, read_form
from relay.wire.request.content_request import peek_content, reframe_content
from relay.wire.request.json_request import Request, decode_fields, peek_json, reframe_json
from relay.wire.request.multipart import Form, peek_multipart, reframe_multipart
from relay.wire.request.shapes import Fields
from relay.wire.request.text_size import estimate_prompt, weigh
from relay.wire.state.marks import STATEFUL, input_marks, input_model, marks_of
from relay.wire.state.paths import KeptPath
from relay.wire.usage.delivered_tokens import tokens_of_bytes

AUDIO_MS_PER_TOKEN: Final = 100
"""Sound in a prompt is about ten tokens a second. Source: OpenAI's and Google's model pages."""
AT_ONCE_BYTES_MAX: Final = 1024 * 1024
"""A larger body is worked off by a task, in pieces that others' events can overtake: reading and
writing it take a millisecond or more for each MB."""
SESSION_BYTES: Final = 512
"""How much of a prompt tells sessions apart, behind a system message that many of them share."""
SYSTEM_BYTES_MAX: Final = 256 * 1024
"""So far the first message behind a system message is looked for."""
TEXT_ANSWERS: Final = frozenset(
    {
        *(Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.MESSAGES),
        *(Endpoint.GENERATE, Endpoint.STREAM_GENERATE, Endpoint.COMPACT),
    }
)

_OBJECT: Final = re.compile(rb'\{(?=")')
"""Where an object begins. A quote inside a text has a backslash before it: none is there."""

# Looked up once: a member of an enum is searched in its class each time it is named.
_MULTIPART: Final = MULTIPART_ENDPOINTS
_FREE: Final = FREE_ENDPOINTS
_VIDEOS: Final = Endpoint.VIDEOS


def read_question(call: Call, content_type: str, body: bytes) -> None:
    """Fill in what the body says of the call.

    Raises:
        UnsupportedMedia: CLIENT; the content type is not the endpoint's.
        BadRequest: CLIENT; see wire.request.json_request and wire.request.multipart.
    """
    if call.head.kept is not None:
        _read_kept(call, call.head.kept, content_type, body)
        return
    kind = content_type
    if kind != "application/json":
        kind = kind.partition(";")[0].strip().lower()
    endpoint = call.head.endpoint
    if endpoint is _VIDEOS:
        call.background = UNNAMED
    if endpoint in _MULTIPART or (endpoint is _VIDEOS and kind == "multipart/form-data"):
        if kind != "multipart/form-data":
            raise UnsupportedMedia("Send this request as multipart/form-data.")
        form = peek_multipart(body, content_type)
        call.question = FormQuestion(form, content_type.encode("latin-1"))
        asked = read_form(form, call.head.endpoint)
        call.request = RequestFacts(
            form.model,
            stream=form.stream and endpoint is not _VIDEOS,
            choices=form.n,
            input_estimate=tokens_of_bytes(form.text_bytes) + asked.audio_ms // AUDIO_MS_PER_TOKEN,
            body_bytes=len(body),
            asked=asked,
        )
        return
    if kind not in ("application/json", ""):
        raise UnsupportedMedia("Send this request as application/json.")
    table = TABLES[call.head.dialect]
    named = call.head.model
    if named:
        request = peek_content(body, named, stream=call.head.query != "")
    else:
        request = peek_json(body, call.head.endpoint)
    on_demand = call.head.endpoint in table.usage_on_demand
    unasked = request.stream and not request.usage_asked and on_demand
    call.question = JsonQuestion(
        request, table.session_fields, strips_usage=unasked, named_in_path=named != ""
    )
    asked = read_asked(request.fields, call.head.endpoint, body, request.n)
    if call.head.endpoint in STATEFUL:
        note_state(call, request.fields, body, asked)
    weighed = call.head.endpoint not in _FREE
    text_bytes, images = weigh(body) if weighed else (0, 0)
    call.request = RequestFacts(
        request.model,
        stream=request.stream,
        choices=request.n,
        output_tokens_max=request.output_tokens_max,
        input_estimate=estimate_prompt(body, text_bytes, images) if weighed else 0,
        text_bytes=text_bytes,
        body_bytes=len(body),
        images=images,
        counts_bytes=call.head.endpoint in TEXT_ANSWERS,
        asked=asked,
    )


async def read_in_turns(call: Call, content_type: str, body: bytes) -> None:
    """Do as `read_question`, but let others have their turn around it where the body is large."""
    if len(body) <= AT_ONCE_BYTES_MAX:
        read_question(call, content_type, body)
        return
    await asyncio.sleep(0)  # its pieces were joined a moment ago
    read_question(call, content_type, body)
    await asyncio.sleep(0)  # it is written anew next


def note_state(call: Call, fields: Fields, body: bytes, asked: Asked) -> None:
    """Note what a request refers to that one channel has, and whether it goes on by itself."""
    marks = marks_of(call.head.endpoint, fields, body, reaches_out=asked.reaches_out)
    if marks:
        call.bound = Bound(marks)
    raw = fields.get("background")
    if raw is not None and bytes(raw).strip() == b"true":
        call.background = UNNAMED


def _read_kept(call: Call, kept: KeptPath, content_type: str, body: bytes) -> None:
    """Fill in what is known of a request about what a provider keeps."""
    kind = JSON
    if kept.takes_form and body:
        if not content_type.lower().startswith("multipart/form-data;"):
            raise UnsupportedMedia("Send a file as multipart/form-data.")
        kind = content_type.encode("latin-1", "replace")
    elif body:
        decode_fields(body)  # JSON, or refused by us
    call.question = KeptQuestion(body, kind)
    model = input_model(body) if kept.endpoint is Endpoint.FILE and body else ""
    call.request = RequestFacts(model, stream=kept.streamed, body_bytes=len(body))
    marks: tuple[bytes, ...] = (kept.mark,) if kept.mark else ()
    if kept.endpoint in VIDEO_ENDPOINTS or kept.begins_batch:
        call.background = UNNAMED
    if call.head.endpoint is Endpoint.BATCHES:
        marks = input_marks(body)
    call.bound = Bound(marks)


class KeptQuestion:
    """A request about what a provider keeps (implements flow.ports.Question)."""

    __slots__ = ("_body", "_content_type")

    fields = None
    strips_usage = False
    session = b""

    def __init__(self, body: bytes, content_type: bytes) -> None:
        self._body = body
        self._content_type = content_type

    def frame(self, channel: Channel, model: str) -> tuple[bytes, bytes]:
        """Return the body as it came."""
        return self._content_type, self._body

    def continue_with(self, fields: Mapping[str, msgspec.Raw]) -> "KeptQuestion":
        """Return itself: such an answer is never carried on."""
        return self


class JsonQuestion(Question):
    """A JSON request."""

    __slots__ = ("_request", "_sessions", "named_in_path", "strips_usage")

    def __init__(
        self,
        request: Request,
        sessions: tuple[str, ...],
        *,
        strips_usage: bool,
        named_in_path: bool = False,
    ) -> None:
        self.named_in_path = named_in_path
        self._request = request
        self._sessions = sessions
        self.strips_usage = strips_usage

    @property
    def fields(self) -> Mapping[str, msgspec.Raw]:
        """The top level, values as the client wrote them."""
        return self._request.fields

    @property
    def session(self) -> bytes:
        """The client's own cache key, else how its prompt begins."""
        for name in self._sessions:
            raw = self._request.fields.get(name)
            if raw is not None:
                return prompt_beginning(memoryview(raw))
        return b""

    def frame(self, channel: Channel, model: str) -> tuple[bytes, bytes]:
        """Return the body as `channel` wants it."""
        if self.named_in_path:
            return JSON, reframe_content(self._request, model=model)
        add_usage = self.strips_usage and channel.include_usage
        return JSON, reframe_json(self._request, model=model, add_usage=add_usage)

    def continue_with(self, fields: Mapping[str, msgspec.Raw]) -> "JsonQuestion":
        """Return the question with another top level."""
        request = self._request.with_fields(dict(fields))
        return JsonQuestion(
            request,
            self._sessions,
            strips_usage=self.strips_usage,
            named_in_path=self.named_in_path,
        )


def prompt_beginning(messages: memoryview) -> bytes:
    """Return what tells a session by its messages, the same for each of its turns.

    That is how they begin; where this is a system message longer than that, which an agent has in
    common for all of its sessions, how the one behind it begins as well. A prompt is not copied.
    """
    head = bytes(messages[:SESSION_BYTES])
    if len(messages) <= SESSION_BYTES or head.find(b'"user"') >= 0:
        return head
    if head.find(b'"system"') < 0 and head.find(b'"developer"') < 0:
        return head
    found = _OBJECT.search(messages, SESSION_BYTES, SYSTEM_BYTES_MAX)
    if found is None:
        return head
    behind = bytes(messages[found.start() : found.start() + SESSION_BYTES])
    # What comes behind a short one is there in the next turn only.
    return head + behind.partition(b'"}')[0]


class FormQuestion:
    """A multipart request (implements flow.ports.Question)."""

    __slots__ = ("_content_type", "_form")

    fields = None
    strips_usage = False
    session = b""

    def __init__(self, form: Form, content_type: bytes) -> None:
        self._form = form
        self._content_type = content_type

    def frame(self, channel: Channel, model: str) -> tuple[bytes, bytes]:
        """Return the form as `channel` wants it."""
        return self._content_type, reframe_multipart(self._form, model=model)

    def continue_with(self, fields: Mapping[str, msgspec.Raw]) -> "FormQuestion":
        """Return itself: a form's answer is never carried on."""
        return self
