"""JSON of strangers to values: whatever is wrong with it, it is one error.

Clients, upstreams and whoever else is not us may send what is no JSON, is no UTF-8, has another
type than it should, or is nested deeper than a decoder goes: four exceptions of three families.
Whoever reads what others wrote reads it with this, and knows one. What we wrote ourselves (rows,
journals, files) is read with msgspec: there a fault is to be seen.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

_Value = TypeVar("_Value")


class Undecodable(ValueError):
    """It cannot be read.

    `place`: what is of another type than it should be, and where; "" = it is no JSON at all.
    `deep`: it is nested too deeply, and may well be what it should be.
    """

    def __init__(self, place: str = "", *, deep: bool = False) -> None:
        super().__init__(place or ("it is nested too deeply" if deep else "it is not JSON"))
        self.place = place
        self.deep = deep


class Decoder(Generic[_Value]):
    """Reads one type; made once, where a module is imported.

    What is no class (a union, Any) is read with `decoder_of`: mypyc makes wrong C of an overload.

    Args:
        kind: What is read.
        float_hook: Makes numbers with a point out of their text, None = floats.
    """

    __slots__ = ("_decode",)

    def __init__(self, kind: type[_Value], float_hook: Callable[[str], Any] | None = None) -> None:
        self._decode: Callable[[Any], Any] = msgspec.json.Decoder(
            kind, float_hook=float_hook
        ).decode

    def decode(self, raw: bytes | msgspec.Raw | str) -> _Value:
        """Return the value.

        Raises:
            Undecodable: There is none.
        """
        place, deep = "", False
        try:
            value: _Value = self._decode(raw)
            return value
        except msgspec.ValidationError as error:
            place = str(error)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        except RecursionError:
            deep = True
        # Raised out here, so that no exception that saw the text hangs on to this one.
        raise Undecodable(place, deep=deep)


def decoder_of(kind: Any, float_hook: Callable[[str], Any] | None = None) -> Decoder[Any]:
    """Return a Decoder of a type that is no class: `int | None`, Any."""
    return Decoder(cast("type[Any]", kind), float_hook)
