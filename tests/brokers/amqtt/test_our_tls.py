"""TLS listeners of amqtt's configuration on our engine: they trust whom the store knows."""

from pathlib import Path

import pytest
from tests.brokers.amqtt.our_broker import ours
from tests.brokers.certificates import DeviceKey
from tests.brokers.factory import Factory
from tests.brokers.test_client_trust import NO_HANDSHAKE

from mqttprov.brokers import tls
from mqttprov.brokers.responder_run import now_ms
from mqttprov.pki.authority import Authority


async def test_registered_certificates_and_new_chains_are_trusted_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Self-signed ones of one subject, more than a context takes in; then a chain of a profile that was made later."""
    monkeypatch.setattr(tls, "MAX_ANCHORS", 2)
    (tmp_path / "own" / "keys").mkdir(parents=True)
    authority = Authority.create("own", now_ms())
    (tmp_path / "ca.pem").write_text(authority.certificate_pem)
    certificate, key = tls.make_server_certificate(authority, "127.0.0.1", tmp_path / "own", now_ms())
    secure = {"bind": "127.0.0.1:0", "ssl": True, "certfile": str(certificate), "keyfile": str(key)}
    listeners = {
        "default": {"type": "tcp", "bind": "127.0.0.1:0"},
        "tls": secure,
    }
    async with ours(tmp_path / "state", listeners=listeners) as broker:
        broker.tls_port = int(broker.amqtt.urls[1].rsplit(":", 1)[1])
        for number in range(3):
            own = DeviceKey("localhost")
            context = own.context(tmp_path / "ca.pem", tmp_path)
            with pytest.raises(NO_HANDSHAKE):
                await broker.login(None, tls=context)
            assert (await broker.provision(f"gw-{number}", hash=own.certificate_pem))["status"] == "SUCCESS"
            await broker.login(None, tls=context)
        factory = Factory(broker, tmp_path)
        own = DeviceKey("any")
        chained = own.context(tmp_path / "ca.pem", tmp_path, factory.line.issue(own, "gw-7"))
        with pytest.raises(NO_HANDSHAKE):
            await broker.login(None, tls=chained)
        factory.profile()
        assert broker.amqtt._run is not None
        broker.amqtt._run.responder.tick()
        await broker.login(None, tls=chained)
