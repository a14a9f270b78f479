"""Ends an answer at a stop sequence that the upstream could not be told of.

The upstream goes on, and is paid for it: what it says behind the sequence reaches nobody. Words are
held back only while they may be the beginning of one.
"""

from relay.translate.answer import AnswerSink, Citation, Ending, Finish, Trouble
from relay.translate.middle import JsonObject
from relay.usage import Usage


class StopCut(AnswerSink):
    """Hands an answer on to `sink`, as far as the first of `stops`, which is not handed on."""

    def __init__(self, sink: AnswerSink, stops: tuple[str, ...]) -> None:
        self.sink = sink
        self.stops = stops
        self.held = ""
        self.stop: str | None = None
        """The sequence that was met."""

    def begin(self, usage: Usage | None) -> None:
        """The answer begins."""
        self.sink.begin(usage)

    def text(self, text: str, logprobs: list[JsonObject] | None) -> None:
        """Some words; their log probabilities are never asked for beside a cut."""
        if self.stop is not None:
            return
        whole = self.held + text
        found = [(at, stop) for stop in self.stops if (at := whole.find(stop)) >= 0]
        if found:
            end, self.stop = min(found)
            self.held = ""
        else:
            end = len(whole) - self._beginning(whole)
            self.held = whole[end:]
        if end:
            self.sink.text(whole[:end], None)

    def _beginning(self, text: str) -> int:
        """Return how many of the last characters may be the beginning of a stop sequence."""
        longest = max(len(stop) for stop in self.stops) - 1
        for count in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self.stops):
                return count
        return 0

    def _release(self) -> bool:
        """Hand on what is held, and tell whether the answer still goes on."""
        if self.held:
            held, self.held = self.held, ""
            self.sink.text(held, None)
        return self.stop is None

    def thinking(self, text: str) -> None:
        """Some words of its thinking: no sequence is looked for in them."""
        if self._release():
            self.sink.thinking(text)

    def declined(self, text: str) -> None:
        """Some words for not answering."""
        if self._release():
            self.sink.declined(text)

    def call(self, key: int, call_id: str, name: str) -> None:
        """A call begins."""
        if self._release():
            self.sink.call(key, call_id, name)

    def arguments(self, key: int, fragment: str) -> None:
        """A piece of a call's arguments."""
        if self.stop is None:
            self.sink.arguments(key, fragment)

    def image(self, mime: str, payload: str) -> None:
        """An image."""
        if self._release():
            self.sink.image(mime, payload)

    def cite(self, citation: Citation) -> None:
        """Where words come from."""
        if self.stop is None:
            self.sink.cite(citation)

    def finish(self, ending: Ending, usage: Usage | None) -> None:
        """The answer is whole."""
        if self._release():
            self.sink.finish(ending, usage)
        else:
            self.sink.finish(Ending(Finish.STOP_SEQUENCE, ending.word, self.stop), usage)

    def fail(self, trouble: Trouble) -> None:
        """The answer is broken, unless its end was met before."""
        if self._release():
            self.sink.fail(trouble)
        else:
            self.sink.finish(Ending(Finish.STOP_SEQUENCE, "stop_sequence", self.stop), None)
