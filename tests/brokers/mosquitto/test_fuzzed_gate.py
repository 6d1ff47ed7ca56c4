"""The gate under AddressSanitizer and UBSan, in a real Mosquitto, against clients and commands of all kinds.

MQTTPROV_FUZZ_S and MQTTPROV_FUZZ_SEED make it longer and different.
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.brokers.harness import ACTOR, new_state
from tests.brokers.mosquitto.beside import GATE, Mosquitto, make_devices
from tests.brokers.mosquitto.fuzzer import Fuzzer

from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.model import OperatorRole, Profile
from mqttprov.responder.state_directory import StateDirectory

SECONDS = float(os.environ.get("MQTTPROV_FUZZ_S", "15"))
SEED = int(os.environ.get("MQTTPROV_FUZZ_SEED", "1"))
LIBRARIES = ("libasan.so", "libubsan.so")


@pytest.fixture(scope="module")
def sanitized(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the gate with the sanitizers; `plugin` tells whether there is all that it takes."""
    folder = tmp_path_factory.mktemp("sanitized")
    subprocess.run(
        ["make", "-C", str(GATE), f"BUILD={folder}", "SANITIZE=1"], check=True, capture_output=True, timeout=120
    )
    return folder / "mqttprov_gate.so"


def environment() -> tuple[str, ...]:
    """Let the broker, which is built without them, carry the sanitizers' libraries."""
    found = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()
        for name in LIBRARIES
    ]
    return (
        f"LD_PRELOAD={':'.join(str(Path(path).resolve()) for path in found)}",
        "ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:detect_odr_violation=0:malloc_fill_byte=190:max_malloc_fill_size=65536",
        "UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1",
    )


@pytest.mark.timeout(SECONDS + 90)
async def test_the_gate_survives_whatever_comes(tmp_path: Path, sanitized: Path) -> None:
    """No sanitizer speaks, the broker lives, nothing of a reply or of the gate's own reaches a stranger (P3, P9)."""
    issued = new_state(tmp_path / "state")
    state = StateDirectory(tmp_path / "state")
    admin = state.administration(ACTOR, now_ms, os.urandom)
    nosy = admin.create_profile(Profile(0, "nosy", publish_topics=("%d/#",), subscribe_topics=("%d/#", "gw-1/+")))
    tokens = make_devices(state, issued, "gw-1", "gw-2", "gw-3") + make_devices(state, nosy, "provision1", "_prov")
    logins: list[tuple[str, str | None]] = [(token, None) for token in tokens]
    logins += [(f"{role}-1", admin.create_operator(f"{role}-1", role)) for role in OperatorRole]
    mosquitto = Mosquitto(tmp_path, tmp_path / "state", sanitized, environment=environment())
    await mosquitto.start()
    try:
        fuzzer = Fuzzer(mosquitto.port, logins, SEED)
        try:
            await fuzzer.run(SECONDS, lambda: mosquitto.signal(signal.SIGHUP))
        except* OSError:
            pytest.fail(mosquitto.log.read_text(errors="replace")[-6000:])
    finally:
        status = await mosquitto.end()
        state.close()
    log = mosquitto.log.read_text(errors="replace")
    assert "Sanitizer" not in log, log[-6000:]
    assert "runtime error" not in log, log[-6000:]
    assert status == 0
    assert fuzzer.strays == []
    assert fuzzer.answered > 0
    for token in tokens:
        assert token not in log
