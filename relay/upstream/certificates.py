"""What is wrong with an upstream's certificate, in words that tell an operator what to do.

Source: OpenSSL, X509_STORE_CTX_get_error: X509_V_ERR_..., as `verify_code` has them.
"""

import ssl
from typing import Final

from relay.errors import CertificateInvalid

_FLAWS: Final = {
    9: ("not_yet_valid", "is not valid yet"),
    10: ("expired", "has expired"),
    18: ("self_signed", "is signed by nobody but itself"),
    19: ("unknown_ca", "comes from an authority that is not trusted"),
    20: ("unknown_ca", "comes from an authority that is not known"),
    21: ("unknown_ca", "comes without the certificates between it and its authority"),
    23: ("revoked", "was revoked"),
    62: ("wrong_host", "is for another host name"),
    64: ("wrong_host", "is for another address"),
    66: ("weak", "has a key that is too short"),
    67: ("weak", "comes from an authority whose key is too short"),
    68: ("weak", "is signed by way of a digest that is broken"),
}
"""A word for the log, and what a client is told."""
_OTHER: Final = ("invalid", "could not be verified")


def certificate_fault(error: ssl.SSLCertVerificationError) -> CertificateInvalid:
    """Return what to say of a certificate that was not accepted."""
    flaw, words = _FLAWS.get(error.verify_code, _OTHER)
    return CertificateInvalid(f"The upstream's TLS certificate {words}.", flaw)
