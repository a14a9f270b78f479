"""Refusals of an upstream, told in the client's dialect.

The provider's own words stay, since coding agents recover by them; what they look for where a
prompt is too long is said in the words of the client's own provider as well.
"""

import json
from typing import Final

from relay.errors import RelayError
from relay.flow.call import Call
from relay.translate.middle import TranslateDialect
from relay.translate.troubles import TOO_LONG, read_error, too_long_for

CHARS_MAX: Final = 4096


def retell(error: RelayError, call: Call, client: TranslateDialect) -> None:
    """Change an upstream's refusal so that it is told in the client's dialect."""
    said, error.own_body = error.own_body, b""
    trouble = read_error(said or json.dumps({"message": error.message}).encode(), error.status)
    if trouble.code == TOO_LONG:
        error.code = TOO_LONG
        error.message = too_long_for(client, trouble, error.message)[:CHARS_MAX]
    fields = call.question.fields
    if error.param is not None and (fields is None or error.param not in fields):
        error.param = None  # it is a field of the other dialect's
