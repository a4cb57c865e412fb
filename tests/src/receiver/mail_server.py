"""A mail server for the tests: aiosmtpd with TLS and a login, which keeps what it is sent as files.

Usage: mail_server.py PORT tls|starttls DIRECTORY CA CERTIFICATE KEY USER PASSWORD

Every client shows a certificate. What stands in DIRECTORY/answer is answered to a mail in place of "250 OK"; what stands in
DIRECTORY/recipients, to its recipients.
"""

import asyncio
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

PORT, HOW, DIRECTORY, CA, CERTIFICATE, KEY, USER, PASSWORD = sys.argv[1:]
DIRECTORY = pathlib.Path(DIRECTORY)
EXPECTED = LoginPassword(USER.encode(), PASSWORD.encode())


def told(name):
    file = DIRECTORY / name
    return file.read_text().strip() if file.exists() else "250 OK"


class Keeper:
    count = 0

    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = told("recipients")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server, session, envelope):
        answer = told("answer")
        if answer.startswith("250"):
            Keeper.count += 1
            envelope_line = f"{envelope.mail_from} {' '.join(envelope.rcpt_tos)}\n".encode()
            part = DIRECTORY / "part"
            part.write_bytes(envelope_line + envelope.content)
            part.rename(DIRECTORY / f"{session.peer[1]}-{Keeper.count}.mail")
        return answer


def authenticate(server, session, envelope, mechanism, login):
    return AuthResult(success=login == EXPECTED)


async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=CA)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(CERTIFICATE, KEY)
    implicit = HOW == "tls"

    def session():
        return SMTP(
            Keeper(),
            hostname="mail.test",
            authenticator=authenticate,
            auth_required=True,
            # aiosmtpd knows only of the TLS that it has begun itself.
            auth_require_tls=not implicit,
            require_starttls=not implicit,
            tls_context=None if implicit else context,
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(session, "127.0.0.1", int(PORT), ssl=context if implicit else None)
    await server.serve_forever()


asyncio.run(main())
