"""Certificates that no credential knows, in the pipeline: exact limits under concurrency, and what a bad store does."""

import os
import threading
from collections import Counter
from pathlib import Path

from tests.brokers.certificates import DeviceKey, FactoryAuthority, der_of
from tests.responder.desk import Desk

from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.audit import verify
from mqttprov.core.login import Login, LoginAttempt, LoginRefusal
from mqttprov.core.model import Chain, Profile, Strategy
from mqttprov.core.secrets import fingerprint
from mqttprov.responder.administration import TokenChange
from mqttprov.responder.jobs import BatchProcessor, LoginJob
from mqttprov.responder.state_directory import StateDirectory, initialise
from mqttprov.store.protocol import StoreUnavailable

LIMIT = 9
RESPONDERS = 3
AUTHORITY = FactoryAuthority("Factory")
KEY = DeviceKey("any")


def attempt(name: str, key: DeviceKey = KEY) -> LoginAttempt:
    """Make the CONNECT of a device with a new certificate of the factory."""
    der = der_of(AUTHORITY.issue(key, name))
    return LoginAttempt("", certificate=fingerprint(der), certificate_der=der)


def with_chain(path: Path, *, rotate_on_first_use: bool = False) -> StateDirectory:
    """Make a state directory with a profile that trusts the factory."""
    initialise(path, actor="test", now_ms=now_ms, entropy=os.urandom)
    state = StateDirectory(path)
    administration = state.administration("test", now_ms, os.urandom)
    profile = Profile(0, "made", Strategy.CERTIFICATE_CHAIN, rotate_on_first_use=rotate_on_first_use)
    issued = administration.create_profile(profile, Chain(AUTHORITY.pem, "(.*)"))
    administration.update_token(issued.key, None, TokenChange(max_registrations=LIMIT))
    return state


def test_responders_that_share_a_database_take_in_exactly_the_limit(tmp_path: Path) -> None:
    """Each device comes to all of them at once; together they make as many as allowed, each once (P1, P5)."""
    state = with_chain(tmp_path / "state")
    attempts = [attempt(f"gw-{number}") for number in range(2 * LIMIT)]
    logins: list[Login] = []
    ready = threading.Barrier(RESPONDERS)

    def respond(number: int) -> None:
        own = StateDirectory(tmp_path / "state")
        processor = BatchProcessor(own.store, own.keys, now_ms=now_ms, entropy=os.urandom)
        ready.wait(30)
        order = attempts[number * 4 :] + attempts[: number * 4]
        for begin in range(0, len(order), 3):
            jobs = [LoginJob(one, "192.0.2.7", logins.append) for one in order[begin : begin + 3]]
            for done, login in processor.process(jobs):
                done(login)
        processor.close()
        own.close()

    threads = [threading.Thread(target=respond, args=(number,)) for number in range(RESPONDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    reader = state.store.reader()
    (token,) = reader.tokens("made")
    assert (token.used, sum(1 for _ in reader.devices())) == (LIMIT, LIMIT)
    assert [str(event.kind) for event in reader.events()].count("provisioned") == LIMIT
    reasons = Counter(login.reason for login in logins)
    assert reasons == {None: RESPONDERS * LIMIT, "exhausted": RESPONDERS * LIMIT}
    verify(reader.events())
    reader.close()
    state.close()


def test_no_event_no_device(desk: Desk, tmp_path: Path) -> None:
    """What cannot be committed is refused for now, and nothing of it stays (P5)."""
    state = with_chain(tmp_path / "chained")
    failing = threading.Event()
    write = state.store.write

    def broken() -> object:
        if failing.is_set():
            raise StoreUnavailable("the disk is full")
        return write()

    state.store.write = broken  # type: ignore[method-assign, assignment] # the store as it is on a bad day
    processor = BatchProcessor(state.store, state.keys, now_ms=now_ms, entropy=os.urandom)
    told: list[Login] = []
    failing.set()
    one = attempt("gw-1")
    for _ in range(2):
        for done, login in processor.process([LoginJob(one, "", told.append)]):
            done(login)
        failing.clear()
    assert told[0].refusal is LoginRefusal.UNAVAILABLE
    assert told[1].principal is not None
    processor.close()
    state.close()


def test_certificates_of_one_name_in_one_batch_supersede_in_order(tmp_path: Path) -> None:
    """A, B, A within one transaction: B stays, and A does not come back by the chain."""
    state = with_chain(tmp_path / "state")
    processor = BatchProcessor(state.store, state.keys, now_ms=now_ms, entropy=os.urandom)
    first, second = attempt("gw-1"), attempt("gw-1")
    told: list[Login] = []
    for done, login in processor.process([LoginJob(one, "", told.append) for one in (first, second, first)]):
        done(login)
    assert [login.principal is not None for login in told] == [True, True, False]
    assert told[2].reason == "certificate-ended"
    reader = state.store.reader()
    assert [row.status for row in reader.credentials_of(next(reader.devices()).id)] == ["superseded", "active"]
    reader.close()
    processor.close()
    state.close()


def test_a_provisioning_session_needs_no_certificate_of_ours(tmp_path: Path) -> None:
    """It is open to everybody; one that shows a factory identity is that device's."""
    state = with_chain(tmp_path / "state", rotate_on_first_use=True)
    processor = BatchProcessor(state.store, state.keys, now_ms=now_ms, entropy=os.urandom)
    told: list[Login] = []
    stranger = der_of(DeviceKey("stranger").certificate_pem)
    shown = [attempt("gw-1").certificate_der, stranger, b"no certificate"]
    jobs = [
        LoginJob(LoginAttempt("", None, None, fingerprint(der or b""), der, provisioning=True), "", told.append)
        for der in shown
    ]
    for done, login in processor.process(jobs):
        done(login)
    assert [login.provisioning for login in told] == [True, True, True]
    assert [login.factory and login.factory.name for login in told] == ["gw-1", None, None]
    processor.close()
    state.close()
