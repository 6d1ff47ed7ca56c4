"""Batches: one transaction for all of them, and a bad job is nobody else's trouble."""

import logging
import sqlite3
from typing import Never

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.responder.desk import NOW_MS, Answers, Desk, WatchedStore

from mqttprov.core.login import LoginAttempt, LoginRefusal
from mqttprov.core.requests import (
    Granted,
    Malformed,
    ProvisionRequest,
    Reason,
    Refused,
    SuppliedCertificate,
    SuppliedCsr,
)
from mqttprov.responder.administration import TokenChange
from mqttprov.responder.jobs import ActivationJob, Job, LimitedJob, LoginJob, PublishedJob
from mqttprov.store.protocol import StoreUnavailable


def csr() -> SuppliedCsr:
    """Make a signing request."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return SuppliedCsr(made.public_bytes(serialization.Encoding.PEM).decode())


def broken_sign(*_: object) -> Never:
    """Fail as a defect would."""
    raise RuntimeError("the authority broke")


def test_a_batch_is_one_transaction_with_an_event_for_each_outcome(desk: Desk) -> None:
    """Requests, refusals, first logins and what the limiter did are committed together, one event each (P5)."""
    store, answers = WatchedStore(desk.state.store, []), Answers()
    processor = desk.processor(store)
    before = desk.events()[-1].seq
    jobs: list[Job] = [
        answers.job(desk.request("gw-1")),
        answers.job(desk.request("GW-1")),
        answers.job(desk.request("bad/name")),
        answers.job(Malformed("not JSON")),
        ActivationJob("gw-1", 1, "10.0.0.1", answers.told.append),
        LimitedJob("10.0.0.9", 17),
        PublishedJob(2),
    ]
    told = answers.deliver(processor.process(jobs))
    assert store.log == ["committed"]
    assert desk.kinds_after(before) == ["provisioned", "repeated", "refused", "refused", "activated", "limited"]
    assert isinstance(told[0], Granted)
    assert told[0].value == told[1].value
    assert [t.reason for t in told[2:4]] == [Reason.BAD_NAME, Reason.MALFORMED]
    assert told[4] is True
    assert '"count":17' in desk.events()[-1].body
    assert desk.reader.published_seq() == 2


def test_a_limit_holds_within_a_batch(desk: Desk) -> None:
    """Of many requests in one batch exactly as many succeed as the token allows (P1)."""
    issued = desk.administration.create_token("default", "three", TokenChange(max_registrations=3))
    desk.token = issued
    answers = Answers()
    told = answers.deliver(desk.processor().process([answers.job(desk.request(f"gw-{i}")) for i in range(10)]))
    assert [isinstance(t, Granted) for t in told] == [True] * 3 + [False] * 7
    assert {t.reason for t in told[3:]} == {Reason.EXHAUSTED}
    assert desk.reader.tokens(None, "three")[0].used == 3


def test_a_bad_job_never_fails_its_batch(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """When deciding one request raises, that one is refused and all others succeed (DESIGN 5.7)."""
    answers = Answers()
    jobs = [
        answers.job(desk.request("gw-1")),
        answers.job(desk.request("gw-2", csr=csr())),
        answers.job(desk.request("gw-3")),
    ]
    told = answers.deliver(desk.processor(sign=broken_sign).process(jobs))
    assert [isinstance(t, Granted) for t in told] == [True, False, True]
    assert (told[1].reason, told[1].retry_after_s) == (Reason.INTERNAL, 5)
    assert {row.name for row in desk.reader.devices()} == {"gw-1", "gw-3"}  # of one millisecond: in no order
    assert desk.reader.tokens()[0].used == 2
    assert "the authority broke" in caplog.text


def test_without_a_store_everybody_is_refused_and_nothing_stays(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """No event, no credential: what could not be committed is refused, with the advice to come back (P2, P5)."""
    store, answers = WatchedStore(desk.state.store, []), Answers()
    store.fail_with = StoreUnavailable("the disk is full")
    before = desk.events()[-1].seq
    activation = ActivationJob("gw-1", 1, "10.0.0.1", answers.told.append)
    jobs: list[Job] = [answers.job(desk.request("gw-1")), activation, LimitedJob("10.0.0.9", 1)]
    told = answers.deliver(desk.processor(store).process(jobs))
    assert isinstance(told[0], Refused)
    assert (told[0].reason, told[1], store.log) == (Reason.INTERNAL, None, [])
    assert desk.kinds_after(before) == []
    assert list(desk.reader.devices()) == []
    assert caplog.record_tuples[0][1] == logging.ERROR


def test_certificates_and_signing_requests_are_looked_into_before_the_rules(desk: Desk) -> None:
    """A certificate or CSR that does not hold is told to who knows the secret; a good CSR gets a certificate."""
    answers = Answers()
    processor = desk.processor(sign=desk.state.authority.sign_device)
    jobs = [
        answers.job(desk.request("gw-1", certificate=SuppliedCertificate("no certificate"))),
        answers.job(desk.request("gw-2", csr=SuppliedCsr("no csr"))),
        answers.job(ProvisionRequest(desk.token.key, "guess", "gw-2", csr=SuppliedCsr("no csr"))),
        answers.job(desk.request("gw-3", csr=csr())),
    ]
    told = answers.deliver(processor.process(jobs))
    assert [t.reason for t in told[:3]] == [Reason.BAD_CREDENTIALS, Reason.BAD_CREDENTIALS, Reason.WRONG_SECRET]
    certificate = x509.load_pem_x509_certificate(told[3].value.encode())
    assert certificate.not_valid_after_utc.timestamp() * 1000 > NOW_MS


def test_a_login_whose_credential_died_meanwhile_does_not_stand(desk: Desk) -> None:
    """Between a login's look-up and its commit a newer generation may have ended the older one (P7)."""
    answers = Answers()
    processor = desk.processor()
    answers.deliver(processor.process([answers.job(desk.request("gw-1", token="token-one"))]))
    answers.deliver(processor.process([answers.job(desk.request("gw-1", token="token-two"))]))
    answers.told.clear()
    jobs = [ActivationJob("gw-1", generation, "10.0.0.1", answers.told.append) for generation in (2, 1, 2)]
    assert answers.deliver(processor.process(jobs)) == [True, False, True]


def test_logins_of_a_batch_are_read_together_and_wait_for_no_write_lock(desk: Desk) -> None:
    """While another process holds the write lock active devices log in; a first login is told to come back (P10)."""
    answers = Answers()
    processor = desk.processor(desk.state.store)
    answers.deliver(processor.process([answers.job(desk.request(f"gw-{i}")) for i in range(2)]))
    tokens = [granted.value for granted in answers.told]
    answers.told.clear()
    answers.deliver(processor.process([LoginJob(LoginAttempt("", tokens[0]), "10.0.0.1", answers.told.append)]))
    other = sqlite3.connect(desk.state.path / "mqttprov.db", isolation_level=None)
    desk.state.store._connection.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    jobs = [LoginJob(LoginAttempt("", token), "10.0.0.1", answers.told.append) for token in tokens]
    answers.told.clear()
    answers.deliver(processor.process(jobs))
    other.close()
    processor.close()
    assert answers.told[0].principal is not None
    assert answers.told[1].refusal is LoginRefusal.UNAVAILABLE
