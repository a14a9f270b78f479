"""The place where the text of one channel ends and that of another begins.

A channel that goes on from a given text may hand back some of it first: all of it (an echo), its
last words (it took a step back), or the whitespace that it was not given. What the client already
has is dropped here, and nothing else: where the new text may as well be the model repeating itself
on purpose, it stays.
"""

from typing import Final, Protocol

OVERLAP_CHARS_MIN: Final = 16
"""A shorter repetition is more likely the model's own than a step back."""
OVERLAP_CHARS_MAX: Final = 256
"""How far back a step is looked for; an echo is found at any length."""


class Overlap(Protocol):
    """Takes the texts of the new channel, gives what the client gets of them."""

    @property
    def broken(self) -> bool:
        """Whether the new text does not belong to the old one: the splice must be given up."""
        ...

    def feed(self, text: str) -> str:
        """Return what of the text, and of text held back before, goes to the client now."""
        ...

    def end(self) -> str:
        """Return what is still held back; the new channel has said all."""
        ...


class JoinOverlap:
    """Joins the rest of an answer to its beginning.

    Args:
        delivered: The text that the client has.
        given: The text that the channel was told to go on from: `delivered` without its trailing
            whitespace, perhaps with a beginning that the client itself gave; "" = none.
        may_echo: The channel's form is known to hand back all it was given.
    """

    __slots__ = ("_given", "_held", "_may_echo", "_open", "_spaces", "_tail", "broken")

    def __init__(self, delivered: str, given: str, *, may_echo: bool) -> None:
        self.broken = False
        self._given = given
        self._tail = given[-OVERLAP_CHARS_MAX:]
        self._may_echo = may_echo
        self._spaces = delivered[len(delivered.rstrip()) :]
        self._held = ""
        self._open = not given

    def feed(self, text: str) -> str:
        """Return what of the text, and of text held back before, goes to the client now."""
        if self._open:
            return self._skip_spaces(text) if self._spaces else text
        self._held += text
        if not self._held or self._may_go_on():
            return ""
        return self.end()

    def end(self) -> str:
        """Return what is still held back; the new channel has said all."""
        held, self._held = self._held, ""
        if self._open:
            return ""
        self._open = True
        return self._skip_spaces(held[self._repeated_chars(held) :])

    def _may_go_on(self) -> bool:
        """Tell whether more text could make what is held a longer repetition."""
        held = self._held
        if len(held) < len(self._given) and self._given.startswith(held):
            return True
        return held in self._tail[:-1]

    def _repeated_chars(self, text: str) -> int:
        """Return how much of the start of `text` is the end of what the channel was given."""
        given = self._given
        if text.startswith(given):
            if self._may_echo:
                return len(given)
            # An answer such as "0, 0, 0, " is its own echo: it may well just go on.
            if len(given) >= OVERLAP_CHARS_MIN and given not in (given + given)[1:-1]:
                return len(given)
        for size in range(min(len(text), len(self._tail)), OVERLAP_CHARS_MIN - 1, -1):
            if text.startswith(self._tail[-size:]):
                return 0 if self._is_habit(text, size) else size
        return 0

    def _is_habit(self, text: str, size: int) -> bool:
        """Tell whether an overlap may as well be the model repeating itself.

        It may where these words stood in the answer before, or where the overlap is a pattern, so
        that a shorter one of at least half its size fits as well.
        """
        words = self._tail[-size:].strip()
        return self._given.find(words) != self._given.rfind(words) or any(
            text.startswith(self._tail[-less:]) for less in range((size + 1) // 2, size)
        )

    def _skip_spaces(self, text: str) -> str:
        """Drop the whitespace that is out already; the first difference ends it."""
        skipped = 0
        for space, char in zip(self._spaces, text, strict=False):
            if space != char:
                self._spaces = ""
                return text[skipped:]
            skipped += 1
        self._spaces = self._spaces[skipped:]
        return text[skipped:]


class EchoOverlap:
    """Skips what a channel is known to hand back before it goes on: by length, nothing is guessed.

    Args:
        delivered: The text that the client has.
        given: The text that the channel was told to go on from; its own must begin with it.
    """

    __slots__ = ("_echo", "_rest")

    def __init__(self, delivered: str, given: str) -> None:
        self._echo = ReplayOverlap(given)
        self._rest = JoinOverlap(delivered, "", may_echo=False)

    @property
    def broken(self) -> bool:
        """Whether the channel's text does not begin with what it was given."""
        return self._echo.broken

    def feed(self, text: str) -> str:
        """Return the part of the text that the client does not have; "" once it diverges."""
        return self._rest.feed(self._echo.feed(text))

    def end(self) -> str:
        """Return "": nothing is held back. An answer that ended within the echo diverges."""
        return self._echo.end()


class ReplayOverlap:
    """Skips what is out of an answer that is given again from its start.

    Args:
        delivered: The text that the client has; the new one must begin with it to the letter.
    """

    __slots__ = ("_awaited", "broken")

    def __init__(self, delivered: str) -> None:
        self._awaited = delivered
        self.broken = False

    def feed(self, text: str) -> str:
        """Return the part of the text that the client does not have; "" once it diverges."""
        if not self._awaited:
            return text
        size = min(len(text), len(self._awaited))
        if self.broken or text[:size] != self._awaited[:size]:
            self.broken = True
            return ""
        self._awaited = self._awaited[size:]
        return text[size:]

    def end(self) -> str:
        """Return "": nothing is held back. An answer that ended before the old one diverges."""
        self.broken = self.broken or bool(self._awaited)
        return ""


class NothingMore:
    """Drops all text: what the client asked for is out, and only the last word is wanted."""

    __slots__ = ()
    broken: Final = False

    def feed(self, text: str) -> str:
        """Return "": nothing goes out."""
        return ""

    def end(self) -> str:
        """Return "": nothing is held back."""
        return ""
