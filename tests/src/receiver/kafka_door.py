"""The door to a broker of Kafka: TLS, and who comes shows a certificate, or logs in by SASL.

Usage: kafka_door.py HOST:PORT BROKER CA CERTIFICATE KEY [MECHANISM USER PASSWORD]

With a login nothing but the question for versions passes before it, no other mechanism is taken, and whoever fails is sent
away, as https://kafka.apache.org/protocol.html#sasl_handshake has it.
"""

import asyncio
import ssl
import struct
import sys

from scramp import ScramException, ScramMechanism

HERE, BROKER, CA, CERTIFICATE, KEY, *LOGIN = sys.argv[1:]
HANDSHAKE, VERSIONS, AUTHENTICATE = 17, 18, 36
UNSUPPORTED_MECHANISM, FAILED = 33, 58


def place(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


class Refused(Exception):
    pass


class Login:
    """Whoever comes proves to know the password."""

    def __init__(self, mechanism, user, password):
        self.mechanism, self.user, self.password = mechanism, user, password
        self.server, self.done = None, False
        if mechanism != "PLAIN":
            scram = ScramMechanism(mechanism)
            self.server = scram.make_server(self.credential(scram))

    def credential(self, scram):
        known = scram.make_auth_info(self.password)

        def find(user):
            if user != self.user:
                raise ScramException("unknown user")
            return known

        return find

    def step(self, said):
        """What is answered to the next thing that is said."""
        if self.server is None:
            # Whom one speaks for is nobody else than oneself.
            speaks_for, user, password = said.decode().split("\0")
            self.done = speaks_for in ("", self.user) and (user, password) == (self.user, self.password)
            if not self.done:
                raise Refused
            return b""
        try:
            if self.server.stage is None:
                self.server.set_client_first(said.decode())
                return self.server.get_server_first().encode()
            self.server.set_client_final(said.decode())
            self.done = True
            return self.server.get_server_final().encode()
        except ScramException as error:
            raise Refused from error


async def read(stream):
    (length,) = struct.unpack(">i", await stream.readexactly(4))
    return await stream.readexactly(length)


def write(stream, message):
    stream.write(struct.pack(">i", len(message)) + message)


def body(request, version):
    """What follows the request's header; that of SaslAuthenticate has tags from version 2 on."""
    (client,) = struct.unpack_from(">h", request, 8)
    rest = request[10 + max(client, 0) :]
    return rest[1:] if version >= 2 else rest


def shook(request, login):
    (length,) = struct.unpack_from(">h", body(request, 0))
    wanted = body(request, 0)[2 : 2 + length].decode()
    error = 0 if wanted == login.mechanism else UNSUPPORTED_MECHANISM
    name = login.mechanism.encode()
    return error, struct.pack(">hih", error, 1, len(name)) + name


def authenticated(request, version, login):
    rest = body(request, version)
    if version >= 2:
        # Not longer than two bytes of seven bits.
        length, start = (rest[0], 1) if rest[0] < 128 else (rest[0] & 127 | rest[1] << 7, 2)
        said = rest[start : start + length - 1]
    else:
        (length,) = struct.unpack_from(">i", rest)
        said = rest[4 : 4 + length]
    try:
        error, answer = 0, login.step(said)
    except Refused:
        error, answer = FAILED, b""
    why = b"Authentication failed" if error else b""
    if version >= 2:
        assert len(answer) < 16383
        long = len(answer) + 1
        size = bytes([long]) if long < 128 else bytes([long & 127 | 128, long >> 7])
        return error, b"\0" + struct.pack(">h", error) + bytes([len(why) + 1]) + why + size + answer + struct.pack(">q", 0) + b"\0"
    lifetime = struct.pack(">q", 0) if version == 1 else b""
    return error, struct.pack(">hh", error, len(why)) + why + struct.pack(">i", len(answer)) + answer + lifetime


async def carry(source, sink):
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()


async def admit(client, broker, login):
    """Until the client has logged in."""
    (to_client, from_client), (to_broker, from_broker) = client, broker
    greeted = False
    while not login.done:
        request = await read(from_client)
        key, version = struct.unpack_from(">hh", request)
        if key == VERSIONS:
            write(to_broker, request)
            write(to_client, await read(from_broker))
        elif key == HANDSHAKE or (key == AUTHENTICATE and greeted):
            error, answer = shook(request, login) if key == HANDSHAKE else authenticated(request, version, login)
            greeted = error == 0
            write(to_client, request[4:8] + answer)
            await to_client.drain()
            if error:
                raise Refused
        else:
            raise Refused


async def serve(from_client, to_client):
    try:
        from_broker, to_broker = await asyncio.open_connection(*place(BROKER))
        try:
            if LOGIN:
                await admit((to_client, from_client), (to_broker, from_broker), Login(*LOGIN))
            await asyncio.wait(
                [asyncio.create_task(carry(*way)) for way in ((from_client, to_broker), (from_broker, to_client))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            to_broker.close()
    except (Refused, OSError, asyncio.IncompleteReadError) as error:
        print("refused:", repr(error), file=sys.stderr, flush=True)
    finally:
        to_client.close()


async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=CA)
    context.verify_mode = ssl.CERT_NONE if LOGIN else ssl.CERT_REQUIRED
    context.load_cert_chain(CERTIFICATE, KEY)
    host, port = place(HERE)
    server = await asyncio.start_server(serve, host, port, ssl=context)
    await server.serve_forever()


asyncio.run(main())
