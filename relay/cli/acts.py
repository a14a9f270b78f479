"""Commands that change something, and what of their arguments says to whom.

Each leaves a line in the audit log, by the login of whoever ran it. An argument that may be a
secret (a code, a file's content) is never one of them.
"""

import getpass
import os
from typing import Final

import click

from relay.store.acts import Act

SAID: Final = "said"
_TARGETS: Final[dict[str, tuple[str, ...]]] = {
    "account set": ("name",),
    "apply": ("file",),
    "channel drain": ("name",),
    "channel enable": ("name",),
    "code create": (),
    "code redeem": ("account",),
    "credit": ("account",),
    "key create": ("account", "name"),
    "key delete": ("key",),
    "key disable": ("key",),
    "key enable": ("key",),
    "key limit": ("key",),
    "line grant": ("account", "line"),
    "line revoke": ("account", "line"),
    "maintenance run": ("works",),
    "maintenance skip": (),
    "order open": ("order", "order_no"),
    "order retry": ("order", "order_no"),
    "price import": ("file",),
    "recharge": ("order", "order_no"),
    "user disable": ("email",),
    "user enable": ("email",),
    "user invite": ("email",),
    "user link": ("email",),
    "user reset": ("email",),
}


def read_act(ctx: click.Context) -> Act | None:
    """Return what a command is about to do; None where it only looks."""
    path = " ".join(ctx.command_path.split()[1:])
    names = _TARGETS.get(path)
    if names is None or ctx.params.get("dry_run"):
        return None
    told = [str(ctx.params[name]) for name in names if ctx.params.get(name)]
    return Act(
        actor=f"command by {name_login()}",
        act=f"cli.{path.replace(' ', '.')}",
        target="/".join(told),
    )


def name_login() -> str:
    """Return the login of whoever runs this."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this uid
        return f"uid {os.getuid()}"
