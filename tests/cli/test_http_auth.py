"""The verb `http-auth`; that it answers is tested in tests/brokers/http_auth."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from tests.cli.command import mqttprov, start


def test_it_makes_the_secret_answers_and_ends_when_told(state: Path) -> None:
    """The first line of --json says where it listens and where the secret is, which is for its owner alone (P6)."""
    with start("http-auth", "--state", str(state), "--listen", "127.0.0.1:0", "--json") as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        file = Path(told["secretFile"])
        assert file.stat().st_mode & 0o777 == 0o600
        question = Request(f"{told['listening']}/{file.read_text().strip()}/rabbitmq/user", b"username=x")  # noqa: S310 - ours
        with urlopen(question, timeout=30) as answer:  # noqa: S310 - ours
            assert (answer.status, answer.read()) == (200, b"deny")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert file.read_text().strip() not in err


def test_it_keeps_the_secret(state: Path) -> None:
    """A restart changes nothing for brokers; a secret that is too short or for others to read is refused."""
    file = state / "keys" / "http-auth-secret"
    for content, mode, told in (("short", 0o600, "22 or more"), ("a" * 40, 0o644, "others may read it")):
        file.write_text(content)
        file.chmod(mode)
        result = mqttprov("http-auth", "--state", str(state), "--listen", "127.0.0.1:0")
        assert result.status == 6
        assert told in result.err
        assert content not in result.err
        assert file.read_text() == content


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--listen", "0.0.0.0:8088"], "--tls-certificate"),
        (["--listen", "broker.example:8088"], "--tls-certificate"),
        (["--listen", "8088"], "HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--tls-key", "key.pem"], "both"),
        (["--listen", "127.0.0.1:0", "--tls-key", "no.pem", "--tls-certificate", "no.pem"], "cannot be used"),
        (["--listen", "127.0.0.1:0", "--broker", "http://127.0.0.1"], "mqtt://HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--broker", "mqtt://10.0.0.1:1883"], "mqtts://"),
        (["--listen", "127.0.0.1:0", "--broker", "mqtts://b.example", "--broker-ca", "no.pem"], "not a CA certificate"),
    ],
)
def test_what_would_not_be_safe_or_make_no_sense_is_refused(state: Path, options: list[str], told: str) -> None:
    """Passwords leave the machine only over TLS, unless somebody insists (P6)."""
    result = mqttprov("http-auth", "--state", str(state), *options)
    assert result.status == 2
    assert told in result.err


def test_a_port_that_is_taken_is_told(state: Path, tmp_path: Path) -> None:
    """Exit status 6 and one line."""
    with start("http-auth", "--state", str(state), "--listen", "127.0.0.1:0", "--json") as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["listening"].removeprefix("http://")
        result = mqttprov("http-auth", "--state", str(state), "--listen", address)
        process.terminate()
        process.communicate(timeout=30)
    assert result.status == 6
    assert "cannot listen on" in result.err


def test_without_the_extra_it_says_what_to_install(state: Path) -> None:
    """Starlette and uvicorn are for those who need them."""
    program = (
        "import sys; sys.modules['uvicorn'] = None; from mqttprov.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    arguments = ["http-auth", "--state", str(state), "--listen", "127.0.0.1:0"]
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert "pip install 'mqttprov[http]'" in result.stderr
