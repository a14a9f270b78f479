"""Sessions of TLS that upstreams gave: the next connection to one need not begin from nothing.

A resumed handshake asks for no certificate, so nothing is verified in it: what was verified in the
one before is relied upon, for an hour at most. A handshake in full costs as much as a thousand
events.

Source: RFC 8446, section 2.2 (tickets of TLS 1.3); RFC 5077 (of TLS 1.2).
"""

import ssl
from collections.abc import Hashable
from typing import Final

VERIFIED_S: Final = 3600.0
"""How long a certificate that was verified is relied upon; as long as the longest streams do."""
REPLACED_S: Final = 600.0
"""How long what was found is kept at least, taken or not, and were it nothing. CPython's ssl loses
about 6 KiB whenever a session is read (SSLObject.session, up to 3.11 at least), so that is not done
for each connection to a server that gives no session or resumes none."""
SESSIONS_MAX: Final = 256
"""Servers remembered; a relay asks a few dozen. One is some KiB: it has the certificates."""


class _Kept:
    """What a server gave, and what may resume it; no session: it was asked, and gave none."""

    __slots__ = ("context", "made_s", "session")

    def __init__(
        self, session: ssl.SSLSession | None, context: ssl.SSLContext, made_s: float
    ) -> None:
        self.session = session
        self.context = context
        self.made_s = made_s


class TlsSessions:
    """The sessions of one worker, by origin: one for each, of the last handshake in full."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[Hashable, _Kept] = {}

    def __len__(self) -> int:
        """Count the servers remembered."""
        return len(self._kept)

    def find(
        self, origin: Hashable, context: ssl.SSLContext, now_s: float
    ) -> ssl.SSLSession | None:
        """Return what a connection to an origin may resume; None if nothing.

        What another context has verified (other authorities, another certificate of ours) is not
        resumed: OpenSSL would not have it, and it says nothing of this one.
        """
        kept = self._kept.get(origin)
        if kept is None or kept.context is not context or now_s - kept.made_s > VERIFIED_S:
            return None
        return kept.session

    def wants(self, origin: Hashable, context: ssl.SSLContext, now_s: float) -> bool:
        """Tell whether the session of a handshake in full is to be looked for."""
        kept = self._kept.get(origin)
        return kept is None or kept.context is not context or now_s - kept.made_s > REPLACED_S

    def keep(
        self, origin: Hashable, context: ssl.SSLContext, connection: ssl.SSLObject, now_s: float
    ) -> None:
        """Keep the session of a connection, or that it has none which can be resumed.

        Args:
            origin: Whom it was made with: the scheme, host and port, and the way there.
            context: What verified it.
            connection: One whose handshake was in full, a moment ago.
            now_s: Of `relay.clock`.
        """
        session: ssl.SSLSession | None = connection.session
        if session is not None and not (session.has_ticket or session.id):
            session = None
        self._kept.pop(origin, None)
        if len(self._kept) >= SESSIONS_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[origin] = _Kept(session, context, now_s)
