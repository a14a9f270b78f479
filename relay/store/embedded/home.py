"""Where the embedded servers keep their files, and as whom they run.

    DATA_DIR/embedded             the home: private to the servers' user; a folder, or a link to one
    DATA_DIR/embedded/sockets     their unix sockets, unless that path is too long for one

Postgres refuses root. A supervisor run by root starts the servers as an unprivileged user who is
there already; no user is added, and no folder that was not made here changes its mode or owner.
Where that user cannot reach DATA_DIR (below /root, say), the home is elsewhere and DATA_DIR links
to it.
"""

import contextlib
import hashlib
import logging
import os
import pwd
import re
import stat
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from relay.errors import ConfigError
from relay.store.embedded.process import Identity, run

USERS: Final = ("postgres", "nobody")
"""Unprivileged users to run as, the best first."""
SHELTER: Final = Path("/var/lib")
"""Where a home goes that cannot be in DATA_DIR; failing that, the system's temporary folder."""
SOCKET_FOLDER: Final = re.compile(r"[A-Za-z0-9_./+-]{1,80}")
"""Fit for sockets: sun_path holds 107 bytes, and nothing in it needs quoting in a URL."""
PROBE_S: Final = 5.0

_logger = logging.getLogger(__name__)


class Home(NamedTuple):
    """The servers' private folder, the folder of their sockets, and the user they run as.

    `identity`: None where that is the user we are.
    """

    folder: Path
    sockets: Path
    identity: Identity | None


def settle(data_dir: Path) -> Home:
    """Find the home of this data dir, or make one. Blocks for some milliseconds.

    Raises:
        ConfigError: There is no place or no user for it, or an earlier home is gone or not ours.
    """
    link = data_dir / "embedded"
    try:
        identity = _choose_identity(link)
        folder = _keep(link, identity) if _is_there(link) else _found(link, identity)
        return Home(folder, _socket_folder(folder, identity), identity)
    except OSError as error:
        raise ConfigError(f"cannot use {error.filename or link}: {error.strerror}") from error


def leave(home: Home) -> None:
    """Remove what is outside of the home, once the servers are stopped."""
    if not home.sockets.is_relative_to(home.folder):
        with contextlib.suppress(OSError):
            home.sockets.rmdir()


def make_private(folder: Path, identity: Identity | None) -> None:
    """Make `folder`, if it is not there, so that only `identity` (and root) may enter it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    # What is root's was made here a moment ago, or by a start that was cut short; what is
    # another's stays as it is, so that nobody can have a folder of his choice given away.
    if identity is not None and folder.lstat().st_uid == 0:
        os.chown(folder, identity.uid, identity.gid, follow_symlinks=False)


def _is_there(link: Path) -> bool:
    return link.is_symlink() or link.exists()


def _choose_identity(link: Path) -> Identity | None:
    if os.geteuid() != 0:
        return None
    # Postgres insists on owning its folder, so whoever owns an earlier home goes on.
    if link.exists() and (owner := link.stat()).st_uid != 0:
        return Identity(_name(owner.st_uid), owner.st_uid, owner.st_gid)
    for user in USERS:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            continue
        return Identity(user, entry.pw_uid, entry.pw_gid)
    raise ConfigError(
        f"Postgres does not run as root, and there is no user {' or '.join(USERS)}: "
        "run the relay as another user, or set [database] url and [redis] url"
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _keep(link: Path, identity: Identity | None) -> Path:
    """Return the home of an earlier run."""
    if not link.exists():
        raise ConfigError(
            f"{link} points to {link.readlink()}, which is gone with the database in it: "
            f"put it back, or remove the link to start with an empty one"
        )
    folder = link.resolve()
    make_private(folder, identity)
    if not _is_reached(folder, identity):
        who = f"user {identity.name}" if identity else "the user you run as"
        raise ConfigError(f"{folder} was made by an earlier run, but {who} cannot use it now")
    return folder


def _found(link: Path, identity: Identity | None) -> Path:
    """Make a home: in the data dir where the servers' user can reach it, else in a shelter."""
    make_private(link, identity)
    if _is_reached(link, identity):
        return link.resolve()
    link.rmdir()
    for shelter in (SHELTER, Path(tempfile.gettempdir())):
        if not os.access(shelter, os.W_OK):
            continue
        # A fresh name each time: a database must not come back under a new data dir's secrets.
        folder = Path(tempfile.mkdtemp(prefix="relay-embedded-", dir=shelter))
        make_private(folder, identity)
        if _is_reached(folder, identity):
            link.symlink_to(folder)
            _logger.warning(
                "user %s cannot reach %s; the embedded servers keep their files in %s",
                identity.name if identity else os.geteuid(),
                link.parent,
                folder,
            )
            return folder
        folder.rmdir()
    raise ConfigError(f"the user of the embedded servers can reach neither {link} nor a shelter")


def _socket_folder(folder: Path, identity: Identity | None) -> Path:
    """Return a folder for the sockets: in the home, or where its path is shorter."""
    sockets = folder / "sockets"
    if SOCKET_FOLDER.fullmatch(str(sockets)) is None:
        mark = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        sockets = Path(tempfile.gettempdir(), f"relay-{mark}")
    make_private(sockets, identity)
    _check_private(sockets, identity)
    return sockets


def _check_private(sockets: Path, identity: Identity | None) -> None:
    """Refuse a folder that somebody else put there: who owns it could pose as our server.

    Raises:
        ConfigError: It is not a folder of ours alone, or no better than the one in the home.
    """
    found = sockets.lstat()
    uid = identity.uid if identity else os.geteuid()
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077 and found.st_uid == uid
    fit = SOCKET_FOLDER.fullmatch(str(sockets)) is not None
    if not (private and fit and _is_reached(sockets, identity)):
        raise ConfigError(f"{sockets} cannot hold sockets: choose a shorter --data-dir")


def _is_reached(folder: Path, identity: Identity | None) -> bool:
    """Return whether `identity` can write in `folder`; for another user, the kernel is asked."""
    if identity is None:
        return os.access(folder, os.W_OK | os.X_OK)
    return run(["test", "-w", folder, "-a", "-x", folder], identity, wait_s=PROBE_S).returncode == 0
