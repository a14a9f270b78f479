"""Models that think for minutes without a word, and the deadlines that let them."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

_Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Deadlines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deadlines of some models or channels, in seconds; None = those of all others."""

    first_byte_s: _Seconds | None = None
    answer_s: _Seconds | None = None
    gap_s: _Seconds | None = None


SLOW_MODELS: Final = {
    "*deep-research*": Deadlines(first_byte_s=1800.0, answer_s=3600.0, gap_s=1800.0),
    "gpt-*-pro*": Deadlines(first_byte_s=1800.0, answer_s=3600.0, gap_s=1800.0),
    "o[0-9]-pro*": Deadlines(first_byte_s=1800.0, answer_s=3600.0, gap_s=1800.0),
    "o[0-9]*": Deadlines(first_byte_s=600.0, answer_s=1800.0, gap_s=600.0),
}
"""By name. OpenAI's o-series and its kin are silent for minutes, deep research for many."""
