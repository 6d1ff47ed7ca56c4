"""Lists of manufactured devices: what is made, skipped and refused, and how a device with a claim secret comes in."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.brokers.certificates import DeviceKey
from tests.responder.desk import Answers, Desk

from mqttprov.core.names import InvalidName
from mqttprov.core.requests import Granted, Reason, Refused, SuppliedCertificate
from mqttprov.core.secrets import new_claim_code
from mqttprov.responder.acting import PartlyMade
from mqttprov.responder.device_csv import read_devices
from mqttprov.responder.device_import import ImportCount, ImportLine, LineFault
from mqttprov.store.protocol import StoreUnavailable


def line(number: int, name: str = "", **fields: Any) -> ImportLine:
    """Make a line of the default profile."""
    return ImportLine(number, name or f"gw-{number}", "default", **fields)


def run(desk: Desk, *lines: ImportLine | LineFault, **options: Any) -> tuple[ImportCount, list[LineFault]]:
    """Import lines; give what came of them."""
    faults: list[LineFault] = []
    return desk.administration.import_devices(lines, tell_fault=faults.append, **options), faults


def ask(desk: Desk, name: str, secret: str) -> Granted | Refused:
    """Give the outcome of a request with the first token's key and this secret."""
    answers = Answers()
    request = msgspec.structs.replace(desk.request(name), secret=secret)
    return answers.deliver(desk.processor().process([answers.job(request)]))[-1]  # type: ignore[no-any-return] # told values are loosely typed


