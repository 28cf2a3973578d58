"""Mail to people: by the operator's own server, with TLS wherever it isn't on this very host (RFC 5321, 3207, 8314)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import smtplib
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from urllib.parse import unquote, urlsplit

from shadowmesh.controller.outward.failures import why
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.text import escaped, is_mailbox

_TIMEOUT = 30.0  # seconds, for each step of the conversation
_THREADS = 4  # mails at once; a server that says nothing holds up other mails, and nothing else
_PORTS = {"smtps": 465, "smtp": 587}


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """`tls`: from the first byte on; else by STARTTLS, without which only this very host is spoken to."""

    host: str
    port: int
    tls: bool
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def is_here(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_smtp(url: str) -> SmtpServer:
    """From smtps://USER:PASSWORD@HOST:PORT or smtp://…; what the URL holds further is escaped as in every URL. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("it is not smtps://USER:PASSWORD@HOST or smtp://USER:PASSWORD@HOST")
    if bool(parts.username) != bool(parts.password):
        raise ValueError("a user and a password go together")
    return SmtpServer(
        parts.hostname,
        parts.port or _PORTS[parts.scheme],
        parts.scheme == "smtps",
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


class Mailer:
    def __init__(self, server: SmtpServer, sender: str, tls: ssl.SSLContext | None = None) -> None:
        """`sender`: NAME <ADDRESS> or an address. `tls`: by which authorities; default: the system's."""
        self._server = server
        self._sender = sender
        self._tls = tls or ssl.create_default_context()
        self._threads = ThreadPoolExecutor(_THREADS, "mail")

    async def send(self, to: str, subject: str, text: str) -> None:
        """Hands one mail over to the server, for one mailbox. Raises ShadowMeshError(mail_failed), which says why."""
        if not is_mailbox(to):
            raise ShadowMeshError("mail_failed", f"{escaped(to[:100])} isn't the address of one mailbox")
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, to, subject
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain=parseaddr(self._sender)[1].rpartition("@")[2] or None)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody answers by a machine
        message.set_content(text)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._send, message, to)
        except (OSError, smtplib.SMTPException) as e:
            said = why(e)
            if isinstance(e, smtplib.SMTPResponseException):
                said = e.smtp_error if isinstance(e.smtp_error, str) else e.smtp_error.decode(errors="replace")
            where = f"{self._server.host}:{self._server.port}"
            raise ShadowMeshError(
                "mail_failed", f"the mail server {where} didn't take a mail: {escaped(said[:200])}"
            ) from e

    def _send(self, message: EmailMessage, to: str) -> None:
        server = self._server
        if server.tls:
            session: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=_TIMEOUT, context=self._tls)
        else:
            session = smtplib.SMTP(server.host, server.port, timeout=_TIMEOUT)
        try:
            session.ehlo()
            if not server.tls and session.has_extn("starttls"):
                session.starttls(context=self._tls)
                session.ehlo()
            elif not server.tls and not server.is_here:
                raise smtplib.SMTPException("it offers no TLS")
            if server.user:
                session.login(server.user, server.password)
            session.send_message(message, to_addrs=[to])  # not by what the headers look like
            with contextlib.suppress(OSError, smtplib.SMTPException):
                session.quit()  # the mail is taken, whatever is said to this
        finally:
            session.close()  # without a farewell where TLS failed: nobody would answer it
