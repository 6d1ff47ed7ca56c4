"""What a scenario needs in the store before it begins: profiles, registration tokens, devices of the factory's list, an
operator. Made by `mqttprov.admin`, as an operator would.
"""

import secrets
from collections.abc import Iterator

import msgspec

from mqttprov.admin import Admin, IssuedToken, NotFound, OperatorRole, Profile, ReprovisionPolicy, Strategy, TokenChange
from mqttprov.responder.device_import import ImportLine, LineFault
from mqttprov_simulator.running.values import TokenKey
from mqttprov_simulator.scenario import model
from mqttprov_simulator.scenario.drawing import gateways
from mqttprov_simulator.targets.target import TargetError

_STRATEGIES = {"allow-creating": Strategy.ALLOW_CREATE, "pre-provisioned": Strategy.PRE_PROVISIONED}
_DEFAULT = "default"


class Prepared(msgspec.Struct, frozen=True):
    """What was made. `tokens`: by "profile/token". `operator`: name and password, if the scenario needs one."""

    tokens: dict[str, TokenKey]
    operator: tuple[str, str] | None

    def __repr__(self) -> str:
        return f"Prepared({', '.join(self.tokens)})"


def prepare(scenario: model.Scenario, admin: Admin, born: IssuedToken | None) -> Prepared:
    """Make all of it. `born`: the token of the profile `default`, None where the store is not ours alone.

    In a store that is not ours alone, profiles of these names must be as the scenario has them, and the tokens are new
    ones with a name of their own. Raises TargetError.
    """
    tag = "" if born is not None else f"-{secrets.token_hex(3)}"
    issued = {} if born is None else {_place(born.profile, born.name): born}
    for profile in scenario.profiles:
        made = _profile(admin, profile)
        if made is not None and not tag:
            issued[_place(made.profile, made.name)] = made
    for token in _tokens(scenario):
        place = _place(token.profile, token.name)
        limit = TokenChange(max_registrations=token.max_registrations)
        if place not in issued:
            issued[place] = _new_token(admin, token.profile, token.name + tag, limit)
        elif token.max_registrations is not None:
            admin.update_token(issued[place].key, None, limit)
    _devices(scenario, admin)
    tokens = {place: TokenKey(one.key, one.secret) for place, one in issued.items()}
    return Prepared(tokens, prepare_operator(scenario, admin))


def prepare_operator(scenario: model.Scenario, admin: Admin) -> tuple[str, str] | None:
    """Make an operator if the scenario calls RPCs; give name and password."""
    if not any(group.life.rpc_every_s for group in scenario.groups):
        return None
    name = f"swarm-{secrets.token_hex(3)}"
    return name, admin.create_operator(name, OperatorRole.OPERATOR)


def _place(profile: str, token: str) -> str:
    return f"{profile}/{token}"


def _tokens(scenario: model.Scenario) -> Iterator[model.Token]:
    """Give the tokens that are listed, and those that groups name besides."""
    yield from scenario.tokens
    listed = {(token.profile, token.name) for token in scenario.tokens}
    for used in dict.fromkeys((group.profile, group.token) for group in scenario.groups):
        if used not in listed:
            yield model.Token(profile=used[0], name=used[1])


def _profile(admin: Admin, wanted: model.Profile) -> IssuedToken | None:
    """Make a profile and give its token; None if there is one of this name that is the same."""
    profile = Profile(
        0, wanted.name, strategy=_STRATEGIES[wanted.strategy], reprovision=ReprovisionPolicy(wanted.reprovision)
    )
    try:
        there = admin.profile(wanted.name).profile
    except NotFound:
        return admin.create_profile(profile)
    if (there.strategy, there.reprovision) != (profile.strategy, profile.reprovision):
        raise TargetError(
            f"the target has a profile {wanted.name!r} already, with strategy {there.strategy} and reprovision "
            f"{there.reprovision}; give the scenario's profile another name"
        )
    return None


def _new_token(admin: Admin, profile: str, name: str, settings: TokenChange) -> IssuedToken:
    try:
        return admin.create_token(profile, name, settings)
    except NotFound as error:
        raise TargetError(f"{error}; list it in the scenario, as [[profile]]") from error


def _devices(scenario: model.Scenario, admin: Admin) -> None:
    """Make the devices of groups whose profile takes only those it knows; not of groups that are to be refused."""
    listed = {profile.name for profile in scenario.profiles if profile.strategy == "pre-provisioned"}
    known = {group.name for group in scenario.groups if group.profile in listed and group.expect != "refused"}
    if not known:
        return
    lines = (
        ImportLine(number, drawn.device, drawn.identity.profile)
        for number, drawn in enumerate(gateways(scenario), 1)
        if drawn.group.name in known and drawn.group.clones_of is None
    )
    faults: list[LineFault] = []
    admin.import_devices(lines, tell_fault=faults.append)
    if faults:
        raise TargetError(f"{len(faults)} devices cannot be made; the first: {faults[0].text}")
