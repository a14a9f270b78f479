"""Our own identity, taken out of what a provider says to us before a client reads it.

A provider's words name the account that asked: its key, organisation, project, team, the host it
was asked at. They are the operator's, and say to a client where its calls go. All else of the
words stays as it is: coding agents parse them.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from relay.model import Channel

REMOVED: Final = b"[...]"

_PATTERNS: Final = (
    # Keys, whole or masked: sk-proj-abc***xyz, gsk_..., AIza..., AKIA..., Bearer tokens.
    rb"\b(?:sk|pk|rk|gsk|xai|nvapi|pplx|fw|r8|hf)[-_][A-Za-z0-9_\-*.]{10,}",
    rb"\bAIza[A-Za-z0-9_\-]{20,}",
    rb"\b(?:AKIA|ASIA)[A-Z0-9]{12,}",
    rb"\bBearer [A-Za-z0-9._\-]{12,}",
    # Organisations, projects, users, accounts.
    rb"\borg-[A-Za-z0-9]{6,}",
    rb"\bproj_[A-Za-z0-9]{6,}",
    rb"\b(?:user|acct|team|ws|wrkspc|workspace|org)_[A-Za-z0-9]{12,}",
    rb"\barn:aws[A-Za-z0-9\-]*:[A-Za-z0-9:/._\-]+",
    rb"(?<=projects/)[A-Za-z0-9:._\-]+",
    rb"(?<=accounts/)(?!fireworks/)[A-Za-z0-9:._\-]+(?=/)",
    rb"(?i:(?<=project )|(?<=project number )|(?<=account )|(?<=subscription ))#?\d{6,}\b",
    rb"(?i:(?<=team: )|(?<=api key id: )|(?<=organization: )|(?<=tenant: ))[A-Za-z0-9._\-]+",
    # Hosts that bear an account's name, and addresses inside somebody's network.
    rb"\b[A-Za-z0-9\-]+\.(?:openai\.azure|services\.ai\.azure|cognitiveservices\.azure)\.com\b",
    rb"\b(?:(?:10|127)\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}(?::\d{1,5})?\b",
)
_FIELDS: Final = (
    rb'("(?:user_id|org_id|organization|organization_id|account_id|accountid|project_id|team_id'
    rb'|workspace_id|consumer|tenant_id)"\s*:\s*)"(?:[^"\\]|\\.)*"'
)
_OURS: Final = re.compile(b"|".join(_PATTERNS))
_FIELD: Final = re.compile(_FIELDS)
SECRET_BYTES_MIN: Final = 6
"""A shorter key or host would be found in plain words."""


def known_by(channel: Channel) -> tuple[str, ...]:
    """Return what a channel is known by to its provider, and no client is told."""
    url = urlsplit(channel.base_url)
    host = url.hostname or ""
    return (channel.api_key.reveal(), url.netloc, host if "." in host else "")


def without_identity(said: bytes, ours: Sequence[str] = ()) -> bytes:
    """Return a provider's words without what names the account that asked.

    JSON stays JSON: nothing that is put in or taken out is a quote or a backslash.

    Args:
        said: Its words or its body.
        ours: What the channel itself is known by: its key, its host.
    """
    for secret in ours:
        if len(secret) >= SECRET_BYTES_MIN:
            said = said.replace(secret.encode(), REMOVED)
    return _FIELD.sub(rb'\1"' + REMOVED + b'"', _OURS.sub(REMOVED, said))
