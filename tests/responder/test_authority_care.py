"""Certificate authorities as an operator changes them: files, store and audit stay together (P5, P6)."""

import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from tests.responder.desk import Answers, Desk

from mqttprov.core.audit import parse_body
from mqttprov.core.requests import Granted, SuppliedCsr
from mqttprov.pki.authority import Authority
from mqttprov.pki.crl import load_lists
from mqttprov.responder import authority_care, certificate_lists
from mqttprov.responder.acting import NotFound
from mqttprov.responder.authority_care import AuthorityCare
from mqttprov.responder.certificate_lists import LOOK_EVERY_S, SOON_S, CertificateLists, PeriodicLists
from mqttprov.responder.state_directory import StateDirectory, StateError
from mqttprov.store.protocol import Conflict, StoreUnavailable


@pytest.fixture
def care(desk: Desk) -> AuthorityCare:
    """The verbs, with no broker to ring."""
    return desk.state.authority_care("cli:test", desk.clock)


def csr() -> SuppliedCsr:
    """A device's signing request, with a new key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gw")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return SuppliedCsr(request.public_bytes(Encoding.PEM).decode())


def issue(desk: Desk, name: str) -> x509.Certificate:
    """Have a device provision by CSR; give its certificate."""
    answers = Answers()
    (outcome,) = answers.deliver(
        desk.processor(sign=desk.state.authority.sign_device).process([answers.job(desk.request(name, csr=csr()))])
    )
    assert isinstance(outcome, Granted)
    return x509.load_pem_x509_certificate(outcome.value.encode())


def private_keys(desk: Desk) -> list[Path]:
    """Give the files that hold keys of authorities."""
    return sorted((desk.state.path / "keys").glob("authority-key*"))


def kinds(desk: Desk) -> list[str]:
    """Give the kinds of all audit events about authorities."""
    return [event.kind for event in desk.events() if event.kind.startswith("authority-")]


class TestInit:
    """Replacing the first one."""

    def test_an_unused_authority_is_replaced(self, desk: Desk, care: AuthorityCare) -> None:
        """Its own name and validity; the first one's key is gone, and one event says who did it (P5, P6)."""
        view = care.init(name="Plant CA", days=100)
        authority = desk.state.authority
        assert (view.subject, view.state, view.live) == ("CN=Plant CA", "active", 0)
        assert authority.certificate_pem == (desk.state.path / "authority.pem").read_text()
        lasts = authority.certificate.not_valid_after_utc - authority.certificate.not_valid_before_utc
        assert lasts == timedelta(days=100, minutes=5)
        assert [(one.state, one.subject) for one in care.show()] == [
            ("active", "CN=Plant CA"), ("retired", "CN=mqttprov")
        ]  # fmt: skip
        (key,) = private_keys(desk)
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        event = parse_body(desk.events()[-1].body)[1]
        assert (event.kind, event.actor) == ("authority-created", "cli:test")
        assert event.text == f"CN=Plant CA ({view.fingerprint[:16]})"

    def test_an_authority_that_has_issued_is_not_replaced(self, desk: Desk, care: AuthorityCare) -> None:
        """Whoever has a certificate of it would be cut off; nothing is changed, no key is left behind."""
        issue(desk, "gw-1")
        before = desk.state.authority.certificate_pem
        with pytest.raises(Conflict, match="mqttprov ca rotate"):
            care.init()
        assert (desk.state.authority.certificate_pem, len(private_keys(desk)), kinds(desk)) == (before, 1, [])

    def test_a_broker_that_relies_on_it_counts_too(self, desk: Desk, care: AuthorityCare) -> None:
        """Devices may know the authority from the broker's certificate."""
        (desk.state.path / "server.pem").write_text(desk.state.authority.issue_server(["localhost"], desk.now_ms)[0])
        with pytest.raises(Conflict, match="mqttprov ca rotate"):
            care.init()

    def test_your_own_authority_is_brought(self, desk: Desk, care: AuthorityCare, tmp_path: Path) -> None:
        """Certificate and key from two files; what devices provision is signed with it."""
        own = Authority.create("Corporate CA", desk.now_ms)
        certificate, key = files_of(tmp_path, own)
        care.init(certificate=certificate, private_key=key)
        issue(desk, "gw-1").verify_directly_issued_by(own.certificate)
        with pytest.raises(Conflict, match="known already"):
            care.rotate(certificate=certificate, private_key=key)
        assert len(private_keys(desk)) == 1

    def test_what_is_no_authority_is_refused(self, desk: Desk, care: AuthorityCare, tmp_path: Path) -> None:
        """Each with what is wrong; a key that others may read is refused, as SSH does (SD-22)."""
        now_ms = desk.now_ms
        own, expired = Authority.create("own", now_ms), Authority.create("old", now_ms - 10 * 86_400_000, days=1)
        certificate, key = files_of(tmp_path, expired)
        with pytest.raises(ValueError, match="not valid now"):
            care.init(certificate=certificate, private_key=key)
        certificate.write_text(own.certificate_pem)
        with pytest.raises(ValueError, match="the two that fit"):
            care.init(certificate=certificate, private_key=key)
        key.chmod(0o640)
        with pytest.raises(StateError, match="chmod 600"):
            care.init(certificate=certificate, private_key=key)
        for bad in ("", "x" * 65, "a\nb"):
            with pytest.raises(ValueError, match="1 to 64 bytes"):
                care.init(name=bad)
        with pytest.raises(ValueError, match="validity"):
            care.init(days=0)
        assert (len(private_keys(desk)), kinds(desk)) == (1, [])


