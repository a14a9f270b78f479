"""What one check found."""

import msgspec


class Diagnosis(msgspec.Struct, frozen=True):
    """One line of `relay doctor`.

    `check`: its name, the same in every run. `value`: what was found. `mend`: the command, or what
    to do; "" where all is well.
    """

    check: str
    ok: bool
    value: str
    mend: str


def judge(check: str, value: str, mend: str, *, ok: bool) -> Diagnosis:
    """Return a diagnosis that says how to mend only what needs it."""
    return Diagnosis(check, ok, value, "" if ok else mend)
