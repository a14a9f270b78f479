"""What all pages have in common: the frame around them, and what some of them share."""

from typing import ClassVar, Literal

import msgspec

from relay.console.rows import Moment, Role


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What has just happened, or what keeps a page from being whole; shown above its content."""

    kind: Literal["good", "warn", "bad"]
    text: str


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What every page has around its content."""

    side: Literal["account", "operator"]
    page: str
    """The entry of the navigation that is current: overview, logs, usage, keys, billing, ..."""
    email: str = ""
    """Empty: nobody is signed in."""
    role: Role | None = None
    account: str = ""
    csrf: str = ""
    """Into a hidden field `csrf` of every form, or the header x-csrf-token."""
    language: Literal["en", "zh"] = "en"
    base_url: str = "http://127.0.0.1:8080/v1"
    """Where models are called: for snippets."""
    here: str = "/"
    """Path and query of this page."""
    as_api: str = ""
    """The request of the API that gives what this page shows, as a curl command; may be empty."""
    notice: Notice | None = None
    now: Moment = ""

    @property
    def may_change(self) -> bool:
        """Whether buttons that change something are of use: a viewer only looks."""
        return self.role in {"owner", "member", "operator"}

    @property
    def may_manage(self) -> bool:
        """Whether this is an owner (users, money, management keys) or an operator."""
        return self.role in {"owner", "operator"}


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A page's content."""

    template: ClassVar[str]
    page: ClassVar[str]
    """The entry of the navigation it belongs to."""
    title: ClassVar[str]


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """Something that needs a hand, or will: a line of the overview."""

    kind: Literal[
        "new_address", "order_stuck", "price_change", "low_balance", "key_expires", "channel_open"
    ]
    urgent: bool
    text: str
    link: str
