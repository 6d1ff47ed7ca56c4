"""The command, in this process and as a process of its own, and a broker that it serves."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.cli.command import Served, command, mqttprov, start


@pytest.fixture(autouse=True)
def _no_state_of_the_person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the tests out of the state directory of whoever runs them."""
    monkeypatch.delenv("MQTTPROV_STATE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Give an initialised state directory."""
    path = tmp_path / "state"
    assert mqttprov("init", "--state", str(path), "--json").status == 0
    return path


@pytest.fixture
def cli(state: Path) -> Callable[..., object]:
    """Run verbs on the state directory."""
    return lambda *arguments: mqttprov(*arguments, "--state-dir", str(state))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a state directory in a process of its own, on a free port."""
    folder = tmp_path_factory.mktemp("served")
    state = folder / "state"
    made = subprocess.run(command("init", "--state", str(state), "--json"), check=True, capture_output=True)
    told = msgspec.json.decode(made.stdout)
    secret_file = folder / "secret"
    secret_file.write_text(told["provisionDeviceSecret"] + "\n")
    with start("serve", "--state", str(state), "--port", "0", "--json") as process:
        assert process.stdout is not None
        (url,) = msgspec.json.decode(process.stdout.readline())["listening"]
        try:
            yield Served(state, int(url.rsplit(":", 1)[1]), told["provisionDeviceKey"], secret_file)
        finally:
            process.terminate()
            assert process.wait(30) == 0