class TestImport:
    """`import_devices`."""

    def test_makes_manufactured_devices_with_one_event_each(self, desk: Desk) -> None:
        """Owner and labels are kept (P5)."""
        before = desk.events()[-1].seq
        count, faults = run(desk, line(2, owner="ACME", labels={"site": "a"}), line(3))
        assert (count, faults) == (ImportCount(2, 0, 0), [])
        assert desk.kinds_after(before) == ["device-created"] * 2
        rows = {row.name: (row.state, row.owner, row.labels) for row in desk.reader.devices()}
        assert rows == {"gw-2": ("manufactured", "ACME", {"site": "a"}), "gw-3": ("manufactured", None, {})}

    def test_a_bad_line_is_told_and_the_rest_goes_on(self, desk: Desk) -> None:
        """Each fault has its line and says what is wrong, and never a secret (P6)."""
        lines: list[ImportLine | LineFault] = [
            line(2),
            line(3, "a/b"),
            line(4, owner="a\nb"),
            line(5, labels={"": "x"}),
            ImportLine(6, "gw-6", "nobody"),
            line(7, claim_secret="short"),
            LineFault(8, "it has 2 fields"),
            line(9, "GW-2"),
            line(11, "gw\udc80"),
            line(10),
            line(12, claim_secret=f"secret:{new_claim_code(bytes(20))}"),
        ]
        count, faults = run(desk, *lines)
        assert count == ImportCount(2, 0, 9)
        assert [fault.number for fault in faults] == [3, 4, 5, 6, 7, 8, 9, 11, 12]
        assert "another spelling" in faults[6].text
        assert "short" not in faults[4].text.replace("too short", "")
        assert {row.name for row in desk.reader.devices()} == {"gw-2", "gw-10"}

    def test_doing_it_again_skips_what_is_there(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """An identical line changes nothing, also once its device is provisioned; a differing one is a fault."""
        monkeypatch.setattr("mqttprov.responder.device_import._LINES_PER_TRANSACTION", 2)
        lines = [line(n, owner="ACME", labels={"n": str(n)}, claim_secret=f"secret-{n}") for n in range(2, 7)]
        run(desk, *lines[:3])
        assert isinstance(ask(desk, "gw-2", "secret-2"), Granted)
        assert run(desk, *lines) == (ImportCount(2, 3, 0), [])
        before = desk.events()
        differing: list[tuple[dict[str, Any], str]]
        differing = [({"owner": "other"}, "owner"), ({"labels": {}}, "labels"),
                              ({"claim_secret": None}, "claim secret"), ({"claim_secret": "something"}, "claim secret"),
                              ({"factory_key": "k"}, "certificate")]  # fmt: skip
        for changes, what in differing:
            _, (fault,) = run(desk, msgspec.structs.replace(lines[2], **changes))
            assert f"another {what}" in fault.text
        assert desk.events() == before

    def test_a_dry_run_changes_nothing(self, desk: Desk) -> None:
        """It counts what would be."""
        before = desk.events()
        assert run(desk, line(2), line(3, "+"), dry_run=True)[0] == ImportCount(1, 0, 1)
        assert desk.events() == before
        assert list(desk.reader.devices()) == []

    def test_a_failure_amid_says_what_exists(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """Claim secrets that were told for what was rolled back are not counted; doing it again completes."""
        monkeypatch.setattr("mqttprov.responder.device_import._LINES_PER_TRANSACTION", 2)
        told: list[tuple[str, str]] = []

        def tell(claims: Any) -> None:
            told.extend(claims)
            if len(told) > 2:
                raise StoreUnavailable("the disk is full")

        with pytest.raises(PartlyMade, match="2 devices were made") as failure:
            run(desk, *(line(n) for n in range(2, 7)), tell_claims=tell)
        assert failure.value.made == 2
        assert len(list(desk.reader.devices())) == 2
        assert run(desk, *(line(n) for n in range(2, 7)), tell_claims=lambda _: None)[0] == ImportCount(3, 2, 0)


def test_a_made_claim_secret_lets_its_device_in_once(desk: Desk) -> None:
    """It stands in `provisionDeviceSecret`; the token's own secret does not open the device; at rest is a hash (P6)."""
    told: dict[str, str] = {}
    run(desk, line(2), line(3), tell_claims=told.update)
    refused = ask(desk, "gw-2", desk.token.secret), ask(desk, "gw-2", told["gw-3"])
    assert [r.reason for r in refused if isinstance(r, Refused)] == [Reason.CLAIM_NEEDED, Reason.WRONG_SECRET]
    first, again = ask(desk, "gw-2", told["gw-2"]), ask(desk, "gw-2", told["gw-2"])
    assert isinstance(first, Granted)
    assert isinstance(again, Granted)
    assert again.value == first.value
    assert desk.reader.tokens()[0].used == 1
    content = b"".join(p.read_bytes() for p in desk.state.path.glob("mqttprov.db*"))
    assert told["gw-2"].encode() not in content


class TestCsv:
    """`read_devices`."""

    def read(self, folder: Path, text: str, profile: str | None = "default") -> list[ImportLine | LineFault]:
        """Read a list as the command does."""
        (folder / "devices.csv").write_text(text)
        with (folder / "devices.csv").open(newline="") as file:
            return list(read_devices(file, folder, profile=profile, now_ms=1_700_000_000_000))

    def test_reads_all_columns_in_any_order(self, tmp_path: Path) -> None:
        """Empty fields are absent; numbers are those of the lines in the file."""
        text = 'labels,name,owner,profile,claim_secret\n"a=1; b=x=y;",gw-1,ACME,p,\n\n,gw-2,,,secret-2\n'
        assert self.read(tmp_path, text) == [
            ImportLine(2, "gw-1", "p", "ACME", {"a": "1", "b": "x=y"}),
            ImportLine(4, "gw-2", "default", claim_secret="secret-2"),
        ]

    @pytest.mark.parametrize("heading", ["", "profile", "name,nmae", "name,name"])
    def test_another_heading_is_refused_at_once(self, tmp_path: Path, heading: str) -> None:
        """Nothing is read of a list whose columns are not ours."""
        with pytest.raises(InvalidName, match="the columns are"):
            self.read(tmp_path, heading + "\ngw-1\n")

    def test_a_broken_line_is_a_fault_of_its_own(self, tmp_path: Path) -> None:
        """Fields, labels, profile and certificate are checked line by line."""
        (tmp_path / "bad.pem").write_text("no certificate")
        rows = ["gw-1", "gw-2,x,", "gw-3,a=1;a=2,", "gw-4,,none.pem", "gw-5,,bad.pem", "gw-6,,"]
        read = self.read(tmp_path, "name,labels,certificate\n" + "\n".join(rows) + "\n")
        assert [r.number for r in read if isinstance(r, LineFault)] == [2, 3, 4, 5, 6]
        assert read[-1] == ImportLine(7, "gw-6", "default")
        assert isinstance(self.read(tmp_path, "name\ngw-1\n", None)[0], LineFault)

    def test_an_open_quote_ends_the_list_with_a_fault(self, tmp_path: Path) -> None:
        """It must not draw the whole list into memory (P9)."""
        read = self.read(tmp_path, 'name\ngw-1\n"gw-2\n' + "gw-3\n" * 100_000)
        assert [type(r) for r in read] == [ImportLine, LineFault]

    def test_a_public_key_binds_the_device_as_its_certificate_does(self, desk: Desk, tmp_path: Path) -> None:
        """Who shows that key comes in, and nobody else; a file that holds something else is a fault."""
        key = DeviceKey("gw-1")
        pem = key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        weak = ec.generate_private_key(ec.SECP224R1()).public_key()
        (tmp_path / "weak.pem").write_bytes(weak.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        (tmp_path / "key.pem").write_text(pem)
        (tmp_path / "cert.pem").write_text(key.certificate_pem)
        (tmp_path / "secret.pem").write_text(key.private_key_pem())
        (tmp_path / "bad.pem").write_text(pem.replace("M", "!", 1))
        rows = ("gw-1,key.pem,", "gw-1,,cert.pem", "x,weak.pem,", "x,cert.pem,", "x,secret.pem,", "x,bad.pem,",
                "x,none.pem,", "x,key.pem,cert.pem")  # fmt: skip
        first, second, *faults = self.read(tmp_path, "name,public_key,certificate\n" + "\n".join(rows) + "\n")
        assert isinstance(first, ImportLine)
        assert isinstance(second, ImportLine)
        assert first.factory_key == second.factory_key
        texts = [fault.text for fault in faults if isinstance(fault, LineFault)]
        for text, what in zip(texts, ("not allowed", "exactly one", "never send", "cannot be", "cannot be read",
                                      "both"), strict=True):  # fmt: skip
            assert what in text
        run(desk, first)
        answers = Answers()
        reasons = []
        for pem in (DeviceKey("gw-1").certificate_pem, key.certificate_pem):
            asked = msgspec.structs.replace(desk.request("gw-1"), certificate=SuppliedCertificate(pem))
            outcome = answers.deliver(desk.processor().process([answers.job(asked)]))[-1]
            reasons.append(outcome.reason if isinstance(outcome, Refused) else None)
        assert reasons == [Reason.OTHER_KEY, None]

    def test_a_certificate_binds_the_device_to_its_key(self, desk: Desk, tmp_path: Path) -> None:
        """What is kept is the hash of the public key; a request without that key is refused."""
        (tmp_path / "gw-1.pem").write_text(desk.state.authority.certificate_pem)
        (read,) = self.read(tmp_path, "name,certificate\ngw-1,gw-1.pem\n")
        assert isinstance(read, ImportLine)
        assert len(read.factory_key or "") == 64
        run(desk, read)
        refused = ask(desk, "gw-1", desk.token.secret)
        assert isinstance(refused, Refused)
        assert refused.reason is Reason.OTHER_KEY
        answers = Answers()
        shown = msgspec.structs.replace(
            desk.request("gw-1"), certificate=SuppliedCertificate(desk.state.authority.certificate_pem)
        )
        (granted,) = answers.deliver(desk.processor().process([answers.job(shown)]))
        assert isinstance(granted, Granted)
