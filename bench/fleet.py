"""What operators wait for when a fleet is large: `python bench/fleet.py [DEVICES] [--certificates N]`.

Registration tokens by the thousand and the import of a list, as commands (processes of their own, with the memory that
they took); then pages of `device list` with that many devices, a median of 20 each. At most 100,000 devices are
imported, which is the default; further ones are copies of those, put into the database directly. With --certificates, N
more devices are imported with a factory certificate each.
"""

import argparse
import csv
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from mqttprov.admin import Admin, initialise, now_ms
from mqttprov.pki.authority import Authority
from mqttprov.responder.state_directory import StateDirectory

TOKENS = 5000
IMPORTED = 100_000
ROUNDS = 20
DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS


def write_list(path: Path, count: int) -> None:
    """Write a list of devices with owners and labels."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("name", "profile", "owner", "labels"))
        lines.writerows(
            (f"gw-{n:07}", "default", ("ACME", "plant-north")[n % 2], f"type=type{n % 3};site=s{n % 50}")
            for n in range(count)
        )


def write_certificates(path: Path, count: int) -> None:
    """Write a list of devices with a certificate each, of one factory."""
    factory = Authority.create("Factory", now_ms())
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("name", "profile", "certificate"))
        for n in range(count):
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"x-{n:07}")])
            key = ec.generate_private_key(ec.SECP256R1())
            request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
            pem = request.public_bytes(Encoding.PEM).decode()
            signed = factory.sign_device(pem, f"{n:032x}", f"x-{n:07}", os.urandom(16), now_ms())
            (path.parent / f"x-{n}.pem").write_text(signed.pem)
            lines.writerow((f"x-{n:07}", "default", f"x-{n}.pem"))


def command(what: str, *arguments: str) -> None:
    """Run a verb; say how long it took, and the memory that it took at most."""
    begin_s = time.perf_counter()
    process = os.posix_spawn(sys.executable, [sys.executable, "-m", "mqttprov", *arguments], os.environ)
    _, status, usage = os.wait4(process, 0)
    assert status == 0
    took_s, cpu_s = time.perf_counter() - begin_s, usage.ru_utime + usage.ru_stime
    print(f"{what:<40} {took_s:8.1f} s   CPU {cpu_s:6.1f} s   peak {usage.ru_maxrss / 1024:.0f} MB")


def asked(what: str, ask: Callable[[], Any]) -> None:
    """Say how long an answer takes."""
    times_ms = []
    for _ in range(ROUNDS):
        begin_s = time.perf_counter()
        ask()
        times_ms.append((time.perf_counter() - begin_s) * 1000)
    print(f"{what:<40} {statistics.median(times_ms):8.2f} ms")


def seen(path: Path, at_ms: int, condition: str = "1") -> None:
    """Let devices have been in use at a time."""
    with closing(sqlite3.connect(path / "mqttprov.db")) as database, database:
        database.execute(f"UPDATE device SET created_ms = 0, last_seen_ms = ? WHERE {condition}", (at_ms,))  # noqa: S608 - from below


def copy(path: Path, times: int) -> None:
    """Let there be so many times more devices; they come behind the others, and have no audit events."""
    with closing(sqlite3.connect(path / "mqttprov.db")) as database, database:
        database.execute("CREATE TEMP TABLE copied AS SELECT * FROM device")
        for _ in range(times):
            database.execute(
                "UPDATE copied SET id = printf('%02d', substr(id, 1, 2) + 1) || substr(id, 3), "
                "name = printf('gw-%07d', substr(name, 4) + ?1), fold = printf('gw-%07d', substr(name, 4) + ?1)",
                (IMPORTED,),
            )
            database.execute("INSERT INTO device SELECT * FROM copied")


def pages(path: Path, count: int) -> None:
    """Ask for pages of 100 devices."""
    with Admin(path, actor="bench") as admin:
        first = next(admin.devices())
        middle = next(admin.devices(after=admin.device(f"gw-{count // 2:07}").id, limit=1))
        asked("page of 100", lambda: list(admin.devices(limit=100)))
        asked("page of 100 in the middle", lambda: list(admin.devices(after=middle.id, limit=100)))
        labels = ["type=type1", "site!=s4"]
        asked("page of 100 with two labels", lambda: list(admin.devices(labels=labels, limit=100)))
        asked("page of 100 with labels and owner", lambda: list(admin.devices(labels=labels, owner="ACME", limit=100)))
        asked("one device by name", lambda: admin.device(first.name))
        for what, at_ms, condition in (
            ("page of 100 stale ones, all are", 1, "1"),
            ("page of 100 stale ones, 1 in 1,000 is", now_ms(), "substr(name, -3) <> '500'"),
            ("page of 100 stale ones, none is", now_ms(), "1"),
        ):
            seen(path, at_ms, condition)
            asked(what, lambda: list(admin.devices(unseen_for_ms=WEEK_MS, limit=100)))
        ids = [row.id for row in admin.devices(after=middle.id, limit=500)]
    state = StateDirectory(path)

    def note() -> None:
        with state.store.write() as transaction:
            transaction.mark_seen(ids, now_ms() + DAY_MS)

    asked("note that 500 are in use", note)
    state.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("devices", nargs="?", type=int, default=100_000)
    parser.add_argument("--certificates", type=int, default=0)
    given = parser.parse_args()
    count, certificates = min(given.devices, 1_000_000), min(given.certificates, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        path, devices = Path(folder) / "state", Path(folder) / "devices.csv"
        initialise(path, actor="bench")
        at = ("--state-dir", str(path))
        command(
            f"{TOKENS:,} single-use tokens",
            *("token", "create", "--count", str(TOKENS), "--max-registrations", "1"),
            *("--out", str(Path(folder) / "tokens.csv"), *at),
        )
        imported = min(count, IMPORTED)
        write_list(devices, imported)
        command(f"import of {imported:,} devices", "device", "import", str(devices), *at)
        copy(path, count // IMPORTED - 1)
        print(f"with {max(count // IMPORTED, 1) * imported:,} devices:")
        pages(path, count)
        if certificates:
            write_certificates(devices, certificates)
            command(f"import of {certificates:,} with certificates", "device", "import", str(devices), *at)


if __name__ == "__main__":
    main()
