"""From an assignment to its gateways: who they are, how they connect, what strikes them. Nothing begins here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from mqttprov.gateway.requests import ProvisionRequest, encode_request
from mqttprov_simulator.chance import ChanceStream, sub_seed
from mqttprov_simulator.disk import Disk
from mqttprov_simulator.driver import Network, Route
from mqttprov_simulator.gateway_spec import GatewaySpec, Kind
from mqttprov_simulator.plan import GATEWAYS_PER_SOURCE
from mqttprov_simulator.running.expected import expected_of
from mqttprov_simulator.running.keys import OwnCertificate, own_certificate, server_context
from mqttprov_simulator.running.promises import Holding
from mqttprov_simulator.running.values import Assignment, Endpoint
from mqttprov_simulator.scenario.drawing import Chances, DrawnGateway, concerns, gateways, machine_chance, timed_strikes
from mqttprov_simulator.scenario.model import GatewayFault, Group
from mqttprov_simulator.struck_gateway import StrikeWatcher, StruckGateway
from mqttprov_simulator.virtual_gateway import VirtualGateway

_VERSIONS: Final = {"3.1.1": 4, "5": 5}
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_LOGIN_LETTERS: Final = 20  # as the shipped gateway makes up its own


class WorkerError(Exception):
    """The worker cannot do its part; the text says why and what to do."""


class TimedStrike(msgspec.Struct, frozen=True):
    """A fault by time and the gateway that it hits. `at_s`: seconds since the planned start."""

    at_s: float
    gateway: StruckGateway
    fault: GatewayFault


def holdings_of(assignment: Assignment) -> list[Holding]:
    """Draw the worker's share, in the order of arrival."""
    scenario = assignment.scenario
    drawn = gateways(scenario, assignment.worker, assignment.workers)
    return [Holding(one, expected_of(scenario, one)) for one in drawn]


class Routes:
    """The ways to the target: by broker, port and source address, each made once."""

    def __init__(
        self, network: Network, endpoints: Sequence[Endpoint], addresses: Sequence[str], gateways_in_all: int
    ) -> None:
        """`addresses`: what the endpoints' hosts are, as numbers. Large swarms connect from several (ports run out)."""
        self._network: Final = network
        self._brokers: Final = list(zip(endpoints, addresses, strict=True))
        self._has_sources: Final = gateways_in_all > GATEWAYS_PER_SOURCE
        self._made: dict[tuple[int, bool, str | None], Route] = {}

    @property
    def brokers(self) -> int:
        """How many there are."""
        return len(self._brokers)

    def of(self, number: int, *, tls: bool, group: str) -> Route:
        """Give the way of the gateway with this number in the whole run. Raises WorkerError without such a port."""
        return self._route(number, self._source_of(number), tls=tls, group=group)

    def probing(self, number: int, *, tls: bool) -> Route:
        """Give a way whose source nobody else has, so that refusals there lock nobody out.

        The brokers take turns, whoever's gateway it is: what has ended is to be refused by each of them.
        """
        source = f"127.0.250.{1 + number % 250}" if self._is_loopback(number) else None
        return self._route(number, source, tls=tls, group="probes")

    def lonely(self, number: int, *, tls: bool, group: str) -> Route | None:
        """Give a way from an address of the gateway's own; None where there are none to choose from."""
        if not self._is_loopback(number):
            return None
        source = f"127.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        return self._route(number, source, tls=tls, group=group)

    def operator(self, broker: int) -> Route:
        """Give the way of an operator to one of the brokers."""
        return self._route(broker, None, tls=self._brokers[broker][0].port is None, group="operator")

    def _route(self, number: int, source: str | None, *, tls: bool, group: str) -> Route:
        broker = number % len(self._brokers)
        route = self._made.get((broker, tls, source))
        if route is None:
            endpoint, address = self._brokers[broker]
            port = endpoint.tls_port if tls else endpoint.port
            if port is None:
                kind, other = ("TLS", "false") if tls else ("plain", "true")
                raise WorkerError(
                    f"the target has no {kind} port, which the group {group} connects to; "
                    f"set tls = {other} there, or give a target with one"
                )
            context = server_context(endpoint.ca_pem) if tls else None
            route = Route(self._network, endpoint.host, address, port, tls=context, source=source)
            self._made[broker, tls, source] = route
        return route

    def certified(self, number: int, group: str, certificate: OwnCertificate) -> Route:
        """Make the way with a certificate of one's own: 2 ms and 23 KiB, so once and before the start."""
        endpoint, address = self._brokers[number % len(self._brokers)]
        port = endpoint.tls_port
        if port is None:
            raise WorkerError(
                f"the group {group} logs in with certificates, and the target has no TLS port; give one that has"
            )
        context = certificate.context(endpoint.ca_pem)
        return Route(self._network, endpoint.host, address, port, tls=context, source=self._source_of(number))

    def _is_loopback(self, number: int) -> bool:
        return self._brokers[number % len(self._brokers)][1].startswith("127.")

    def _source_of(self, number: int) -> str | None:
        if not self._has_sources or not self._is_loopback(number):
            return None
        return f"127.0.0.{2 + number // GATEWAYS_PER_SOURCE}"


