"""`mqttprov doctor`: it says that all is right where it is, and finds what is wrong where it is not."""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.command import Result, Served, mqttprov

from mqttprov.admin import Admin
from mqttprov.brokers.doctor.eavesdropper import EVERYTHING, Eavesdropper
from mqttprov.brokers.doctor.finding import Verdict
from mqttprov.brokers.doctor.probe import Address, Probe
from mqttprov.core.model import LifecycleState
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
START_TIMEOUT_S = 30.0


def verdicts(result: Result) -> dict[str, str]:
    """Give the verdict of each check."""
    return {row["check"]: row["verdict"] for row in result.data["findings"]}


def seen(result: Result, check: str) -> str:
    """Give what was seen by one check."""
    return str(next(row["seen"] for row in result.data["findings"] if row["check"] == check))


def doctor(port: int, *arguments: str) -> Result:
    """Examine a broker of this machine."""
    return mqttprov("doctor", "--broker", f"mqtt://127.0.0.1:{port}", "--json", *arguments)


def test_everything_is_right_with_our_own_broker(served: Served) -> None:
    """All that can be checked is checked, and what was made for it is ended again (P3, P7)."""
    result = doctor(served.port, "--state", str(served.state))
    assert (result.status, set(verdicts(result).values())) == (0, {"right"}), result.out
    assert {"private replies", "private credentials", "devices", "suspended", "nodelay"} <= set(verdicts(result))
    with Admin(served.state) as admin:
        made = [device for device in admin.devices() if device.name.startswith("doctor-")]
        assert {device.state for device in made} == {LifecycleState.DECOMMISSIONED}
        assert all(token.revoked_ms is not None for token in admin.tokens() if token.name.startswith("doctor-"))


def test_people_get_a_table(served: Served) -> None:
    """One row for each check, in columns."""
    result = mqttprov("doctor", "--broker", f"mqtt://127.0.0.1:{served.port}")
    heading, *rows = result.out.splitlines()
    assert heading.split() == ["CHECK", "RESULT", "SEEN"]
    assert any(row.startswith("private replies  right ") for row in rows)
    assert result.err == "nothing is wrong\n"


def test_without_the_state_directory_it_says_what_it_did_not_check(served: Served) -> None:
    """From another machine no device can be made and no file looked at."""
    result = doctor(served.port)
    found = verdicts(result)
    assert (result.status, found["devices"], found["file modes"]) == (0, "not checked", "not checked")
    assert found["private replies"] == "right"


def test_a_broker_that_is_not_there_is_wrong() -> None:
    """It says so in a row, and looks at the rest."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = doctor(unused.getsockname()[1])
    assert (result.status, verdicts(result)["broker"], verdicts(result)["versions"]) == (7, "wrong", "right")


def test_another_state_directory_is_found_out(served: Served, state: Path) -> None:
    """A token of this directory is unknown to a responder that works on another one."""
    result = doctor(served.port, "--state", str(state))
    assert (result.status, verdicts(result)["devices"]) == (7, "wrong")
    assert "does the responder use another one?" in seen(result, "devices")


def test_files_that_others_may_read_are_found(served: Served) -> None:
    """The command that repairs it is told."""
    database = served.state / "mqttprov.db"
    database.chmod(0o664)
    try:
        result = doctor(served.port, "--state", str(served.state))
    finally:
        database.chmod(0o600)
    assert (result.status, verdicts(result)["file modes"]) == (7, "wrong")
    assert f"chmod 640 {database}" in seen(result, "file modes")


@pytest.mark.parametrize("url", ["127.0.0.1:1883", "http://127.0.0.1", "mqtt://", "mqtt://h:99999"])
def test_what_is_no_broker_is_a_usage_error(url: str) -> None:
    """One line, with the form that is meant."""
    result = mqttprov("doctor", "--broker", url)
    assert (result.status, result.err.count("\n")) == (2, 1)


def test_a_listener_that_was_cut_off_has_seen_nothing(served: Served, tmp_path: Path) -> None:
    """Silence counts only while somebody listens: an ended session must not pass for isolation."""
    token = tmp_path / "token"
    token.write_text("eavesdropper-token")
    options = ["--device-name", "eavesdropper", "--token-file", str(token)]
    assert mqttprov("request", *served.at(), *options).status == 0
    with Eavesdropper(Address("127.0.0.1", served.port), "eavesdropper-token", EVERYTHING) as listening:
        assert mqttprov("device", "suspend", "eavesdropper", "--state", str(served.state)).status == 0
        assert listening.judge("private replies").verdict is Verdict.WRONG
    assert mqttprov("device", "decommission", "eavesdropper", "--yes", "--state", str(served.state)).status == 0


# --- a broker that keeps nothing apart ---


@contextlib.contextmanager
def open_broker(folder: Path) -> Iterator[int]:
    """Run Mosquitto as it must not be: without the gate, for everybody, and with Nagle's algorithm."""
    assert MOSQUITTO is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = folder / "open.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n")
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline_s
                time.sleep(0.02)  # there is nothing else to wait for
        yield port
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def naive_responder(port: int) -> Iterator[None]:
    """Answer on the topic that all devices share, as a responder does that trusts in the broker's routing."""
    stop = threading.Event()
    with Probe(Address("127.0.0.1", port), username="responder") as probe:
        assert probe.subscribe([REQUEST_TOPIC]) == [REQUEST_TOPIC]

        def answer() -> None:
            answered = 0
            while not stop.is_set():
                requests = probe.listen(0.002)
                for _ in requests[answered:]:
                    probe.publish(RESPONSE_TOPIC, b'{"status":"NOT_FOUND"}')
                answered = len(requests)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.mark.skipif(MOSQUITTO is None and not os.environ.get("CI"), reason="apt-get install mosquitto")
def test_a_broker_that_tells_everybody_is_found_out(tmp_path: Path) -> None:
    """Shared replies, open doors and held-up replies are seen for what they are."""
    with open_broker(tmp_path) as port, naive_responder(port):
        result = doctor(port)
    found = verdicts(result)
    assert result.status == 7
    assert (found["logins"], found["private replies"], found["nodelay"]) == ("wrong", "wrong", "wrong"), result.out
    assert RESPONSE_TOPIC in seen(result, "private replies")
    assert "set_tcp_nodelay" in seen(result, "nodelay")


@pytest.mark.skipif(MOSQUITTO is None and not os.environ.get("CI"), reason="apt-get install mosquitto")
def test_a_broker_without_responder_is_found_out(tmp_path: Path) -> None:
    """Without a reply nothing can be said about replies."""
    with open_broker(tmp_path) as port:
        result = doctor(port)
    assert (result.status, verdicts(result)["responder"]) == (7, "wrong")
    assert verdicts(result)["private replies"] == "not checked"
