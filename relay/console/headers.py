"""What every answer of the console says to a browser: nothing from elsewhere, nothing inline.

No page has an inline script, style or handler, so the policy needs neither nonces nor unsafe-*.
Values for scripts stand in <script type="application/json"> or data- attributes, which are not run.
"""

from typing import Final

PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Cache-Control": "no-store",
}
"""A payment provider's own page is reached by a redirect of the server: form-action would forbid
it in some browsers, so the form leads to a page of ours with a link."""

STATIC_CACHE: Final = "public, max-age=31536000, immutable"