class Population:
    """The gateways of one worker, and the faults by time that hit them."""

    def __init__(self, assignment: Assignment, holdings: list[Holding], routes: Routes, folder: Path) -> None:
        """`folder`: where keys and credentials files go."""
        self.gateways: list[VirtualGateway] = []
        self.strikes: list[TimedStrike] = []
        self._assignment: Final = assignment
        self._scenario: Final = assignment.scenario
        self._holdings: Final = holdings
        self._routes: Final = routes
        self._folder: Final = folder
        self._settings: Final = assignment.scenario.gateway.machine_settings()
        self._by_time: Final = any(fault.at_s is not None for fault in assignment.scenario.faults)
        self.disk: Disk | None = None
        self._kinds: dict[str, Kind] = {}

    def make(self, watch: StrikeWatcher) -> None:
        """Make them all. Raises WorkerError, OSError."""
        for number, holding in enumerate(self._holdings):
            self.gateways.append(self._gateway(number, holding.drawn, watch))
        self.strikes.sort(key=lambda strike: strike.at_s)

    def _gateway(self, number: int, drawn: DrawnGateway, watch: StrikeWatcher) -> VirtualGateway:
        spec = self._spec(number, drawn)
        timed = timed_strikes(self._scenario, drawn) if self._by_time else []
        chances = Chances(self._scenario, drawn)
        if not timed and not chances:
            return VirtualGateway(spec, watch)
        gateway = StruckGateway(spec, watch, chances)
        self.strikes += [TimedStrike(strike.at_s, gateway, strike.fault) for strike in timed]
        return gateway

    def _spec(self, number: int, drawn: DrawnGateway) -> GatewaySpec:
        group, identity = drawn.group, drawn.identity
        certificate, certified, folder = None, None, None
        by_certificate = identity.credentials == "X509_CERTIFICATE"
        if by_certificate or group.storage == "disk":
            folder = self._folder / f"{drawn.number:07}"
            folder.mkdir(mode=0o700)
            if by_certificate:
                certificate = own_certificate(self._scenario.seed, identity.name, drawn.place, drawn.device, folder)
                certified = self._routes.certified(drawn.number, group.name, certificate)
        return GatewaySpec(
            number=number,
            name=drawn.gateway,
            device=drawn.device,
            request=self._request(drawn, None if certificate is None else certificate.pem),
            kind=self._kind(group),
            route=self._routes.of(drawn.number, tls=group.tls, group=group.name),
            chance=machine_chance(self._scenario, drawn),
            certified_route=certified,
            lonely_route=self._lonely_route(drawn),
            folder=folder,
        )

    def _lonely_route(self, drawn: DrawnGateway) -> Route | None:
        """A server locks out the address of who guesses: a wrong secret must not cost the neighbours their entry."""
        group = drawn.group
        for fault in self._scenario.faults:
            if fault.kind == "wrong-secret" and concerns(fault.groups, group):
                return self._routes.lonely(drawn.number, tls=group.tls, group=group.name)
        return None

    def _kind(self, group: Group) -> Kind:
        kind = self._kinds.get(group.name)
        if kind is None:
            if group.storage == "disk" and self.disk is None:
                self.disk = Disk()
            kind = self._kinds[group.name] = Kind(
                settings=self._settings,
                version=_VERSIONS[group.mqtt],
                stays=group.stay,
                disk=self.disk if group.storage == "disk" else None,
                own_topics=self._assignment.endpoints[0].own_topics,
            )
        return kind

    def _request(self, drawn: DrawnGateway, certificate_pem: str | None) -> bytes:
        """Make the provision request: of a clone the bytes of its original."""
        identity = drawn.identity
        token = self._assignment.tokens.get(f"{identity.profile}/{identity.token}")
        if token is None:
            raise WorkerError(
                f"the target has no token {identity.profile}/{identity.token}, which the group {identity.name} uses"
            )
        username = password = None
        if identity.credentials == "MQTT_BASIC":
            draw = ChanceStream(sub_seed(self._scenario.seed, "login", identity.name), drawn.place)
            username, password = _letters(draw), _letters(draw)
        return encode_request(
            ProvisionRequest(
                provision_device_key=token.key,
                provision_device_secret=token.secret,
                device_name=drawn.device,
                credentials_type=identity.credentials,
                username=username,
                password=password,
                certificate_pem=certificate_pem,
            )
        )


def _letters(draw: ChanceStream) -> str:
    return "".join([_LETTERS[int(draw() * len(_LETTERS))] for _ in range(_LOGIN_LETTERS)])
