"""The verbs that talk to a broker: serve, request, gateway, simulate, demo."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.cli.command import Served, command, mqttprov, start

from mqttprov.cli import request
from mqttprov.cli.errors import Failure
from mqttprov.cli.serve import safe_ports
from mqttprov.responder.state_directory import ServeSettings

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - nothing is bound to it here


class TestServe:
    """`serve`."""

    def test_ends_cleanly_when_it_is_told_to(self, state: Path) -> None:
        """The first line of --json says where it listens; SIGTERM ends it with 0."""
        options = ["--port", "0", "--tls-port", "0", "--ws-port", "0", "--wss-port", "0"]
        with start("serve", "--state", str(state), *options, "--json") as process:
            assert process.stdout is not None
            urls = json.loads(process.stdout.readline())["listening"]
            forms = [r"mqtt://127\.0\.0\.1:\d+", r"ws://127\.0\.0\.1:\d+/mqtt", r"mqtts://127\.0\.0\.1:\d+"]
            forms.append(r"wss://127\.0\.0\.1:\d+/mqtt")
            assert all(re.fullmatch(form, url) for form, url in zip(forms, urls, strict=True))
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "")
        assert all(f"listening on {url}" in err for url in urls)
        assert "Traceback" not in err

    def test_takes_its_defaults_from_the_settings(self, state: Path) -> None:
        """mqttprov.toml says where to listen; options win."""
        (state / "mqttprov.toml").write_text('[serve]\nhost = "localhost"\nport = 0\ntls_port = 0\nws_port = 0\n')
        with start("serve", "--state", str(state), "--host", "127.0.0.1", "--json") as process:
            assert process.stdout is not None
            urls = json.loads(process.stdout.readline())["listening"]
            process.terminate()
            assert process.wait(30) == 0
        assert [url.rsplit(":", 1)[0] for url in urls] == ["mqtt://127.0.0.1", "ws://127.0.0.1", "mqtts://127.0.0.1"]

    def test_a_port_that_is_taken_is_told(self, served: Served, state: Path) -> None:
        """Exit status 6 and one line."""
        result = mqttprov("serve", "--state", str(state), "--port", str(served.port))
        assert (result.status, result.out) == (6, "")
        assert "cannot listen on 127.0.0.1" in result.err

    @pytest.mark.parametrize(
        ("host", "tls_port", "wss_port", "insecure", "plain"),
        [
            ("127.0.0.1", None, None, False, True),
            ("127.8.9.1", 8883, None, False, True),
            ("::1", None, None, False, True),
            ("localhost", None, None, False, True),
            (ANY_ADDRESS, 8883, None, False, False),
            ("10.0.0.1", 8883, None, False, False),
            ("10.0.0.1", None, 8084, False, False),
            ("10.0.0.1", 8883, None, True, True),
            (ANY_ADDRESS, None, None, True, True),
        ],
    )
    def test_secrets_leave_the_machine_only_over_tls(
        self, host: str, tls_port: int | None, wss_port: int | None, insecure: bool, plain: bool
    ) -> None:
        """Off loopback there is no plain listener unless somebody insists (P6)."""
        wished = ServeSettings(host, tls_port=tls_port, ws_port=8083, wss_port=wss_port)
        ports = safe_ports(wished, insecure=insecure)
        assert (ports.port, ports.ws_port) == ((1883, 8083) if plain else (None, None))
        assert (ports.tls_port, ports.wss_port) == (tls_port, wss_port)

    @pytest.mark.parametrize("host", [ANY_ADDRESS, "::", "10.0.0.1", "broker.example", ""])
    def test_off_loopback_it_wants_tls(self, host: str) -> None:
        """Without TLS it does not start (P6)."""
        with pytest.raises(Failure, match="--tls-port"):
            safe_ports(ServeSettings(host, ws_port=8083), insecure=False)


class TestRequest:
    """`request`."""

    def test_prints_the_reply_and_ends_with_its_status(self, served: Served) -> None:
        """SUCCESS is 0, FAILURE 1, NOT_FOUND 3; --json prints what came."""
        granted = mqttprov("request", *served.at(), "--device-name", "by-hand", "--json")
        assert (granted.status, granted.data["status"], granted.data["deviceName"]) == (0, "SUCCESS", "by-hand")
        pretty = mqttprov("request", *served.at(), "--device-name", "by-hand")
        assert pretty.data["credentialsValue"] == granted.data["credentialsValue"]
        assert len(pretty.out.splitlines()) > 5
        refused = mqttprov("request", *served.at(), "--device-name", "bad/name", "--json")
        assert (refused.status, refused.data["status"]) == (1, "FAILURE")
        unknown = mqttprov("request", *served.at()[:-3], "nobody", *served.at()[-2:], "--json")
        assert (unknown.status, unknown.data["status"]) == (3, "NOT_FOUND")

    def test_sends_what_the_device_brings(self, served: Served, tmp_path: Path) -> None:
        """Token, password, certificate and signing request come from files (P6)."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        (tmp_path / "csr").write_bytes(csr.public_bytes(serialization.Encoding.PEM))
        (tmp_path / "token").write_text("token-of-mine\n")
        (tmp_path / "password").write_text("password-of-mine\n")
        token = mqttprov("request", *served.at(), "--token-file", str(tmp_path / "token"), "--gateway", "--json").data
        assert (token["credentialsType"], token["credentialsValue"]) == ("ACCESS_TOKEN", "token-of-mine")
        listed = mqttprov("device", "show", token["deviceName"], "--state", str(served.state), "--json").data
        assert listed["gateway"] is True
        login = ["--username", "user", "--password-file", str(tmp_path / "password"), "--client-id", "box"]
        basic = mqttprov("request", *served.at(), *login, "--json").data
        assert basic["credentialsValue"] == {"clientId": "box", "userName": "user", "password": "password-of-mine"}
        options = ["--csr-file", str(tmp_path / "csr"), "--credentials-type", "X509_CERTIFICATE"]
        assert mqttprov("request", *served.at(), *options, "--json").data["credentialsType"] == "X509_CERTIFICATE"

    def test_takes_key_and_secret_from_a_token_file(self, served: Served, tmp_path: Path) -> None:
        """What `token create --output-file` wrote is enough; a key on the command line wins; a broken file is told."""
        line = tmp_path / "line.json"
        mqttprov("token", "create", "--name", "filed", "--output-file", str(line), "--state", str(served.state))
        asked = ["request", "--port", str(served.port), "--secret-file", str(line), "--json"]
        assert mqttprov(*asked).data["status"] == "SUCCESS"
        assert mqttprov(*asked, "--key", "another").status == 3
        line.write_text('{"provisionDeviceKey": 7}')
        assert mqttprov(*asked).status == 2
        line.write_text("only-the-secret")
        assert "--key" in mqttprov(*asked).err

    def test_reads_the_secret_from_standard_input(self, served: Served) -> None:
        """A secret is never on the command line, where everybody sees it (P6)."""
        arguments = ["--port", str(served.port), "--key", served.key, "--secret-stdin", "--json"]
        done = subprocess.run(
            command("request", *arguments), input=served.secret.encode(), capture_output=True, check=True
        )
        assert msgspec.json.decode(done.stdout)["status"] == "SUCCESS"

    @pytest.mark.parametrize(
        "options", [[], ["--secret-file", "x", "--secret-stdin"], ["--secret-file", "x", "--timeout-s", "0"]]
    )
    def test_wants_one_secret(self, options: list[str]) -> None:
        """Neither none nor two; there is no option that takes the secret itself (P6)."""
        assert mqttprov("request", "--key", "k", *options).status == 2
        assert mqttprov("request", "--key", "k", "--secret", "s").status == 2

    @pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"x" * 70_000])
    def test_a_file_without_a_secret_is_told(self, tmp_path: Path, content: bytes | None) -> None:
        """One line that names the file."""
        if content is not None:
            (tmp_path / "secret").write_bytes(content)
        result = mqttprov("request", "--key", "k", "--secret-file", str(tmp_path / "secret"))
        assert (result.status, result.err.count("\n")) == (1, 1)
        assert str(tmp_path / "secret") in result.err

    def test_nobody_there_is_unavailable(self, served: Served) -> None:
        """No server, a silent one, one that hangs up, one that speaks something else: 6, within the time-out."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = str(silent.getsockname()[1])
            at = ["--key", "k", "--secret-file", str(served.secret_file), "--timeout-s", "0.3"]
            waited = mqttprov("request", "--port", port, *at)
        gone = mqttprov("request", "--port", port, *at)
        nowhere = mqttprov("request", "--host", "nowhere.invalid", "--port", port, *at)
        assert [r.status for r in (waited, gone, nowhere)] == [6, 6, 6]
        assert "did not answer within 0.3 s" in waited.err
        assert "cannot talk to" in gone.err

    @pytest.mark.parametrize(
        ("answers", "text"),
        [
            ([], "hung up without a reply"),
            ([b"\x20\x02\x00\x05"], "refused the user name 'provision' (NOT_AUTHORIZED)"),
            ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "does not speak MQTT"),
            ([b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x80"], "does not let us subscribe"),
            ([b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x01"], "hung up without a reply"),
        ],
    )
    def test_servers_that_do_not_provision_are_told_apart(
        self, served: Served, answers: list[bytes], text: str
    ) -> None:
        """Each way of not getting a reply has its own words and exit status 6."""
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def answer() -> None:
                connection, _ = listener.accept()
                with connection:
                    for content in answers:
                        connection.recv(4096)
                        connection.sendall(content)
                    connection.recv(4096)

            thread = threading.Thread(target=answer)
            thread.start()
            at = ["--port", str(listener.getsockname()[1]), "--key", "k", "--secret-file", str(served.secret_file)]
            result = mqttprov("request", *at, "--timeout-s", "20")
            thread.join()
        assert (result.status, result.err.count("\n")) == (6, 1)
        assert text in result.err

    def test_a_reply_that_is_none_is_told(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is no reply of a provisioning server is an error, not a result."""
        for reply in (b"\xff", b"[]", b'{"status":"MAYBE"}', b""):
            monkeypatch.setattr(request, "request_once", lambda *_, reply=reply, **__: reply)
            result = mqttprov("request", *served.at())
            assert (result.status, result.out) == (1, "")

    def test_tls_is_verified(self, state: Path, tmp_path: Path) -> None:
        """With the authority of the state directory the broker is known; with another one it is not."""
        made = mqttprov("token", "create", "--state", str(state), "--json").data
        (tmp_path / "secret").write_text(made["provisionDeviceSecret"])
        stranger = tmp_path / "stranger"
        mqttprov("init", "--state", str(stranger))
        with start("serve", "--state", str(state), "--port", "0", "--tls-port", "0", "--json") as process:
            assert process.stdout is not None
            port = json.loads(process.stdout.readline())["listening"][1].rsplit(":", 1)[1]
            at = ["--port", port, "--key", made["provisionDeviceKey"], "--secret-file", str(tmp_path / "secret")]
            known = mqttprov("request", *at, "--tls-ca", str(state / "authority.pem"), "--json")
            unknown = mqttprov("request", *at, "--tls-ca", str(stranger / "authority.pem"))
            plain = mqttprov("request", *at, "--timeout-s", "5")
            process.terminate()
            assert process.wait(30) == 0
        assert (known.status, known.data["status"]) == (0, "SUCCESS")
        assert (unknown.status, "does not hold" in unknown.err) == (6, True)
        assert plain.status == 6
        assert mqttprov("request", *at, "--tls-ca", str(tmp_path / "secret")).status == 2


