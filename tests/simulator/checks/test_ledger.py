"""What shows by what was told alone, over all workers; and what the checks say of promises that nobody could test."""

from mqttprov_simulator.checks.ledger import NAMED, PROMISES, Ledger
from mqttprov_simulator.report.result import Check
from mqttprov_simulator.running.values import Broken, Moment, Recording, Second, Standing, Told
from mqttprov_simulator.scenario.model import Group, Life, Scenario, Storm, Token

SCENARIO = Scenario(
    name="tested",
    summary="",
    groups=(
        Group(name="a", gateways=200, arrivals=Storm(), life=Life(telemetry_every_s=1.0)),
        Group(name="few", gateways=4, arrivals=Storm(), token="few", expect="capped"),
        Group(name="clones", gateways=3, arrivals=Storm(), clones_of="a", expect="refused"),
    ),
    tokens=(Token(name="few", max_registrations=2),),
)


def nothing(_broken: Broken) -> bool:
    """Excuse nothing."""
    return False


def told(gateway: str, device: str, fingerprint: str, at_s: float = 1.0) -> Moment:
    """Make what a worker says when a gateway was told credentials."""
    return Moment(worker=0, at_s=at_s, second=Second(at_s=1), told=(Told(gateway, device, fingerprint, at_s),))


def recording(*standings: Standing, repeated: int = 0, probed: int = 0, unjudged: int = 0) -> Recording:
    """Make what a worker says at its end."""
    return Recording(worker=0, gateways=1, latency={}, service={}, lag={}, login={}, telemetry={}, rpc={}, refusals={},
                     lost_connections={}, strikes={}, standings=list(standings), cpu_s=0.0, rss_bytes=0,
                     ended_at_s=9.0, repeated=repeated, probed=probed, unjudged=unjudged)  # fmt: skip


def standing(group: str, state: str) -> Standing:
    """Make how a gateway stands that was told nothing."""
    return Standing(gateway=f"{group}/000001", device=f"{group}-000001", group=group, state=state, registered=False,
                    fingerprints=(), stored=None, online_at_s=None, refused=None)  # fmt: skip


def by_promise(checks: list[Check]) -> dict[str, Check]:
    """Give checks by their promise; there is one for each."""
    assert tuple(check.promise for check in checks) == PROMISES
    return {check.promise: check for check in checks}


def test_one_credential_for_two_gateways_is_found_with_both_names() -> None:
    """P3: whoever of the workers saw the first of them."""
    ledger = Ledger(SCENARIO, excused=nothing)
    assert ledger.take(told("a/000001", "a-000001", "f1", 1.25)) == []
    (broken,) = ledger.take(told("a/000002", "a-000002", "f1", 2.5))
    assert (broken.promise, broken.gateways, broken.at_s) == ("shared-credential", ("a/000001", "a/000002"), 2.5)
    assert "1.250 s" in broken.seen
    check = by_promise(ledger.close([]))["shared-credential"]
    assert (check.state, check.in_all, check.broken) == ("broken", 1, (broken,))


def test_a_clone_shares_what_its_original_is_given() -> None:
    """They ask under one name, also when it is written otherwise (P8)."""
    ledger = Ledger(SCENARIO, excused=nothing)
    assert ledger.take(told("a/000001", "a-000001", "f1")) == []
    assert ledger.take(told("clones/000001", "A-000001", "f1")) == []
    device = ledger.devices["a-000001"]
    assert (device.gateways, device.fingerprints) == (["a/000001", "clones/000001"], ["f1"])


def test_a_token_over_its_maximum_is_found_by_what_was_told() -> None:
    """P1: whatever the store says; a device that is told twice counts once."""
    ledger = Ledger(SCENARIO, excused=nothing)
    for number, fingerprint in ((1, "f1"), (2, "f2"), (1, "f3")):
        assert ledger.take(told(f"few/00000{number}", f"few-00000{number}", fingerprint)) == []
    (broken,) = ledger.take(told("few/000003", "few-000003", "f4", 3.0))
    assert (broken.promise, broken.gateways, broken.at_s) == ("limit-exceeded", ("few/000003",), 3.0)
    assert "default/few registers at most 2" in broken.seen


def test_what_a_recording_alone_knows_is_entered() -> None:
    """A worker that was cut off said it at its end only."""
    ledger = Ledger(SCENARIO, excused=nothing)
    ledger.take(told("a/000001", "a-000001", "f1"))
    standing = Standing("a/000002", "a-000002", "a", "online", True, ("f1",), "f1", 2.0, None)
    check = by_promise(ledger.close([recording(standing)]))["shared-credential"]
    assert [broken.at_s for broken in check.broken] == [9.0]


