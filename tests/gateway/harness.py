"""What the tests of the client share: a broker of a few lines, a gateway in a thread, a certificate authority."""

import contextlib
import datetime as dt
import ipaddress
import json
import queue
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mqttprov.gateway.actions import StateChanged
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.gateway.client import GatewayClient
from mqttprov.gateway.settings import GatewaySettings, SecretText

PATIENCE_S = 30.0
TOKEN_REPLY = b'{"credentialsValue":"token-1","credentialsType":"ACCESS_TOKEN","status":"SUCCESS"}'
BASIC_REPLY = (
    b'{"credentialsValue":{"clientId":"c1","userName":"u1","password":"p1"},'
    b'"credentialsType":"MQTT_BASIC","status":"SUCCESS"}'
)
X509_REPLY = b'{"credentialsValue":"MIIB","credentialsType":"X509_CERTIFICATE","status":"SUCCESS"}'
QUICK = MachineSettings(backoff_base_s=0.01, backoff_cap_s=0.02, heartbeat_s=None)


class Login(msgspec.Struct, frozen=True):
    """A CONNECT as the broker sees it; `peer_certificate` is DER."""

    version: int
    client_id: str
    username: str | None
    password: str | None
    keep_alive_s: int
    peer_certificate: bytes | None = None


class Message(msgspec.Struct, frozen=True):
    """A PUBLISH as the broker sees it."""

    topic: str
    payload: bytes
    qos: int


def success(kind: str, value: object) -> bytes:
    """A SUCCESS reply."""
    return json.dumps({"status": "SUCCESS", "credentialsType": kind, "credentialsValue": value}).encode()


def text(value: str) -> bytes:
    """An MQTT string."""
    return len(value).to_bytes(2, "big") + value.encode()


def packet(kind: int, body: bytes) -> bytes:
    """A packet of less than 16 KiB."""
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 127 | 128, len(body) >> 7])
    return bytes([kind]) + length + body


class Reader:
    """Takes a packet's body apart."""

    def __init__(self, body: bytes) -> None:
        self.body, self.at = body, 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self.at += count
        return self.body[self.at - count : self.at]

    def number(self, count: int = 2) -> int:
        """A big-endian number."""
        return int.from_bytes(self.take(count), "big")

    def text(self) -> str:
        """An MQTT string."""
        return self.take(self.number()).decode()

    def skip_properties(self, version: int) -> None:
        """MQTT 5 properties; those of these tests are shorter than 128 bytes."""
        if version == 5:
            self.take(self.number(1))


def publish_packet(topic: str, payload: bytes) -> bytes:
    """An MQTT 5 PUBLISH with QoS 0."""
    return packet(0x30, text(topic) + b"\0" + payload)


