"""The pages of whoever is not signed in, and of what went wrong."""

from relay.console.rows import Role
from relay.console.views.frame import View


class LoginView(View, frozen=True):
    """GET /login. Posts `email`, `password`, `code` (TOTP, where wanted), `next` to /login."""

    template = "login.html"
    page = "login"
    title = "Sign in"
    email: str = ""
    next: str = ""
    wants_code: bool = False
    """The password was right and the user has a second factor: only `code` is asked for now."""
    sso: str = ""
    """What the identity provider is called where one may sign in as well; "": nowhere else."""
    half: str = ""
    """Into a hidden field `half`: that the password was right, for five minutes."""


class InvitationView(View, frozen=True):
    """GET /invite/{token}: posts `password` to the same path. Also for a reset by an operator."""

    template = "invitation.html"
    page = "login"
    title = "Choose a password"
    email: str
    account: str
    role: Role
    is_reset: bool
    password_chars_min: int


class LinkView(View, frozen=True):
    """GET /link/{token}: one button, which posts nothing to the same path and signs in, once."""

    template = "link.html"
    page = "login"
    title = "Sign in"
    email: str
    account: str


class FailureView(View, frozen=True):
    """Any failure as a page: what happened, the id, what to do."""

    template = "failure.html"
    page = ""
    title = "That did not work"
    status: int
    message: str
    request_id: str
    back: str = "/"
