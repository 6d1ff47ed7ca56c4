"""Swarms over TLS: the server is verified by the plan's CA file."""

import asyncio
import ssl
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mqttprov.pki.authority import Authority
from mqttprov_simulator.plan import SwarmPlan
from mqttprov_simulator.swarm import SwarmError, swarm

StubBroker = Any  # conftest.StubBroker: a conftest cannot be imported


@pytest.fixture
async def tls_plan(stub: StubBroker, plan: SwarmPlan, tmp_path: Path) -> SwarmPlan:
    """The stub with a certificate, and the file of the CA that issued it."""
    now_ms = time.time_ns() // 1_000_000
    authority = Authority.create("test authority", now_ms)
    certificate, key = authority.issue_server(["127.0.0.1"], now_ms)
    (tmp_path / "server.pem").write_text(certificate)
    (tmp_path / "key.pem").write_text(key)
    (tmp_path / "ca.pem").write_text(authority.certificate_pem)
    (tmp_path / "other.pem").write_text(Authority.create("another authority", now_ms).certificate_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "key.pem")
    stub.stop()
    stub.port = 0
    await stub.start(context)
    return msgspec.structs.replace(plan, port=stub.port, tls_ca_file=tmp_path / "ca.pem")


async def test_gateways_register_over_tls(stub: StubBroker, tls_plan: SwarmPlan) -> None:
    """Both connections of each, from one shared context."""
    result = await swarm(tls_plan)
    assert result.summary.registered == 10
    assert not result.summary.lost_connections


async def test_run_ends_while_handshakes_hang(stub: StubBroker, plan: SwarmPlan, tls_plan: SwarmPlan) -> None:
    """P9: a server that says nothing keeps nobody beyond the time-out."""

    class Silent(asyncio.Protocol):
        """Takes everything and answers nothing."""

    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await asyncio.wait_for(swarm(msgspec.structs.replace(tls_plan, port=port, timeout_s=0.3)), 30)
    assert result.summary.failed == 10
    server.close()


async def test_a_server_of_another_authority_gets_no_secret(stub: StubBroker, tls_plan: SwarmPlan) -> None:
    """P6: the connection ends in the handshake, and the summary says so."""
    other = tls_plan.tls_ca_file
    assert other is not None
    plan = msgspec.structs.replace(tls_plan, tls_ca_file=other.with_name("other.pem"), timeout_s=0.5)
    result = await swarm(plan)
    assert result.summary.failed == 10
    assert set(result.summary.lost_connections) == {"TLS: CERTIFICATE_VERIFY_FAILED"}
    assert stub.requests == []


async def test_a_bad_ca_file_is_one_clear_error(plan: SwarmPlan, tmp_path: Path) -> None:
    """Missing or no certificate: both before any gateway starts."""
    (tmp_path / "text.pem").write_text("no certificate")
    for name in ("absent.pem", "text.pem"):
        with pytest.raises(SwarmError, match=name):
            await swarm(msgspec.structs.replace(plan, tls_ca_file=tmp_path / name))