def test_what_workers_and_the_store_saw_is_in_the_checks() -> None:
    """The first ones are named, in the order of time; all are counted."""
    ledger = Ledger(SCENARIO, excused=nothing)
    late = [Broken(promise="echoed", gateways=("a/000001",), at_s=1000.0 - n, seen="") for n in range(NAMED + 5)]
    ledger.take(Moment(worker=1, at_s=2.0, second=Second(at_s=2), broken=tuple(late)))
    lost = Broken(promise="no-event", gateways=(), at_s=9.0, seen="lost")
    checks = by_promise(ledger.close([], [Check(promise="no-event", state="broken", looked_at=7, broken=(lost,))]))
    assert (checks["echoed"].in_all, len(checks["echoed"].broken)) == (NAMED + 5, NAMED)
    assert [b.at_s for b in checks["echoed"].broken] == sorted(b.at_s for b in late[:NAMED])
    assert (checks["no-event"].state, checks["no-event"].looked_at) == ("broken", 7)


def test_what_is_excused_is_neither_broken_nor_looked_at() -> None:
    """P7: a device that nobody could suspend logs in."""
    ledger = Ledger(SCENARIO, excused=lambda broken: broken.gateways == ("a/000001",))
    found = [Broken(promise="old-still-works", gateways=(f"a/00000{n}",), at_s=9.0, seen="") for n in (1, 2)]
    ledger.take(Moment(worker=0, at_s=9.0, second=Second(at_s=9), broken=tuple(found)))
    check = by_promise(ledger.close([recording(probed=2)]))["old-still-works"]
    assert (check.state, check.in_all, check.looked_at, check.broken) == ("broken", 1, 1, (found[1],))


def test_absence_is_not_called_held_when_the_run_ended_before_it_showed() -> None:
    """P10: over all workers; a gateway that was seen absent in time counts all the same."""
    early = by_promise(Ledger(SCENARIO, excused=nothing).close([recording(unjudged=3), recording(unjudged=1)]))[
        "not-online"
    ]
    assert (early.state, early.why_not) == ("not checked", "the run ended before 4 of them had to be")
    ledger = Ledger(SCENARIO, excused=nothing)
    ledger.note([Broken(promise="not-online", gateways=("a/000001",), at_s=9.0, seen="")])
    assert by_promise(ledger.close([recording(unjudged=3)]))["not-online"].state == "broken"


def test_gateways_whose_turn_did_not_come_are_not_counted() -> None:
    """A run that ended before any of them arrived has checked nothing."""
    checks = by_promise(
        Ledger(SCENARIO, excused=nothing).close([recording(standing("a", "new"), standing("clones", "new"))])
    )
    for promise in ("echoed", "let-in"):
        assert checks[promise].state == "not checked"
        assert "before any of its gateways arrived" in (checks[promise].why_not or "")


def test_what_could_not_be_seen_broken_is_not_called_held() -> None:
    """Each promise says why it was not checked; the others say at how many it looked."""
    only = Scenario(name="x", summary="", groups=(Group(name="a", gateways=2, arrivals=Storm()),))
    checks = by_promise(Ledger(only, excused=nothing).close([]))
    assert {promise for promise, check in checks.items() if check.state == "held"} == {"not-online"}
    assert all(check.why_not for check in checks.values() if check.state == "not checked")
    assert "--state-dir" in (checks["no-event"].why_not or "")

    ledger = Ledger(SCENARIO, excused=nothing)
    for fingerprint in ("f1", "f2"):
        ledger.take(told("a/000001", "a-000001", fingerprint))
    store = [Check(promise=promise, state="held", looked_at=5) for promise in ("no-event", "limit-exceeded")]
    standings = [
        standing("a", "online"),
        standing("a", "new"),
        standing("few", "awaiting_reply"),
        standing("few", "new"),
    ]
    checks = by_promise(ledger.close([recording(*standings, repeated=4, probed=1)], store))
    assert {check.state for check in checks.values()} == {"held"}
    assert {promise: check.looked_at for promise, check in checks.items()} == {
        "limit-exceeded": 5, "told-not-durable": 2, "reply-to-another": 6, "shared-credential": 2, "answer-changed": 4,
        "no-event": 5, "old-still-works": 1, "echoed": 1, "let-in": 1, "not-online": 202,
    }  # fmt: skip
