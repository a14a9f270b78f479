"""What is no call to a model: the list of models, and one of them."""

from relay.edge.client.head import ParsedHead
from relay.edge.routes import Page
from relay.errors import ModelNotFound
from relay.flow.admission import Admission
from relay.flow.call import Call
from relay.wire.dialects.known import TABLES
from relay.wire.model_lines import DETAIL_HEADER, wants_detail, with_lines


def page_body(
    admission: Admission, call: Call, page: Page, model: str, message: ParsedHead
) -> bytes:
    """Return the list of models that a call's key may use, or one of them, in its dialect.

    Raises:
        ModelNotFound: CLIENT; there is no such model, or not for this key.
        Forbidden: CLIENT; the call names a line that the key has not.
    """
    lines = admission.lines_by_model(call)
    detailed = wants_detail(message.headers.get(DETAIL_HEADER, ""), message.path)
    described = admission.described(call, lines) if detailed else None
    names = sorted(lines)
    created = call.time_us // 1_000_000
    table = TABLES[call.head.dialect]
    if page is Page.MODELS:
        return with_lines(table.models_body(names, created), lines, described)
    if model not in names:
        raise ModelNotFound("This model is not offered here, or not to your key.")
    return with_lines(table.model_body(model, created), lines, described)
