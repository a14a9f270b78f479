"""A whole answer in the middle form: what a JSON answer is written from."""

from dataclasses import dataclass, field

from relay.translate.answer import AnswerSink, Citation, Ending, Trouble
from relay.translate.middle import JsonObject
from relay.usage import Usage


@dataclass
class SaidText:
    """Words of the answer, or (`declined`) for not answering."""

    pieces: list[str]
    declined: bool = False
    logprobs: list[JsonObject] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All the words."""
        return "".join(self.pieces)


@dataclass
class SaidThinking:
    """Words of the thinking."""

    pieces: list[str]

    @property
    def text(self) -> str:
        """All the words."""
        return "".join(self.pieces)


@dataclass
class SaidCall:
    """A call of a function."""

    id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """The JSON text of its arguments."""
        return "".join(self.pieces) or "{}"


@dataclass
class SaidImage:
    """An image, in base64."""

    mime: str
    payload: str


Said = SaidText | SaidThinking | SaidCall | SaidImage


class Collected(AnswerSink):
    """Gathers an answer; neighbouring words of one kind become one."""

    def __init__(self) -> None:
        self.items: list[Said] = []
        self.calls: dict[int, SaidCall] = {}
        self.ending: Ending | None = None
        self.usage: Usage | None = None
        self.trouble: Trouble | None = None

    def begin(self, usage: Usage | None) -> None:
        """Nothing is to be noted yet."""

    def text(self, text: str, logprobs: list[JsonObject] | None) -> None:
        """Add words."""
        last = self._said_text(declined=False)
        last.pieces.append(text)
        if logprobs:
            last.logprobs.extend(logprobs)

    def _said_text(self, *, declined: bool) -> SaidText:
        last = self.items[-1] if self.items else None
        if isinstance(last, SaidText) and last.declined is declined:
            return last
        said = SaidText([], declined)
        self.items.append(said)
        return said

    def thinking(self, text: str) -> None:
        """Add words of the thinking."""
        last = self.items[-1] if self.items else None
        if isinstance(last, SaidThinking):
            last.pieces.append(text)
        else:
            self.items.append(SaidThinking([text]))

    def declined(self, text: str) -> None:
        """Add words for not answering."""
        self._said_text(declined=True).pieces.append(text)

    def call(self, key: int, call_id: str, name: str) -> None:
        """Add a call."""
        said = SaidCall(call_id, name)
        self.calls[key] = said
        self.items.append(said)

    def arguments(self, key: int, fragment: str) -> None:
        """Add to a call's arguments."""
        self.calls[key].pieces.append(fragment)

    def image(self, mime: str, payload: str) -> None:
        """Add an image."""
        self.items.append(SaidImage(mime, payload))

    def cite(self, citation: Citation) -> None:
        """Add where the last words come from."""
        for said in reversed(self.items):
            if isinstance(said, SaidText):
                said.citations.append(citation)
                return

    def finish(self, ending: Ending, usage: Usage | None) -> None:
        """Note the end."""
        self.ending = ending
        self.usage = usage

    def fail(self, trouble: Trouble) -> None:
        """Note the error."""
        self.trouble = trouble

    def texts(self) -> list[SaidText]:
        """Return the words, without those for not answering."""
        return [said for said in self.items if isinstance(said, SaidText) and not said.declined]
