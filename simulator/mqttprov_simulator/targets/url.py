"""Brokers that run somewhere already, several of one service if need be. Nothing of them is ours: they can be connected
to, no more.

With its state directory, profiles and tokens of the scenario are made there, operators act, and the store is looked at.
"""

from pathlib import Path
from typing import Final, Self

from mqttprov.admin import Admin, StateError, StoreUnavailable
from mqttprov_simulator.running.values import Endpoint, TokenKey
from mqttprov_simulator.scenario.model import Scenario, TargetFault, Token
from mqttprov_simulator.targets.addresses import Address, addresses
from mqttprov_simulator.targets.preparing import Prepared, prepare, prepare_operator
from mqttprov_simulator.targets.target import TargetError


class UrlTarget:
    """Brokers by their addresses (a `Target`)."""

    def __init__(self, url: str, endpoints: tuple[Endpoint, ...], prepared: Prepared, state: Path | None) -> None:
        self.name: Final = url
        self.endpoints: Final = endpoints
        self.tokens: Final = prepared.tokens
        self.operator: Final = prepared.operator
        self.state: Final = state
        whose = "its" if len(endpoints) == 1 else "their"
        self.about: Final = {
            "broker": f"at {url}; {whose} versions and settings are not ours to see",
            **({} if len(endpoints) == 1 else {"brokers": f"{len(endpoints)}, the gateways in turn"}),
        }

    @classmethod
    def prepared(
        cls, url: str, scenario: Scenario, *, ca: Path | None, token: TokenKey | None, state: Path | None
    ) -> Self:
        """See that the scenario can be run there, and make what it needs if `state` is given.

        `ca`: certificates (PEM) to verify the broker by, for mqtts. `token`: what all gateways provision with; without
        it they need `state`. Raises TargetError.
        """
        endpoints = tuple(_endpoint(address, ca) for address in addresses(url))
        _check(scenario, endpoints[0], state, token)
        made = Prepared({}, None)
        if state is not None:
            try:
                with Admin(state, actor="swarm") as admin:
                    made = (
                        prepare(scenario, admin, None)
                        if token is None
                        else Prepared({}, prepare_operator(scenario, admin))
                    )
            except (StateError, StoreUnavailable) as error:
                raise TargetError(str(error)) from error
        if token is not None:
            places = [(group.profile, group.token) for group in scenario.groups]
            made = Prepared({f"{profile}/{name}": token for profile, name in places}, made.operator)
        return cls(url, endpoints, made, state)

    def pids(self) -> dict[str, int]:
        """Give none: its processes are not ours."""
        return {}

    def strike(self, fault: TargetFault) -> None:
        """Raise TargetError: only what was started here can be struck."""
        raise TargetError(f"{fault.kind} cannot be done to {self.name}, which was not started by this run")

    def heal(self, fault: TargetFault) -> None:
        """Raise TargetError, as `strike`."""
        self.strike(fault)

    def trouble(self) -> str | None:
        """Give none: it shows in what gateways see."""
        return None


def _endpoint(address: Address, ca: Path | None) -> Endpoint:
    if address.scheme == "mqtt":
        return Endpoint(host=address.host, port=address.port)
    try:
        pem = None if ca is None else ca.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"the CA certificates cannot be read: {error}") from error
    return Endpoint(host=address.host, port=None, tls_port=address.port, ca_pem=pem)


def _check(scenario: Scenario, endpoint: Endpoint, state: Path | None, token: TokenKey | None) -> None:
    if scenario.target_faults:
        kinds = ", ".join(dict.fromkeys(fault.kind for fault in scenario.target_faults))
        raise TargetError(
            f"the scenario does {kinds} to its target, which is possible only with what this run starts itself: "
            "use the target embedded or mosquitto, or leave these faults out"
        )
    ways = {group.tls or group.credentials == "X509_CERTIFICATE" for group in scenario.groups}
    if len(ways) > 1:
        raise TargetError(
            "some groups of the scenario connect with TLS and others without, and a URL stands for one of the two: "
            "use the target embedded or mosquitto, or write tls = true for all or none"
        )
    for group in scenario.groups:
        if endpoint.tls_port is None and (group.tls or group.credentials == "X509_CERTIFICATE"):
            raise TargetError(f"group {group.name!r} uses TLS; give the target as mqtts://HOST:PORT")
        if endpoint.port is None and not (group.tls or group.credentials == "X509_CERTIFICATE"):
            raise TargetError(
                f"group {group.name!r} connects without TLS; give the target as mqtt://HOST:PORT, or write tls = true"
            )
    if state is None and (needs := _needs_state(scenario)):
        raise TargetError(
            f"for {needs} the run must reach into the state directory of the target; give it by --state-dir"
        )
    if token is None and state is None:
        raise TargetError(
            "gateways need a registration token: give --key and --secret-file, or --state-dir to have tokens made there"
        )
    if token is not None and (wants := _wants_tokens(scenario)):
        raise TargetError(
            f"the scenario needs {wants}, which one token for all cannot give; leave out --key and --secret-file and "
            "give --state-dir, to have it made there"
        )


def _needs_state(scenario: Scenario) -> str:
    """Say what of the scenario an operator does."""
    needs: list[str] = [*dict.fromkeys(action.kind for action in scenario.actions)]
    needs += [f"RPCs to group {group.name!r}" for group in scenario.groups if group.life.rpc_every_s]
    return ", ".join(needs)


def _wants_tokens(scenario: Scenario) -> str:
    """Say which profiles and tokens must be the scenario's own."""
    wants = [
        f"profile {profile.name!r} ({profile.strategy}, {profile.reprovision})"
        for profile in scenario.profiles
        if (profile.strategy, profile.reprovision) != ("allow-creating", "reuse")
    ]
    wants += [f"token {_said(token)}" for token in scenario.tokens if token.max_registrations is not None]
    return ", ".join(wants)


def _said(token: Token) -> str:
    return f"{token.name!r} (at most {token.max_registrations} registrations)"
