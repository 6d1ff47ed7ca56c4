"""A target that runs already: what is asked of the user, and what cannot be done to it."""

import threading
import time
from pathlib import Path

import pytest

from mqttprov.admin import Admin, Profile, ReprovisionPolicy, initialise
from mqttprov_simulator.running.values import TokenKey
from mqttprov_simulator.scenario.model import Action, Group, Life, Scenario, Storm, TargetFault, Token
from mqttprov_simulator.scenario.model import Profile as ScenarioProfile
from mqttprov_simulator.targets.actions import perform
from mqttprov_simulator.targets.target import TargetError
from mqttprov_simulator.targets.url import UrlTarget

KEY = TokenKey("key", "not-told")
PLAIN, TLS = "mqtt://10.0.0.1", "mqtts://broker.example:8884"


def scenario(**changes: object) -> Scenario:
    """Make one that anything can run, but for the changes."""
    group = Group(name="a", gateways=3, arrivals=Storm())
    return Scenario(**({"name": "tested", "summary": "", "groups": (group,)} | changes))  # type: ignore[arg-type] # any field


def url_target(url: str, what: Scenario, *, token: TokenKey | None = KEY, state: Path | None = None) -> UrlTarget:
    """Make the target, without certificates."""
    return UrlTarget.prepared(url, what, ca=None, token=token, state=state)


def test_one_token_is_for_all_groups() -> None:
    """The default port is that of the scheme; the secret is in no text (P6)."""
    groups = tuple(Group(name=name, gateways=1, arrivals=Storm(), token=name) for name in ("a", "b"))
    target = url_target(PLAIN, scenario(groups=groups))
    assert target.tokens == {"default/a": KEY, "default/b": KEY}
    assert (target.endpoints[0].host, target.endpoints[0].port, target.endpoints[0].tls_port) == (
        "10.0.0.1",
        1883,
        None,
    )
    assert (target.pids(), target.state, target.trouble()) == ({}, None, None)
    assert "not-told" not in repr(target.tokens)


def test_several_brokers_are_one_target() -> None:
    """In the order as written, which is what decides where a gateway goes."""
    target = url_target("mqtt://10.0.0.1:1884, mqtt://b", scenario())
    assert [(one.host, one.port) for one in target.endpoints] == [("10.0.0.1", 1884), ("b", 1883)]
    assert "2" in target.about["brokers"]


def test_tls_is_verified_by_the_given_certificates(tmp_path: Path) -> None:
    """A file that is not there is told."""
    groups = (Group(name="a", gateways=1, arrivals=Storm(), tls=True),)
    ca = tmp_path / "ca.pem"
    with pytest.raises(TargetError, match=r"ca\.pem"):
        UrlTarget.prepared(TLS, scenario(groups=groups), ca=ca, token=KEY, state=None)
    ca.write_text("pem")
    endpoint = UrlTarget.prepared(TLS, scenario(groups=groups), ca=ca, token=KEY, state=None).endpoints[0]
    assert (endpoint.port, endpoint.tls_port, endpoint.ca_pem) == (None, 8884, "pem")


@pytest.mark.parametrize(
    ("url", "changes", "words"),
    [
        ("http://a", {}, "no target"),
        ("mqtt://", {}, "no target"),
        ("mqtt://a:99999", {}, "no target"),
        ("mqtt://a/topic", {}, "no target"),
        ("mqtt://a,embedded", {}, "'embedded' is no target"),
        ("mqtt://a,", {}, "'' is no target"),
        ("mqtt://a,mqtts://b", {}, "with TLS and others without"),
        ("mqtt://a:1884,mqtt://b,mqtt://a:1884", {}, "a:1884 twice"),
        (TLS, {}, "connects without TLS"),
        (PLAIN, {"groups": (Group(name="a", gateways=1, arrivals=Storm(), tls=True),)}, "mqtts://"),
        (PLAIN, {"groups": (Group(name="a", gateways=1, arrivals=Storm(), credentials="X509_CERTIFICATE"),)}, "mqtts"),
        (
            TLS,
            {"groups": tuple(Group(name=n, gateways=1, arrivals=Storm(), tls=n == "a") for n in "ab")},
            "some groups .* with TLS and others without",
        ),
        (PLAIN, {"target_faults": (TargetFault(kind="broker-kill", at_s=1.0),)}, "broker-kill"),
        (PLAIN, {"actions": (Action(kind="suspend-devices", at_s=1.0),)}, "suspend-devices.*--state-dir"),
        (
            PLAIN,
            {"groups": (Group(name="a", gateways=1, arrivals=Storm(), life=Life(rpc_every_s=1.0)),)},
            "RPCs to group 'a'.*--state-dir",
        ),
        (PLAIN, {"tokens": (Token(name="few", max_registrations=2),)}, "'few' .at most 2"),
        (PLAIN, {"profiles": (ScenarioProfile(name="p", reprovision="refuse"),)}, "profile 'p'"),
    ],
)
def test_what_cannot_be_run_there_is_told_by_name(url: str, changes: dict[str, object], words: str) -> None:
    """Faults of the target, actions, RPCs and tokens of one's own need more than an address."""
    with pytest.raises(TargetError, match=words):
        url_target(url, scenario(**changes))


def test_without_token_and_state_directory_it_says_what_to_give(tmp_path: Path) -> None:
    """Also when the directory is none."""
    with pytest.raises(TargetError, match="--secret-file"):
        url_target(PLAIN, scenario(), token=None)
    with pytest.raises(TargetError, match="is not a state directory"):
        url_target(PLAIN, scenario(), token=None, state=tmp_path)


def test_with_the_state_directory_tokens_are_new_ones(tmp_path: Path) -> None:
    """Beside what is there, again and again; a profile that is there otherwise is not touched."""
    state = tmp_path / "state"
    initialise(state)
    what = scenario(
        profiles=(ScenarioProfile(name="p", reprovision="refuse"),),
        tokens=(Token(name="few", profile="p", max_registrations=2),),
        groups=(Group(name="a", gateways=1, arrivals=Storm(), profile="p", token="few", life=Life(rpc_every_s=1.0)),),
    )
    targets = [url_target(PLAIN, what, token=None, state=state) for _ in range(2)]
    assert targets[0].tokens.keys() == {"p/few"}
    assert targets[0].tokens["p/few"].key != targets[1].tokens["p/few"].key
    assert targets[0].operator != targets[1].operator
    with Admin(state) as admin:
        assert [t.max_registrations for t in admin.tokens("p") if t.name.startswith("few-")] == [2, 2]
        admin.create_profile(Profile(0, "other", reprovision=ReprovisionPolicy.REUSE))
    with pytest.raises(TargetError, match="another name"):
        url_target(
            PLAIN, scenario(profiles=(ScenarioProfile(name="other", reprovision="refuse"),)), token=None, state=state
        )
    assert url_target(PLAIN, scenario(), state=state).tokens == {"default/default": KEY}


def test_nothing_can_be_done_to_it() -> None:
    """Neither a fault nor, without its state directory, an operator's action."""
    target = url_target(PLAIN, scenario())
    fault = TargetFault(kind="disk-full", at_s=0.0)
    for do in (target.strike, target.heal):
        with pytest.raises(TargetError, match="disk-full"):
            do(fault)
    action = Action(kind="rotate-devices", at_s=0.0)
    with pytest.raises(TargetError, match="rotate-devices"):
        perform(action, scenario(actions=(action,)), target, began=time.time(), stopping=threading.Event())
