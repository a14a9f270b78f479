"""Mail to people, by the server of [console.mail]: plain text, a few words and a link.

A server is waited for in a thread, and not for long. What it answers is for nobody's log: it may
quote an address.
"""

import asyncio
import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Final

from relay.model import Secret
from relay.outside import Mail

DEADLINE_S: Final = 10.0
RECIPIENTS_MAX: Final = 20


class Mailer:
    """Writes to people.

    Args:
        config: By which server, and as whom.
        password: What we show it.
    """

    def __init__(self, config: Mail, password: Secret) -> None:
        self._config = config
        self._password = password

    async def send(self, to: Sequence[str], subject: str, text: str) -> bool:
        """Write to people; return whether the server took it for all of them."""
        message = EmailMessage()
        message["From"] = self._config.sender
        message["To"] = ", ".join(to[:RECIPIENTS_MAX])
        message["Subject"] = subject
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain=self._config.sender.partition("@")[2])
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        try:
            return await asyncio.to_thread(self._deliver, message)
        except (OSError, smtplib.SMTPException):
            return False

    def _deliver(self, message: EmailMessage) -> bool:
        config = self._config
        if config.tls == "tls":
            trust = ssl.create_default_context()
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                config.host, config.port, timeout=DEADLINE_S, context=trust
            )
        else:
            server = smtplib.SMTP(config.host, config.port, timeout=DEADLINE_S)
        with server:
            if config.tls == "starttls":
                server.starttls(context=ssl.create_default_context())
            if config.user:
                server.login(config.user, self._password.reveal())
            return not server.send_message(message)
