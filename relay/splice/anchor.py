"""Going on by repeating: who takes no beginning of an answer is asked to say its end once more.

It gets what is out as its own turn, and behind it a turn of the user's that says what happened: the
line broke; begin with your last words, which are these, and go on. Where these words come again,
everything up to their end is dropped, and the rest joins on. Where they do not come, the splice is
given up: nothing has gone out by then. It is not the answer of one sampling.

Source: docs/streams.md, "Continuing an answer: anchors".
"""

from typing import Final

from relay.splice.overlap import JoinOverlap

ANCHOR_CHARS: Final = 40
ANCHOR_CHARS_MIN: Final = 12
"""A shorter end may stand anywhere."""
SEARCH_CHARS: Final = 240
"""Within so many characters the anchor has to be repeated."""
NOTICE_TOKENS: Final = 60
"""What the notice takes of a prompt, that nobody asked for but us."""
_QUOTES: Final = {
    **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2018\u2019`", "'"),
}
"""Models write the quotes of what they repeat their own way."""


def anchor_of(text: str) -> str:
    """Return the end of a text that has to be repeated, "" where it is too short to be found."""
    given = text.rstrip()
    anchor = given[-ANCHOR_CHARS:].lstrip()
    return anchor if len(anchor) >= ANCHOR_CHARS_MIN else ""


def notice_of(anchor: str) -> str:
    """Return what the user's turn says behind a partial answer."""
    return (
        "[The connection broke while you were answering: your last message is incomplete.] "
        "Begin by repeating exactly its last words, which are:\n"
        f"{anchor}\n"
        "and then go on from there to the end of the answer, as if nothing had happened. "
        "Say nothing else before them, and nothing about the interruption."
    )


class AnchorOverlap:
    """Drops what comes before the end of the repeated words (splice.overlap.Overlap).

    Args:
        delivered: The text that the client has.
        anchor: The words that have to come again.
    """

    __slots__ = ("_anchor", "_found", "_held", "_rest", "broken")

    def __init__(self, delivered: str, anchor: str) -> None:
        self._anchor = _folded(anchor)[0]
        self._held = ""
        self._found = False
        self._rest = JoinOverlap(delivered, "", may_echo=False)
        self.broken = False

    def feed(self, text: str) -> str:
        """Return the part of the text that the client does not have; "" until the words came."""
        if self._found:
            return self._rest.feed(text)
        if self.broken:
            return ""
        self._held += text
        end = self._find()
        if end >= 0:
            self._found = True
            rest, self._held = self._held[end:], ""
            return self._rest.feed(rest) if rest else ""
        self.broken = len(self._held) > SEARCH_CHARS + len(self._anchor)
        return ""

    def end(self) -> str:
        """Return "": nothing is held back. Words that did not come again break it."""
        self.broken = self.broken or not self._found
        return self._rest.end()

    def _find(self) -> int:
        """Return where the words end in what is held, below 0 where they are not there yet."""
        folded, places = _folded(self._held)
        at = folded.find(self._anchor)
        return places[at + len(self._anchor) - 1] + 1 if at >= 0 else -1


def _folded(text: str) -> tuple[str, list[int]]:
    """Return a text without white space and with plain quotes, and where each character stood."""
    chars, places = [], []
    for place, char in enumerate(text):
        if not char.isspace():
            chars.append(_QUOTES.get(char, char))
            places.append(place)
    return "".join(chars), places