class TestGateway:
    """`gateway run`."""

    def test_provisions_stays_online_and_ends_when_told(self, served: Served, tmp_path: Path) -> None:
        """It prints every change of state; the device is active; its secrets are in no output (P6, P10)."""
        variables = {
            "TB_GW_PROVISIONING_DEVICE_KEY": served.key,
            "TB_GW_PROVISIONING_DEVICE_SECRET": served.secret,
            "TB_GW_PROVISIONING_DEVICE_NAME": "by-gateway",
        }
        arguments = ["gateway", "run", "--port", str(served.port), "--dir", str(tmp_path / "gw"), "--json"]
        with start(*arguments, **variables) as process:
            assert process.stdout is not None
            states: list[str] = []
            while not states or states[-1] != "ONLINE":
                states.append(json.loads(process.stdout.readline())["to"].upper())
            listed = mqttprov("device", "show", "by-gateway", "--state", str(served.state), "--json").data
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert (listed["state"], listed["gateway"]) == ("active", True)
        credentials = json.loads((tmp_path / "gw" / ".credentials").read_text())
        assert credentials["credentialsValue"] not in out + err
        assert served.secret not in out + err

    def test_without_settings_it_says_which(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Exit status 2 and the names of the variables."""
        for name in [name for name in os.environ if name.startswith("TB_GW_")]:
            monkeypatch.delenv(name)
        result = mqttprov("gateway", "run", "--dir", str(tmp_path / "gw"))
        assert result.status == 2
        assert "TB_GW_PROVISIONING_DEVICE_KEY" in result.err


class TestFleets:
    """`simulate` and `demo`."""

    def test_simulate_prints_one_object(self, served: Served) -> None:
        """Registered, failed, rate and percentiles; progress is talk."""
        result = mqttprov("simulate", "--gateways", "20", *served.at(), "--json")
        assert (result.status, result.data["registered"], result.data["failed"]) == (0, 20, 0)
        assert {"registrations_per_s", "p50_ms", "p99_ms"} <= result.data.keys()
        assert "registered" in result.err
        assert served.secret not in result.out + result.err
        assert mqttprov("simulate", "--gateways", "20", "--rate", "200", *served.at()).out.startswith("registered")

    @pytest.mark.parametrize("options", [["--gateways", "0"], ["--rate", "0"], ["--gateways", "many"]])
    def test_simulate_refuses_what_makes_no_sense(self, served: Served, options: list[str]) -> None:
        """Exit status 2."""
        assert mqttprov("simulate", *options, *served.at()).status == 2

    def test_demo_shows_all_of_it(self) -> None:
        """A broker, a fleet, its devices and a chain that holds, without anything prepared (P5)."""
        result = mqttprov("demo", "--gateways", "10", "--json")
        assert (result.status, result.data["registered"], result.data["failed"]) == (0, 10, 0)
        assert (result.data["devices_by_state"], result.data["audit_verified"]) == ({"active": 10}, True)


def test_verbs_work_beside_a_running_broker(served: Served) -> None:
    """A token that is made, limited and revoked meanwhile holds at once; --follow sees it all (P1, P5)."""
    at = ["--state", str(served.state)]
    with start("audit", "tail", "-n", "1000", "--follow", "--json", *at) as follower:
        assert follower.stdout is not None
        made = mqttprov("token", "create", "--name", "beside", "--max-registrations", "1", *at, "--json").data
        secret = served.secret_file.with_name("beside")
        secret.write_text(made["provisionDeviceSecret"])
        asked = ["--port", str(served.port), "--key", made["provisionDeviceKey"], "--secret-file", str(secret)]
        statuses = [mqttprov("request", *asked, "--device-name", name).status for name in ("one", "one", "two")]
        assert statuses == [0, 0, 3]
        assert mqttprov("token", "show", "beside", *at, "--json").data["used"] == 1
        assert mqttprov("token", "revoke", "beside", "--yes", *at).status == 0
        assert mqttprov("request", *asked, "--device-name", "one").status == 3
        kinds: list[str] = []  # of this token; other tests made others on this broker before
        while not kinds or kinds[-1] != "token-revoked":
            event = json.loads(follower.stdout.readline())
            if event.get("token") == "beside":
                kinds.append(event["kind"])
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 130
    wanted = ["token-created", "provisioned", "repeated", "refused", "token-revoked"]
    assert [kind for kind in kinds if kind in wanted] == wanted
    assert mqttprov("audit", "verify", *at).status == 0