def files_of(folder: Path, authority: Authority) -> tuple[Path, Path]:
    """Write an authority as its owner keeps it."""
    certificate, key = folder / "own.pem", folder / "own-key.pem"
    certificate.write_text(authority.certificate_pem)
    key.touch(mode=0o600)
    key.write_text(authority.private_key_pem())
    return certificate, key


class TestRotation:
    """A new one beside the old."""

    def test_the_new_one_signs_and_the_old_one_stays_trusted(self, desk: Desk, care: AuthorityCare) -> None:
        """Both are in authority.pem, new first; servers are certified by the old one, which devices know."""
        old = desk.state.authority
        issue(desk, "gw-1").verify_directly_issued_by(old.certificate)
        care.rotate()
        found = desk.state.authorities()
        assert (desk.state.path / "authority.pem").read_text() == found.certificates_pem
        assert found.certificates_pem == found.active.certificate_pem + old.certificate_pem
        assert found.serving(desk.now_ms).key_id == old.key_id
        issue(desk, "gw-2").verify_directly_issued_by(found.active.certificate)
        assert [(one.state, one.subject, one.live) for one in care.show()] == [
            ("active", "CN=mqttprov 2", 1), ("trusted", "CN=mqttprov", 1)
        ]  # fmt: skip
        assert kinds(desk) == ["authority-rotated"]

    def test_an_old_authority_that_ran_out_certifies_no_servers(self, desk: Desk, care: AuthorityCare) -> None:
        """Then it is the next one's turn."""
        care.rotate()
        found = desk.state.authorities()
        assert found.serving(desk.now_ms + 3651 * 86_400_000).key_id == found.active.key_id

    def test_retiring_ends_trust_and_removes_the_key(self, desk: Desk, care: AuthorityCare) -> None:
        """Only the active one is left; again there is nothing to retire."""
        care.rotate()
        care.rotate()
        assert [view.subject for view in care.retire()] == ["CN=mqttprov 2", "CN=mqttprov"]
        found = desk.state.authorities()
        assert (found.older, len(private_keys(desk))) == ((), 1)
        assert (desk.state.path / "authority.pem").read_text() == found.active.certificate_pem
        assert found.active.certificate.subject.rfc4514_string() == "CN=mqttprov 3"
        assert kinds(desk) == ["authority-rotated", "authority-rotated", "authority-retired"]
        with pytest.raises(NotFound, match="no older"):
            care.retire()

    @pytest.mark.parametrize("broken", ["write_once", "settle"])
    def test_an_interruption_leaves_the_old_or_the_new_one(
        self, desk: Desk, care: AuthorityCare, monkeypatch: pytest.MonkeyPatch, broken: str
    ) -> None:
        """Before the commit it is the old one, behind it the new one: either way a certificate can be issued."""

        def power_cut(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(authority_care, broken, power_cut)
        with pytest.raises(KeyboardInterrupt):
            care.rotate()
        monkeypatch.undo()
        state = StateDirectory(desk.state.path)
        expected = "CN=mqttprov" if broken == "write_once" else "CN=mqttprov 2"
        assert state.authority.certificate.subject.rfc4514_string() == expected
        assert len(kinds(desk)) == len(state.authorities().older)
        state.settle_authorities()
        assert (desk.state.path / "authority.pem").read_text() == state.authorities().certificates_pem
        state.close()

    def test_a_failed_commit_leaves_no_key(
        self, desk: Desk, care: AuthorityCare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A key without an authority is a secret that nobody misses (P6)."""

        def full(*_: object) -> None:
            raise StoreUnavailable("the disk is full")

        monkeypatch.setattr(AuthorityCare, "_commit", full)
        with pytest.raises(StoreUnavailable):
            care.rotate()
        assert len(private_keys(desk)) == 1

    def test_a_key_that_others_may_read_stops_everything(self, desk: Desk, care: AuthorityCare) -> None:
        """Of an older authority as well (SD-22)."""
        care.rotate()
        private_keys(desk)[0].chmod(0o604)
        with pytest.raises(StateError, match="chmod 600"):
            desk.state.authorities()

    def test_a_lost_key_is_told(self, desk: Desk, care: AuthorityCare) -> None:
        """The error says what to restore."""
        care.rotate()
        private_keys(desk)[0].unlink()
        with pytest.raises(StateError, match=r"authority\.pem.*restore"):
            desk.state.authorities()


class TestLists:
    """crl.pem."""

    def test_each_trusted_authority_has_a_list(self, desk: Desk, care: AuthorityCare) -> None:
        """The active one's first; suspended, superseded and decommissioned, each with its reason (SD-21)."""
        serials = {name: issue(desk, name).serial_number for name in ("held", "gone", "fine", "twice")}
        activate(desk, "held", "gone", "twice")
        care.rotate()
        issue(desk, "twice")
        activate(desk, "twice")
        life = desk.state.device_life("cli:test", desk.clock)
        life.suspend("held")
        life.decommission("gone", wait_ms=0)
        new, old = load_lists(care.write_lists())
        reasons = {
            one.serial_number: one.extensions.get_extension_for_class(x509.CRLReason).value.reason.value for one in old
        }
        assert reasons == {
            serials["held"]: "certificateHold",
            serials["gone"]: "cessationOfOperation",
            serials["twice"]: "superseded",
        }
        assert list(new) == []
        life.resume("held")
        _, old = load_lists(care.write_lists())
        assert serials["held"] not in {one.serial_number for one in old}
        assert load_lists(care.lists_path.read_text())[1] == old

    def test_what_holds_is_not_written_again(self, desk: Desk) -> None:
        """Until a day went by, or the file is lost, damaged or of another authority."""
        lists = desk.state.certificate_lists(desk.clock)
        assert lists.write() is not None
        assert lists.write() is None
        desk.now_ms += 86_400_000
        assert lists.write() is not None
        lists.path.write_text("nonsense")
        assert lists.write() is not None
        desk.state.authority_care("cli:test", desk.clock).rotate()
        assert lists.write() is not None
        assert lists.write() is None


def activate(desk: Desk, *names: str) -> None:
    """Log devices in with their newest credentials."""
    from mqttprov.responder.jobs import ActivationJob  # noqa: PLC0415 - here alone

    for name in names:
        row = next(desk.reader.devices(name))
        desk.processor().process([ActivationJob(name, row.generation or 0, "10.0.0.1", lambda _: None)])


class Aside:
    """What would run beside the broker: run when the test says so."""

    def __init__(self) -> None:
        """Begin with nothing to do."""
        self.waiting: list[Callable[[], None]] = []

    def take(self, function: Callable[[], None]) -> None:
        """Keep it for later."""
        self.waiting.append(function)

    def run(self) -> int:
        """Do it; give how much it was."""
        waiting, self.waiting = self.waiting, []
        for function in waiting:
            function()
        return len(waiting)


class TestPeriodically:
    """What `serve` does by itself."""

    @pytest.fixture
    def aside(self) -> Aside:
        """What runs beside the broker."""
        return Aside()

    @pytest.fixture
    def periodic(self, desk: Desk, aside: Aside) -> PeriodicLists:
        """Lists under the desk's clock."""
        return PeriodicLists(
            desk.state.certificate_lists(desk.clock),
            now_s=lambda: desk.now_s,
            run_aside=aside.take,
            call_soon=lambda function: function(),
        )

    def due(self, periodic: PeriodicLists, aside: Aside) -> int:
        """Tell how many writings a tick begins."""
        periodic.tick()
        return aside.run()

    def test_they_are_written_at_the_start_and_looked_at_every_hour(
        self, desk: Desk, aside: Aside, periodic: PeriodicLists
    ) -> None:
        """So a list is never much older than a day."""
        assert self.due(periodic, aside) == 1
        assert self.due(periodic, aside) == 0
        desk.now_s += LOOK_EVERY_S
        assert self.due(periodic, aside) == 1

    def test_they_follow_soon_when_a_certificate_may_have_ended(
        self, desk: Desk, aside: Aside, periodic: PeriodicLists
    ) -> None:
        """A suspension does; a first provisioning and its first login do not, a later login does."""
        self.due(periodic, aside)
        seq = desk.events()[-1].seq
        for name in ("a", "b"):
            issue(desk, name)
            activate(desk, name)
        issue(desk, "a")
        activate(desk, "a")
        desk.state.device_life("cli:test", desk.clock).suspend("b")
        events = [event for event in desk.events() if event.seq > seq]
        wanted = []
        for event in events:
            periodic.note(event)
            desk.now_s += SOON_S
            wanted.append((event.kind, self.due(periodic, aside)))
        assert wanted == [
            ("provisioned", 0), ("activated", 0), ("provisioned", 0), ("activated", 0),
            ("reprovisioned", 1), ("activated", 1), ("suspended", 1),
        ]  # fmt: skip

    def test_long_lists_take_a_tenth_of_the_time_at_most(
        self, desk: Desk, aside: Aside, periodic: PeriodicLists, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that took 3 s is followed by the next after 30 s, however much happens (P9)."""

        def slow(_: CertificateLists) -> None:
            desk.now_s += 3.0

        monkeypatch.setattr(certificate_lists.CertificateLists, "write", slow)
        self.due(periodic, aside)
        issue(desk, "a")
        issue(desk, "a")
        periodic.note(desk.events()[-1])
        desk.now_s += 29.0
        assert self.due(periodic, aside) == 0
        desk.now_s += 1.0
        assert self.due(periodic, aside) == 1

    def test_a_failure_is_logged_and_tried_again(
        self, desk: Desk, aside: Aside, periodic: PeriodicLists, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The broker goes on."""
        private_keys(desk)[0].chmod(0o644)
        assert self.due(periodic, aside) == 1
        assert "lists of ended certificates were not written" in caplog.text
        private_keys(desk)[0].chmod(0o600)
        desk.now_s += LOOK_EVERY_S
        assert self.due(periodic, aside) == 1
        assert (desk.state.path / "crl.pem").exists()
