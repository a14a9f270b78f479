"""What a worker asks the bank for, room by room."""

import msgspec


class Wish(msgspec.Struct, frozen=True):
    """What a worker asks for one room."""

    key: str
    seats: int
    used: int
    need: int
    spare: int
