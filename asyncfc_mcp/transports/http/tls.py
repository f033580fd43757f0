"""TLS under uvicorn's HTTP protocol, so that a connection has its limits from its first byte on.

Owns the handshake and the records of one connection. Leaves HTTP to `uvicorn_protocol`, and bounds to `connections`.
The event loop has TLS of its own, but presents a connection only after its handshake: until then it counts towards no
limit, and may take a minute. Here a connection counts once it is accepted, and its handshake is part of the time for
the first head.
"""

import logging
import ssl
from pathlib import Path
from typing import Any, Final

import anyio

from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.transports.http.connections import Connections
from asyncfc_mcp.transports.http.uvicorn_protocol import HttpProtocol

logger = logging.getLogger(__name__)

READ_BYTES: Final = 256 << 10
RENEW_S: Final = 10.0
"""Interval between two looks at the files of the certificate."""
WRITE_BYTES: Final = 256 << 10
"""Bytes that are encrypted in one step: a copy of each step is in memory."""


class UnusableCertificate(BridgeError):
    """The files of `--tls-cert` and `--tls-key` cannot be used.

    Args:
        fault: what is wrong, with the file.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(fault)


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS context of a server: TLS 1.2 and later, without renegotiation.

    Args:
        certificate: file in PEM with the certificate, and those of its intermediate authorities.
        key: file in PEM with the private key, which is not encrypted.

    Raises:
        UnusableCertificate: a file cannot be read, or the two do not fit together.
    """
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            text = path.read_bytes()
        except OSError as exc:
            raise UnusableCertificate(f"{option}: {path} cannot be read: {exc.strerror}") from None
        wanted = b"CERTIFICATE-----" if option == "--tls-cert" else b"PRIVATE KEY-----"
        if wanted not in text:
            what = "certificate" if option == "--tls-cert" else "private key"
            raise UnusableCertificate(f"{option}: {path} contains no {what} in PEM")
        if option == "--tls-key" and b"ENCRYPTED" in text:
            raise UnusableCertificate(f"{option}: {path} is encrypted; the bridge cannot ask for its password")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise UnusableCertificate(
                f"--tls-key: {key} is not the key of the first certificate in {certificate}"
            ) from None
        reason = (exc.reason or "invalid").lower().replace("_", " ")
        raise UnusableCertificate(f"--tls-cert: {certificate} and {key} cannot be used: {reason}") from None
    return context


async def renew(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Use the files anew whenever they have changed, until cancelled. Connections that are open keep what they have,
    and files that do not fit together change nothing: they may be about to be replaced one after the other."""
    used = _versions(certificate, key)
    while True:
        await anyio.sleep(RENEW_S)
        found = _versions(certificate, key)
        if found == used:
            continue
        used = found
        try:
            server_context(certificate, key)  # a chain that cannot be loaded would leave the context without one
            context.load_cert_chain(certificate, key, password=lambda: b"")
        except (UnusableCertificate, ssl.SSLError, OSError) as exc:
            logger.error("the certificate was not renewed, and the one before is still used: %s", exc)
        else:
            logger.info("the certificate was renewed")


def _versions(*paths: Path) -> tuple[object, ...]:
    """Return what changes with the content of files."""
    found: list[object] = []
    for path in paths:
        try:
            state = path.stat()
            found.append((state.st_mtime_ns, state.st_size, state.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)


class TlsTransport:
    """Transport that encrypts what is written to another one.

    Args:
        raw: transport of the socket.
    """

    def __init__(self, raw: Any, context: ssl.SSLContext) -> None:
        self._raw, self._context = raw, context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._established = False
        self._early: list[bytes] = []
        """Text written before the end of the handshake."""
        self._closing = False

    def received(self, data: bytes) -> bytes:
        """Return the text in received records; empty while the handshake lasts."""
        if self._raw.is_closing():
            return b""
        self._incoming.write(data)
        parts: list[bytes] = []
        ended = False
        try:
            if not self._established:
                self._object.do_handshake()
                self._established = True
                early, self._early = self._early, []
                for each in early:
                    self.write(each)
            while part := self._object.read(READ_BYTES):
                parts.append(part)
            ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            # Not TLS, no version in common, or an end without a last record; the alert for it is in the buffer.
            logger.debug("closed a TLS connection: %s", exc.reason)
            ended = True
        self._flush()
        text = parts[0] if len(parts) == 1 else b"".join(parts)
        if ended:
            self.close()
        return text

    def write(self, data: bytes) -> None:
        if not self._established:
            self._early.append(bytes(data))
            return
        if self._raw.is_closing():
            return
        view = memoryview(data)
        while view:
            try:
                view = view[self._object.write(view[:WRITE_BYTES]) :]
            except ssl.SSLError as exc:  # the client has ended the session
                logger.debug("closed a TLS connection: %s", exc.reason)
                self._raw.abort()
                return
            self._flush()

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._established:
            try:
                self._object.unwrap()  # writes our last record, and would then read the client's
            except ssl.SSLError:
                pass
            self._flush()
        self._raw.close()

    def abort(self) -> None:
        self._closing = True
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "sslcontext":
                return self._context
            case "ssl_object":
                return self._object
            case _:
                return self._raw.get_extra_info(name, default)


class TlsHttpProtocol(HttpProtocol):
    """One connection with TLS.

    Args:
        context: see `server_context`.
        connections: see `HttpProtocol`.
        more: further arguments of `HttpProtocol`.
    """

    def __init__(self, context: ssl.SSLContext, connections: Connections | None = None, **more: Any) -> None:
        super().__init__(connections, **more)
        self._context = context
        self._tls: TlsTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._tls = TlsTransport(transport, self._context)
        super().connection_made(self._tls)

    def data_received(self, data: bytes) -> None:
        """Called by the transport of the socket."""
        assert self._tls is not None
        if text := self._tls.received(data):
            super().data_received(text)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._tls = None
