"""What client certificates of a fleet cost a broker with TLS: `python bench/trust.py [FLEET ...]`, at most 100,000.

A fleet is imported with self-signed factory certificates that all have one subject, as the vendor's gateways make them.
Then a broker in a process of its own: its start, registrations of further certificates (field `hash`, plain listener)
and logins with those, each on a new connection (TLS 1.3), one after another. Beside them logins with an access token
over TLS, for what the certificate adds. CPU is the broker's process.
"""

import json
import multiprocessing
import os
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mqttprov.mqtt import ClientSession, Connect, Connected, MessageReceived, ProtocolVersion
from mqttprov.pki.inspect import inspect_certificate
from mqttprov.responder.administration import IssuedToken
from mqttprov.responder.device_import import ImportLine
from mqttprov.responder.state_directory import StateDirectory, initialise

DEVICES = 200
STARTS = 3
SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])


def now_ms() -> int:
    """Give the wall clock."""
    return time.time_ns() // 1_000_000


def own_certificate(_: int) -> tuple[str, str]:
    """Make a certificate as a gateway does, and its private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(SUBJECT, SUBJECT, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM).decode(), private.decode()


def lines(count: int) -> Iterator[ImportLine]:
    """Give a list of devices, with what reading it from a file looks into."""
    with multiprocessing.Pool(2) as pool:
        made = pool.imap(own_certificate, range(count), chunksize=200)
        for number, (pem, _) in enumerate(made):
            key = inspect_certificate(pem, now_ms()).public_key
            yield ImportLine(number + 2, f"made-{number}", "default", factory_key=key)


def serve(state: Path) -> tuple[subprocess.Popen[str], int, int, float]:
    """Start a broker; give its process, its ports and how long it took to listen."""
    command = [sys.executable, "-m", "mqttprov", "serve", "--state", str(state)]
    begin_s = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--port", "0", "--tls-port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    urls = json.loads(process.stdout.readline())["listening"]
    took_s = time.perf_counter() - begin_s
    plain, secure = (int(url.rsplit(":", 1)[1]) for url in urls)
    return process, plain, secure, took_s


def stop(process: subprocess.Popen[str]) -> None:
    """End a broker."""
    process.terminate()
    process.communicate(timeout=60)


def cpu_s(process: subprocess.Popen[str]) -> float:
    """Give the CPU time that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(process: subprocess.Popen[str]) -> float:
    """Give the memory that a process holds."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def come_to_rest(process: subprocess.Popen[str]) -> None:
    """Wait until the broker has published what came before it."""
    before = -1.0
    while (now := cpu_s(process)) - before > 0.05:
        before = now
        time.sleep(1)


def receive(sock: socket.socket, session: ClientSession, kind: type) -> object:
    """Read until there is an event of this kind."""
    while True:
        for event in session.receive(sock.recv(8192)):
            if isinstance(event, kind):
                return event


def login(port: int, context: ssl.SSLContext, username: str | None) -> None:
    """Connect by TLS, log in, and go."""
    session = ClientSession(Connect("", version=ProtocolVersion.V5, username=username))
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            sock.sendall(session.take_output())
            receive(sock, session, Connected)


def register(port: int, token: IssuedToken, devices: Mapping[str, str | None]) -> dict[str, str]:
    """Register devices on one provisioning session, with a certificate of their own or without; give what they got."""
    session = ClientSession(Connect("", version=ProtocolVersion.V5, username="provision"))
    got = {}
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(session.take_output())
        receive(sock, session, Connected)
        session.subscribe([("/provision/response", 0)])
        for name, pem in devices.items():
            fields = {"deviceName": name, "provisionDeviceKey": token.key, "provisionDeviceSecret": token.secret}
            if pem is not None:
                fields |= {"credentialsType": "X509_CERTIFICATE", "hash": pem}
            session.publish("/provision/request", json.dumps(fields).encode(), 0)
            sock.sendall(session.take_output())
            reply = receive(sock, session, MessageReceived)
            assert isinstance(reply, MessageReceived)
            answer = json.loads(reply.publish.payload)
            assert answer["status"] == "SUCCESS", answer
            got[name] = answer["credentialsValue"]
    return got


def contexts(folder: Path, authority: Path, certificates: list[tuple[str, str]]) -> list[ssl.SSLContext]:
    """Give the TLS contexts of devices."""
    made = []
    for pem, key in certificates:
        (folder / "device.pem").write_text(pem + key)
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(folder / "device.pem")
        made.append(context)
    return made


def told(what: str, process: subprocess.Popen[str], tasks: Sequence[Callable[[], object]]) -> None:
    """Do it once each, and say what one took."""
    took, begin_cpu_s = [], cpu_s(process)
    for task in tasks:
        begin_s = time.perf_counter()
        task()
        took.append((time.perf_counter() - begin_s) * 1000)
    used_ms = (cpu_s(process) - begin_cpu_s) * 1000 / len(tasks)
    worst = sorted(took)[len(took) * 99 // 100]
    print(f"  {what:<34} p50 {statistics.median(took):6.2f} ms   p99 {worst:6.2f} ms   broker {used_ms:5.2f} ms of CPU")


def measure(fleet: int, folder: Path) -> None:
    """Say all of one size."""
    state = folder / "state"
    token = initialise(state, actor="cli:bench", now_ms=now_ms, entropy=os.urandom)
    assert token is not None
    begin_s = time.perf_counter()
    directory = StateDirectory(state)
    directory.administration("cli:bench", now_ms, os.urandom).import_devices(lines(fleet), tell_fault=print)
    directory.close()
    print(f"{fleet:,} certificates of one subject (made and imported in {time.perf_counter() - begin_s:.0f} s)")
    starts = []
    for last in (*(False,) * (STARTS - 1), True):
        process, plain, secure, took_s = serve(state)
        starts.append(took_s)
        come_to_rest(process)
        if not last:
            stop(process)
    print(f"  process start to listening {statistics.median(starts):.2f} s, {memory_mb(process):.0f} MB")
    own = [own_certificate(n) for n in range(DEVICES)]
    shown = contexts(folder, state / "authority.pem", own)
    wishes = [{f"gw-{n}": pem} for n, (pem, _) in enumerate(own)]
    told("registration with a certificate", process, [partial(register, plain, token, wish) for wish in wishes])
    told("first login with a certificate", process, [partial(login, secure, context, None) for context in shown])
    told("login with a certificate", process, [partial(login, secure, context, None) for context in shown])
    access = register(plain, token, {f"by-token-{n}": None for n in range(DEVICES)})
    anonymous = ssl.create_default_context(cafile=state / "authority.pem")
    for value in access.values():
        login(secure, anonymous, value)
    told("login with an access token", process, [partial(login, secure, anonymous, value) for value in access.values()])
    stop(process)


def main() -> None:
    """Measure."""
    for fleet in [int(text) for text in sys.argv[1:]] or [0, 1_000, 100_000]:
        with tempfile.TemporaryDirectory() as folder:
            measure(min(fleet, 100_000), Path(folder))


if __name__ == "__main__":
    main()