class Peer:
    """One connection within the broker, with a thread of its own."""

    def __init__(self, broker: "Broker", sock: socket.socket) -> None:
        self.broker, self.sock = broker, sock
        self.version = 4

    def serve(self) -> None:
        """Until the gateway or the test closes."""
        with contextlib.suppress(OSError, EOFError), self.sock:
            if self.broker.tls is not None:
                self.sock = self.broker.tls.wrap_socket(self.sock, server_side=True)
            with self.sock:
                while True:
                    kind, body = self.read_packet()
                    if kind >> 4 == 14:
                        return
                    self.handle(kind, Reader(body))

    def read_packet(self) -> tuple[int, bytes]:
        """Fixed header and body."""
        kind, length, shift = self.read(1)[0], 0, 0
        while True:
            byte = self.read(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return kind, self.read(length)

    def read(self, count: int) -> bytes:
        """Exactly that many bytes."""
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def send(self, kind: int, body: bytes) -> None:
        """Send one packet."""
        self.sock.sendall(packet(kind, body))

    def call(self, call_id: int, method: str) -> None:
        """Ask for a remote procedure."""
        self.publish(f"v1/devices/me/rpc/request/{call_id}", json.dumps({"method": method, "params": {}}).encode())

    def hang_up(self) -> None:
        """No more bytes from here."""
        self.sock.shutdown(socket.SHUT_WR)

    def publish(self, topic: str, payload: bytes) -> None:
        """PUBLISH with QoS 0."""
        self.send(0x30, text(topic) + (b"\0" if self.version == 5 else b"") + payload)

    def handle(self, kind: int, reader: Reader) -> None:
        """CONNECT, SUBSCRIBE, PUBLISH, PINGREQ; PUBACK needs no answer."""
        properties = b"\0" if self.version == 5 else b""
        match kind >> 4:
            case 1 if kind == 0x10:
                self.connect(reader)
            case 8:
                packet_id = reader.take(2)
                reader.skip_properties(self.version)
                granted = b""
                while reader.at < len(reader.body):
                    self.broker.subscriptions.put(reader.text())
                    granted += reader.take(1)
                self.send(0x90, packet_id + properties + granted)
                if self.version == 5 and self.broker.scripts:
                    self.broker.scripts.popleft()(self)
            case 3:
                topic, qos = reader.text(), kind >> 1 & 3
                packet_id = reader.take(2) if qos else b""
                reader.skip_properties(self.version)
                message = Message(topic, reader.body[reader.at :], qos)
                if qos:
                    self.sock.sendall(b"\x40\x02" + packet_id + self.broker.after_puback(message))
                self.broker.on_message(self, message)
                self.broker.messages.put(message)
            case 12:
                self.send(0xD0, b"")
            case 4:
                pass
            case _:
                raise EOFError

    def connect(self, reader: Reader) -> None:
        """CONNECT: ask the broker's rules, answer in the gateway's version."""
        reader.text()
        self.version = reader.number(1)
        flags, keep_alive_s = reader.number(1), reader.number()
        reader.skip_properties(self.version)
        client_id = reader.text()
        username = reader.text() if flags & 0x80 else None
        password = reader.text() if flags & 0x40 else None
        certificate = self.sock.getpeercert(binary_form=True) if isinstance(self.sock, ssl.SSLSocket) else None
        login = Login(self.version, client_id, username, password, keep_alive_s, certificate)
        code = self.broker.on_login(login)
        self.broker.peers.append(self)
        self.broker.logins.put(login)
        self.send(0x20, bytes([0, code, 0]) if self.version == 5 else bytes([0, 5 if code else 0]))
        if code:
            raise EOFError


class Broker:
    """Enough of an MQTT broker for one gateway; what happens is put into queues, so that a test can wait for it."""

    def __init__(self) -> None:
        self.tls: ssl.SSLContext | None = None
        self.logins: queue.Queue[Login] = queue.Queue()
        self.subscriptions: queue.Queue[str] = queue.Queue()
        self.messages: queue.Queue[Message] = queue.Queue()
        self.peers: list[Peer] = []
        self.reply = TOKEN_REPLY
        self.on_login: Callable[[Login], int] = lambda _: 0
        # What the broker does on the next operational connections once they have subscribed. The connection's thread
        # does it, because an SSLSocket does not stand two threads.
        self.scripts: deque[Callable[[Peer], None]] = deque()
        self.after_puback: Callable[[Message], bytes] = lambda _: b""  # goes into the same TCP segment and TLS record
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self._socks: list[socket.socket] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._socks.append(sock)
                thread = threading.Thread(target=Peer(self, sock).serve)
                self._threads.append(thread)
                thread.start()

    def on_message(self, peer: Peer, message: Message) -> None:
        """Answer provision requests."""
        if message.topic == "/provision/request":
            peer.publish("/provision/response", self.reply)

    def login(self) -> Login:
        """Wait for the next CONNECT."""
        return self.logins.get(timeout=PATIENCE_S)

    def message(self) -> Message:
        """Wait for the next PUBLISH."""
        return self.messages.get(timeout=PATIENCE_S)

    def close(self) -> None:
        """End all threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in (*self._socks, *(peer.sock for peer in self.peers)):
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown(): it drops the TLS layer, and the peer's thread would read ciphertext as MQTT.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


class Running:
    """A gateway that runs in a thread."""

    def __init__(
        self,
        settings: GatewaySettings,
        machine_settings: MachineSettings,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.changes: queue.Queue[StateChanged] = queue.Queue()
        self.seen: list[str] = []
        self.client = GatewayClient(
            settings, machine_settings=machine_settings, on_state=self.changes.put, wall_s=wall_s
        )
        self.thread = threading.Thread(target=self.client.run)
        self.thread.start()

    def until(self, state: str) -> StateChanged:
        """Wait for a state."""
        while True:
            change = self.changes.get(timeout=PATIENCE_S)
            self.seen.append(change.new)
            if change.new == state:
                return change

    def stop(self) -> None:
        """End it and wait for its thread."""
        self.client.stop()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


Start = Callable[..., Running]


def settings(directory: Path, port: int, **more: object) -> GatewaySettings:
    """Settings of a gateway of 127.0.0.1."""
    base = GatewaySettings(
        host="127.0.0.1",
        port=port,
        directory=directory,
        provision_key="KEY-1",
        provision_secret=SecretText("SECRET-1"),
        device_name="gw-1",
    )
    return msgspec.structs.replace(base, **more)


class Authority:
    """A CA and a server certificate for 127.0.0.1 made by it, as files."""

    def __init__(self, directory: Path, name: str) -> None:
        self.ca_file = directory / f"{name}-ca.pem"
        self.server_file = directory / f"{name}-server.pem"
        ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        ca = _certificate(issuer, issuer, ca_key, ca_key, x509.BasicConstraints(ca=True, path_length=0))
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        server = _certificate(subject, issuer, server_key, ca_key, address)
        pem = serialization.Encoding.PEM
        self.ca_file.write_bytes(ca.public_bytes(pem))
        key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.server_file.write_bytes(key + server.public_bytes(pem))

    def server_context(self) -> ssl.SSLContext:
        """For a broker."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.server_file)
        return context


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(extension, critical=False)
        .sign(signer, hashes.SHA256())
    )
