"""The doorbell between a command and the brokers that run: who is waited for, and what the person is told."""

import socket
import threading
from pathlib import Path

import pytest

from mqttprov.responder import doorbell
from mqttprov.responder.doorbell import BrokerSilent


def answer(bell: socket.socket, text: bytes, heard: list[bytes]) -> threading.Thread:
    """Answer the next caller in a thread."""

    def run() -> None:
        line = b""
        while not line:  # a new broker looks who is there, and says nothing
            caller, _ = bell.accept()
            with caller:
                line = caller.recv(doorbell.MAX_LINE_BYTES)
                if line:
                    caller.sendall(text)
        heard.append(line)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_without_a_broker_nobody_is_waited_for(tmp_path: Path) -> None:
    """No folder, an empty one, and one that a killed broker left its doorbell in."""
    assert doorbell.ring(tmp_path, 7, 0.0) == 0
    doorbell.bind(tmp_path, "killed").close()
    assert list((tmp_path / "run").iterdir()) != []
    assert doorbell.ring(tmp_path, 7, 0.0) == 0


def test_a_new_broker_removes_what_killed_ones_left(tmp_path: Path) -> None:
    """And leaves the doorbells of running ones alone."""
    doorbell.bind(tmp_path, "killed").close()
    with doorbell.bind(tmp_path, "running"), doorbell.bind(tmp_path, "new"):
        assert sorted(p.stem for p in (tmp_path / "run").iterdir()) == ["new", "running"]


def test_every_broker_is_told_the_place_and_confirms(tmp_path: Path) -> None:
    """All are rung before the first is waited for (P7)."""
    heard: list[bytes] = []
    with doorbell.bind(tmp_path, "a") as a, doorbell.bind(tmp_path, "b") as b:
        threads = [answer(bell, doorbell.DONE, heard) for bell in (a, b)]
        assert doorbell.ring(tmp_path, 123, 10.0) == 2
        for thread in threads:
            thread.join()
    assert heard == [b"123\n"] * 2


def test_a_broker_that_ends_meanwhile_has_no_sessions_left(tmp_path: Path) -> None:
    """A closed connection is no answer and no error."""
    with doorbell.bind(tmp_path, "a") as bell:
        thread = answer(bell, b"", [])
        assert doorbell.ring(tmp_path, 1, 10.0) == 0
        thread.join()


@pytest.mark.parametrize(("text", "timeout_s", "said"), [(b"failed\n", 10.0, "cannot read"), (None, 0.0, "in time")])
def test_a_broker_that_does_not_confirm_is_told_to_the_person(
    tmp_path: Path, text: bytes | None, timeout_s: float, said: str
) -> None:
    """The change is committed all the same, and the error says so (P7)."""
    with doorbell.bind(tmp_path, "a") as bell:
        thread = answer(bell, text, []) if text else None
        with pytest.raises(BrokerSilent, match=f"it is committed.*{said}"):
            doorbell.ring(tmp_path, 1, timeout_s)
        if thread:
            thread.join()


def test_a_state_directory_may_lie_deep(tmp_path: Path) -> None:
    """The address of a Unix socket is short (unix(7)), the path of a state directory need not be."""
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    with doorbell.bind(deep, "a") as bell:
        thread = answer(bell, doorbell.DONE, [])
        assert doorbell.ring(deep, 1, 10.0) == 1
        thread.join()
        doorbell.unbind(deep, "a")
    assert list((deep / "run").iterdir()) == []
