"""The middle form of an answer: calls on an `AnswerSink`, in the order that things were said.

A dialect's reader makes the calls, a dialect's writer makes bytes of them. So an event of a
stream costs one decoding, one or two calls and one concatenation; no event of the middle form is
ever built. A JSON answer takes the same way into a `Collected`, which is then written whole.
"""

import abc
import enum
from dataclasses import dataclass
from typing import Final, Protocol

from relay.translate.idents import answer_id, legal_name
from relay.translate.kept import write_kept
from relay.translate.middle import JsonObject, TranslateDialect
from relay.usage import Usage


class Finish(enum.Enum):
    """Why the model stopped."""

    STOP = "stop"
    STOP_SEQUENCE = "stop_sequence"
    LENGTH = "length"
    CONTEXT = "context"
    """The model's whole window is full."""
    CALLS = "calls"
    FILTERED = "filtered"
    DECLINED = "declined"
    PAUSED = "paused"
    """It would go on if it were asked again."""


class Ending:
    """How an answer ended. `word`: the upstream's own; `stop`: the stop sequence, if it told."""

    __slots__ = ("reason", "stop", "word")

    def __init__(self, reason: Finish, word: str, stop: str | None = None) -> None:
        self.reason = reason
        self.word = word
        self.stop = stop


@dataclass
class Trouble:
    """An error, in no dialect. `kind` and `code` are OpenAI's words."""

    status: int
    kind: str
    message: str
    code: str | None = None
    param: str | None = None


@dataclass
class Citation:
    """Where some words of the answer come from. `start`, `end`: characters of its text."""

    url: str
    title: str
    start: int = 0
    end: int = 0
    text: str = ""


TRUNCATED: Final = "The upstream ended its answer early."
GARBLED: Final = "The upstream sent something that is not its protocol."


def truncated() -> Trouble:
    """Return the error of a stream that was cut."""
    return Trouble(502, "upstream_error", TRUNCATED, "upstream_truncated")


def garbled(message: str = GARBLED) -> Trouble:
    """Return the error of an answer that cannot be read."""
    return Trouble(502, "upstream_error", message, "upstream_protocol_error")


@dataclass
class AnswerTerms:
    """What a client's answer is made with; nothing here comes from the upstream.

    `nonce`: unique to the call, legal in an id. `model`: the name that the client asked for.
    """

    nonce: str
    model: str
    created_s: int
    include_usage: bool = True
    thinking_shown: bool = True
    custom_tools: frozenset[str] = frozenset()
    stops: tuple[str, ...] = ()
    """Stop sequences that the upstream was not told of."""
    gemini_array: bool = False
    """A stream of Gemini's without `alt=sse` is one JSON array, in pieces."""


class AnswerSink(Protocol):
    """Takes an answer in the middle form."""

    def begin(self, usage: Usage | None) -> None:
        """The answer begins. `usage`: what is known of it by now."""
        ...

    def text(self, text: str, logprobs: list[JsonObject] | None) -> None:
        """Some words. `logprobs`: of their tokens, in OpenAI's shape."""
        ...

    def thinking(self, text: str) -> None:
        """Some words of its thinking."""
        ...

    def declined(self, text: str) -> None:
        """Some words for not answering."""
        ...

    def call(self, key: int, call_id: str, name: str) -> None:
        """A call begins. `key` counts calls from 0; `call_id` is legal in every dialect."""
        ...

    def arguments(self, key: int, fragment: str) -> None:
        """A piece of the JSON text of a call's arguments."""
        ...

    def image(self, mime: str, payload: str) -> None:
        """An image, in base64."""
        ...

    def cite(self, citation: Citation) -> None:
        """Where the words before it come from."""
        ...

    def finish(self, ending: Ending, usage: Usage | None) -> None:
        """The answer is whole. Nothing follows."""
        ...

    def fail(self, trouble: Trouble) -> None:
        """The answer is broken. Nothing follows."""
        ...


class AnswerReader(abc.ABC):
    """Reads an upstream's answer and tells a sink of it, each payload decoded once.

    `signatures`: pairs to keep, (the client's call id, a record). `lost`: what the sink was not
    told, by name.
    """

    def __init__(self, dialect: TranslateDialect, sink: AnswerSink, terms: AnswerTerms) -> None:
        self.dialect = dialect
        self.sink = sink
        self.shown = terms.thinking_shown
        self.nonce = terms.nonce
        self.signatures: list[tuple[str, str]] = []
        self.lost: list[str] = []
        self.usage: Usage | None = None
        self.ending: Ending | None = None
        self.begun = False
        self.over = False
        self.call_count = 0

    @abc.abstractmethod
    def read(self, payload: bytes) -> None:
        """Read one event's payload, or a whole JSON body."""

    def end(self) -> None:
        """The upstream has closed its answer: finish, or say that it was cut."""
        if self.over:
            return
        if self.ending is None:
            self.fail(truncated())
        else:
            self.finish()

    def start(self) -> None:
        """Tell the sink of the answer's beginning, once."""
        if not self.begun:
            self.begun = True
            self.sink.begin(self.usage)

    def finish(self) -> None:
        """Tell the sink of the answer's end, once."""
        if not self.over and self.ending is not None:
            self.start()
            self.over = True
            self.sink.finish(self.ending, self.usage)

    def fail(self, trouble: Trouble) -> None:
        """Tell the sink of an error, once."""
        if not self.over:
            self.over = True
            self.sink.fail(trouble)

    def think(self, text: str) -> None:
        """Tell the sink of thinking, where the client wants to see it."""
        if self.shown and text:
            self.sink.thinking(text)

    def lose(self, what: str) -> None:
        """Note what the middle form has no place for."""
        if what not in self.lost:
            self.lost.append(what)

    def keep(self, call_id: str, blocks: list[JsonObject]) -> None:
        """Keep thinking for the turn that answers a call."""
        record = write_kept(self.dialect, blocks)
        if record is not None:
            self.signatures.append((call_id, record))


class AnswerWriter(AnswerSink):
    """Makes a client's stream. `out`: what is to be sent, in order.

    `trouble`: why the stream broke. `tells_trouble`: False where the caller tells the client so.
    """

    tells_trouble = True

    def __init__(self, dialect: TranslateDialect, terms: AnswerTerms) -> None:
        self.terms = terms
        self.id = answer_id(dialect, terms.nonce)
        self.nonce = legal_name(terms.nonce)
        self.out: list[bytes] = []
        self.lost: list[str] = []
        self.trouble: Trouble | None = None

    def fail(self, trouble: Trouble) -> None:
        """The answer is broken: say so, unless somebody else does."""
        self.trouble = trouble
        if self.tells_trouble:
            self.tell(trouble)

    @abc.abstractmethod
    def tell(self, trouble: Trouble) -> None:
        """Send an error as the last event."""

    def take(self) -> bytes:
        """Return what is to be sent, and forget it."""
        out = self.out
        if not out:
            return b""
        joined = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return joined

    def lose(self, what: str) -> None:
        """Note what this dialect has no way to say."""
        if what not in self.lost:
            self.lost.append(what)
