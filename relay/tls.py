"""TLS on a listener of ours: its files, and contexts that take up new ones without a drop.

A context is asked for its certificate at each handshake, so loading another one into it changes
what new connections get, and no connection that is there.
"""

import logging
import ssl
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from relay.clock import clock_s
from relay.errors import ConfigError

FORGOTTEN_S: Final = 120.0
"""A handshake this old is over, though nobody said so: listeners cut those that are late."""
ALPN: Final = ("http/1.1",)

_File = Annotated[str, Meta(max_length=4096)]

_log = logging.getLogger(__name__)


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[tls.relay]`, `[tls.admin]`, `[tls.console]`: PEM files of a listener."""

    cert: _File
    """The chain, our own certificate first."""
    key: _File
    client_ca: _File = ""
    """Only clients with a certificate of these authorities get in; "": all do."""


class TlsListeners(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[tls]`: by listener; one that is left out speaks plainly."""

    relay: TlsFiles | None = None
    admin: TlsFiles | None = None
    console: TlsFiles | None = None


class Handshakes:
    """The handshakes of a listener that are not over: each takes 50 KB, and a descriptor.

    Args:
        most: So many may be under way at once.
        on_full: Called when one more begins; it may raise an SSLError to have it refused.
    """

    def __init__(self, most: int, on_full: Callable[[], None]) -> None:
        self._most = most
        self._on_full = on_full
        self._open: dict[weakref.ref[ssl.SSLObject], float] = {}
        """Since when, in the order in which they began."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def are_full(self) -> bool:
        """Whether as many as may be are under way."""
        until_s = clock_s() - FORGOTTEN_S
        while self._open:
            first = next(iter(self._open))
            if self._open[first] > until_s:
                break
            del self._open[first]
        return len(self._open) >= self._most

    def begin(self, one: ssl.SSLObject) -> None:
        """Count a handshake."""
        if self.are_full:
            self._on_full()
        self._open[weakref.ref(one, self._forget)] = clock_s()

    def end(self, one: ssl.SSLObject) -> None:
        """Forget one that is over."""
        self._open.pop(weakref.ref(one), None)

    def _forget(self, gone: "weakref.ref[ssl.SSLObject]") -> None:
        self._open.pop(gone, None)


class _CountedObject(ssl.SSLObject):
    """A connection's TLS, which tells when its handshake is over."""

    def do_handshake(self) -> None:
        super().do_handshake()
        context = self.context
        if isinstance(context, _CountingContext) and context.handshakes is not None:
            context.handshakes.end(self)


class _CountingContext(ssl.SSLContext):
    """A context whose handshakes are counted, where somebody wants that."""

    sslobject_class = _CountedObject
    handshakes: Handshakes | None = None

    def wrap_bio(self, *args: Any, **fields: Any) -> ssl.SSLObject:
        made = super().wrap_bio(*args, **fields)
        if self.handshakes is not None:
            self.handshakes.begin(made)
        return made


class ListenerTls:
    """The context of one listener, kept in step with its files.

    Args:
        files: What it is made of.
        handshakes: Counts its handshakes; None: nobody does.

    Raises:
        ConfigError: RELAY; a file is missing, or no certificate, or another key's.
    """

    def __init__(self, files: TlsFiles, handshakes: Handshakes | None = None) -> None:
        self._files = files
        self._stamps = _stamps(files)
        context = make_context(files)
        context.handshakes = handshakes
        self.context: ssl.SSLContext = context

    def refresh(self) -> None:
        """Take up files that have changed; what cannot be used is told, and the old ones stay."""
        stamps = _stamps(self._files)
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            make_context(self._files)  # a half of a pair must not get into the one in use
            _load(self.context, self._files)
        except ConfigError as error:
            _log.error("the new certificate is not taken", extra={"reason": error.message})
        else:
            _log.info("a new certificate is in use", extra={"path": self._files.cert})


def make_context(files: TlsFiles) -> _CountingContext:
    """Return a server's context: TLS 1.2 at least, HTTP/1.1, clients verified where wanted.

    Raises:
        ConfigError: RELAY; see ListenerTls.
    """
    context = _CountingContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(ALPN))
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    place = files.cert
    try:
        context.load_cert_chain(files.cert, files.key)
        if files.client_ca:
            place = files.client_ca
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        raise ConfigError(f"{place}: {error.reason or 'not PEM, or not of one pair'}") from error
    except OSError as error:
        raise ConfigError(f"{place} (or its key): {error.strerror}") from error


def _stamps(files: TlsFiles) -> tuple[tuple[int, int], ...]:
    """Return what changes with the files: inode and time of each; of what is not there, nothing."""
    found = []
    for path in (files.cert, files.key, files.client_ca):
        try:
            status = Path(path).stat() if path else None
        except OSError:
            status = None
        found.append((status.st_ino, status.st_mtime_ns) if status else (0, 0))
    return tuple(found)
