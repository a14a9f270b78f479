"""An upstream's answer in the client's dialect: a stream event by event, or a whole body."""

from collections.abc import Callable
from typing import Final

from relay.translate.answer import (
    AnswerReader,
    AnswerSink,
    AnswerTerms,
    AnswerWriter,
    Trouble,
    garbled,
    truncated,
)
from relay.translate.anthropic import answer_writer as anthropic_writer
from relay.translate.anthropic.answer_reader import AnthropicAnswerReader
from relay.translate.chat import answer_writer as chat_writer
from relay.translate.chat.answer_reader import ChatAnswerReader
from relay.translate.collected import Collected
from relay.translate.gemini import answer_writer as gemini_writer
from relay.translate.gemini.answer_reader import GeminiAnswerReader
from relay.translate.idents import plain_names
from relay.translate.middle import TranslateDialect
from relay.translate.responses import answer_writer as responses_writer
from relay.translate.responses.answer_reader import ResponsesAnswerReader
from relay.translate.stop_cut import StopCut
from relay.translate.troubles import write_error
from relay.usage import Usage

_CHAT: Final = TranslateDialect.OPENAI_CHAT
_ANTHROPIC: Final = TranslateDialect.ANTHROPIC
_GEMINI: Final = TranslateDialect.GEMINI
_RESPONSES: Final = TranslateDialect.RESPONSES


def _reader(dialect: TranslateDialect, sink: AnswerSink, terms: AnswerTerms) -> AnswerReader:
    if terms.stops:
        sink = StopCut(sink, terms.stops)
    if dialect is _CHAT:
        return ChatAnswerReader(sink, terms)
    if dialect is _ANTHROPIC:
        return AnthropicAnswerReader(sink, terms)
    if dialect is _GEMINI:
        return GeminiAnswerReader(sink, terms)
    return ResponsesAnswerReader(sink, terms)


def _writer(dialect: TranslateDialect, terms: AnswerTerms) -> AnswerWriter:
    if dialect is _CHAT:
        return chat_writer.ChatAnswerWriter(terms)
    if dialect is _ANTHROPIC:
        return anthropic_writer.AnthropicAnswerWriter(terms)
    if dialect is _GEMINI:
        return gemini_writer.GeminiAnswerWriter(terms)
    return responses_writer.ResponsesAnswerWriter(terms)


_BODIES: Final[dict[TranslateDialect, Callable[[Collected, AnswerTerms, list[str]], bytes]]] = {
    _CHAT: chat_writer.write_answer,
    _ANTHROPIC: anthropic_writer.write_answer,
    _GEMINI: gemini_writer.write_answer,
    _RESPONSES: responses_writer.write_answer,
}


ANSWER_BYTES_MAX: Final = 64 << 20
"""What is said is gathered for a dialect whose last event says it all again."""


class StreamTranslator:
    """Translates one stream.

    Args:
        upstream: The dialect that the stream comes in.
        client: The dialect that it goes out in.
        terms: What the client's answer is made with.
        tells_trouble: False where the caller tells the client of what breaks the stream.
    """

    def __init__(
        self,
        upstream: TranslateDialect,
        client: TranslateDialect,
        terms: AnswerTerms,
        *,
        tells_trouble: bool = True,
    ) -> None:
        self._writer = _writer(client, terms)
        self._writer.tells_trouble = tells_trouble
        self._reader = _reader(upstream, self._writer, terms)
        self._fed_bytes = 0

    @property
    def over(self) -> bool:
        """Whether the client's stream has its end, good or bad."""
        return self._reader.over

    @property
    def trouble(self) -> Trouble | None:
        """What broke the stream, None while nothing has."""
        return self._writer.trouble

    @property
    def usage(self) -> Usage | None:
        """What the upstream has said of usage so far."""
        return self._reader.usage

    @property
    def lost(self) -> tuple[str, ...]:
        """What of the answer the client's dialect could not be told so far."""
        return plain_names([*self._reader.lost, *self._writer.lost])

    def feed(self, whole_events: bytes) -> bytes:
        """Return what whole events of the upstream's are to the client, b"" if nothing yet.

        Source: WHATWG HTML, Server-sent events, "Interpreting an event stream".
        """
        self._fed_bytes += len(whole_events)
        if self._fed_bytes > ANSWER_BYTES_MAX:
            self._reader.fail(garbled("The upstream's answer is too long to be translated."))
        read = self._reader.read
        payload = b""
        for line in whole_events.split(b"\n"):
            if line.startswith(b"data:"):
                more = line[6:] if line.startswith(b"data: ") else line[5:]
                payload = payload + b"\n" + more if payload else more
            elif payload and line in _BLANK:
                read(payload)
                payload = b""
        if payload:
            read(payload)
        return self._writer.take()

    def end(self) -> bytes:
        """The upstream's stream has ended: return the client's end, or that it was cut."""
        self._reader.end()
        return self._writer.take()

    def fail(self, trouble: Trouble | None = None) -> bytes:
        """The stream breaks off here: return the client's error event, b"" after an end."""
        self._reader.fail(trouble or truncated())
        return self._writer.take()

    def take_signatures(self) -> list[tuple[str, str]]:
        """Return what is to be kept by the client's call ids, and forget it."""
        found, self._reader.signatures = self._reader.signatures, []
        return found


_BLANK: Final = (b"", b"\r")


class TranslatedAnswer:
    """A whole answer for the client.

    `status` is 200, or the error's; `trouble`: the error, None where there is none.
    `signatures` are to be kept by the client's call ids; `lost`
    is what the client's dialect could not be told.
    """

    def __init__(
        self, body: bytes, reader: AnswerReader, lost: list[str], trouble: Trouble | None
    ) -> None:
        self.body = body
        self.trouble = trouble
        self.status = 200 if trouble is None else trouble.status
        self.signatures = reader.signatures
        self.usage = reader.usage
        self.lost = plain_names([*reader.lost, *lost])


def translate_answer(
    upstream: TranslateDialect, client: TranslateDialect, body: bytes, terms: AnswerTerms
) -> TranslatedAnswer:
    """Return a whole answer in the client's dialect; an error inside a 200 becomes an error."""
    said = Collected()
    reader = _reader(upstream, said, terms)
    reader.read(body)
    reader.end()
    if said.trouble is not None:
        return TranslatedAnswer(write_error(client, said.trouble), reader, [], said.trouble)
    lost: list[str] = []
    return TranslatedAnswer(_BODIES[client](said, terms, lost), reader, lost, None)
