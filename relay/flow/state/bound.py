"""What binds one call to a channel."""

from typing import Final

from relay.flow.request import Rights


class Owner:
    """Who made something, and for whom; immutable, and shared by all that was made alike.

    `line_id`: of the line that it was made on. `model`: the public name, "" = no model's.
    """

    __slots__ = ("account_id", "channel_id", "line_id", "model")

    def __init__(self, account_id: int, channel_id: int, line_id: int, model: str) -> None:
        self.account_id = account_id
        self.channel_id = channel_id
        self.line_id = line_id
        self.model = model


class Bound:
    """What a call refers to, and what has come of that.

    `marks`: see wire.state.marks. `looked`: whether who owns it was asked. `owner`: who does, None
    where nobody knows. `preferred`: a channel to ask first that others may stand in for, 0 = none.
    `free`: the rights that it had before it was bound to its owner alone, None where it is not.
    `told`: an answer of our own, None for most.
    """

    __slots__ = ("free", "looked", "marks", "owner", "preferred", "told")

    def __init__(self, marks: tuple[bytes, ...]) -> None:
        self.marks = marks
        self.looked = False
        self.owner: Owner | None = None
        self.preferred = 0
        self.free: Rights | None = None
        self.told: bytes | None = None


class Background:
    """A job that goes on at its provider whoever listens (wire.state.jobs): a response, a video.

    `name`: its id. `taken`: its end is waited for, and settles its call. `tokens`: about as many as
    its call had delivered when it was.
    """

    __slots__ = ("name", "taken", "tokens")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.taken = False
        self.tokens = 0


UNNAMED: Final = Background(b"")
"""Of a call that asked for one, and has not heard its id yet."""
