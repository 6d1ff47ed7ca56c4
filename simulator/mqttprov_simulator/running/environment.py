"""What this host is and allows, and whether a fleet fits on it: for the doctor, before each run, and in each result."""

import os
import platform
import resource
from pathlib import Path
from typing import Final, Literal

import msgspec

import mqttprov
from mqttprov_simulator.host import SPARE_CONNECTIONS, SPARE_DESCRIPTORS
from mqttprov_simulator.plan import GATEWAYS_PER_SOURCE
from mqttprov_simulator.report.result import Environment
from mqttprov_simulator.scenario.connections import Connections, any_plan
from mqttprov_simulator.targets.addresses import addresses

# What a gateway takes, measured (docs/reference/figures.md), with a tenth to spare: in a worker and in our broker.
SWARM_BYTES: Final = 4_400
BROKER_BYTES: Final = 3_900
# The two programs as such, beside their gateways.
_BASE_BYTES: Final = 300 << 20
_LOOPBACK_SOURCES: Final = 250
_MOSQUITTO_BACKLOG: Final = 100
_ENOUGH_BACKLOG: Final = 1_024
_GOOD_CLOCKS: Final = frozenset(
    {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "xen", "vmclock", "riscv_clocksource"}
)
_BUSY: Final = 0.3  # of all cores: what others use then shows in every percentile

Level = Literal["ok", "warning", "too small"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `advice`: what to do, if it is not well. `most`: how many gateways it allows."""

    check: str
    level: Level
    seen: str
    advice: str = ""
    most: int | None = None


class _Service(msgspec.Struct, frozen=True):
    """What of the target matters here: how many brokers there are, whether on this host, whether it is Mosquitto."""

    brokers: int
    here: bool
    started: bool  # by the run itself
    mosquitto: bool


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of this host."""

    cores: int
    memory_bytes: int
    available_bytes: int
    load: float
    open_files: int  # the hard limit
    ports: tuple[int, int]
    somaxconn: int
    clock: str


def host(root: Path = Path("/")) -> Host:
    """Read what this host is like; `root` is where /proc and /sys are."""
    memory = _meminfo(root)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    low, _, high = _read(root / "proc/sys/net/ipv4/ip_local_port_range", "32768\t60999").partition("\t")
    return Host(
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=memory.get("MemTotal", 0),
        available_bytes=memory.get("MemAvailable", 0),
        load=os.getloadavg()[0],
        open_files=2**62 if hard == resource.RLIM_INFINITY else hard,
        ports=(int(low), int(high)),
        somaxconn=int(_read(root / "proc/sys/net/core/somaxconn", "4096")),
        clock=_read(root / "sys/devices/system/clocksource/clocksource0/current_clocksource", "unknown"),
    )


def environment(here: Host, settings: dict[str, str]) -> Environment:
    """Give what goes into a result; `settings`: what the target tells of itself."""
    return Environment(
        cores=here.cores,
        memory_bytes=here.memory_bytes,
        kernel=platform.release(),
        python=platform.python_version(),
        mqttprov=mqttprov.__version__,
        load_before=here.load,
        settings={
            "open files": str(here.open_files),
            "ports": f"{here.ports[0]} to {here.ports[1]}",
            "somaxconn": str(here.somaxconn),
            "clock": here.clock,
            **settings,
        },
    )


def examine(
    here: Host,
    gateways: int,
    *,
    workers: int = 1,
    target: str = "embedded",
    planned: Connections | None = None,
    nodelay: str | None = None,
) -> list[Finding]:
    """Say how well a fleet fits here. `target`: embedded, mosquitto or URLs. `planned`: what the plan has open at the
    same time, None: any plan of gateways that stay. `nodelay`: what is known of the broker's TCP_NODELAY.

    Raises TargetError for URLs that are none.
    """
    service, fleet = _service(target), planned or any_plan(gateways)
    return [
        _open_files(here, gateways, fleet, workers, service),
        _ports(here, gateways, fleet, service),
        _memory(here, gateways, service),
        _cores(here, workers, service),
        _backlog(here, fleet.at_once, service),
        _nodelay(ours=service.started, known=nodelay),
        _clock(here),
        _load(here),
    ]


def _service(target: str) -> _Service:
    if target in {"embedded", "mosquitto"}:
        return _Service(1, here=True, started=True, mosquitto=target == "mosquitto")
    brokers = addresses(target)
    return _Service(len(brokers), here=all(one.is_here for one in brokers), started=False, mosquitto=False)


def most_gateways(findings: list[Finding]) -> int:
    """Give the largest honest fleet."""
    return max(0, min(finding.most for finding in findings if finding.most is not None))


def _open_files(here: Host, gateways: int, fleet: Connections, workers: int, service: _Service) -> Finding:
    """Look at the swarm's processes, and at each broker if its limit is this host's. Brokers share a fleet evenly."""
    for_broker = here.open_files - SPARE_DESCRIPTORS
    for_worker = for_broker - SPARE_CONNECTIONS
    shown = "unlimited" if here.open_files >= 2**60 else str(here.open_files)
    fit_workers, fit_brokers = max(0, for_worker * workers), for_broker * service.brokers
    most = min(fit_workers, fit_brokers) if service.here else fit_workers
    allowed = most * gateways // fleet.open
    if fleet.open > fit_workers:
        needed = -(-fleet.open // workers) + SPARE_DESCRIPTORS + SPARE_CONNECTIONS
        fewer_each = f"use --processes {_at_least(fleet.open, for_worker)}, or " if for_worker > 0 else ""
        return Finding(
            "open files", "too small", f"{shown} for a process, {needed} are needed in each process of the swarm",
            f"{fewer_each}run 'ulimit -Hn {needed}' as root before it", allowed,
        )  # fmt: skip
    if not service.here or fleet.open + fleet.lingering <= fit_brokers:
        return Finding("open files", "ok", f"{shown} for a process", most=allowed)
    brokers = _at_least(fleet.open + fleet.lingering, for_broker)
    more = (
        f"give the fleet {brokers} brokers of one service: as many 'mqttprov serve' on one state directory, each with "
        "its own --port, or nodes of a cluster, named together as in --target mqtt://HOST:PORT,mqtt://HOST:PORT"
    )
    if fleet.open > fit_brokers:
        needed = -(-fleet.open // service.brokers) + SPARE_DESCRIPTORS
        each = "the broker" if service.brokers == 1 else f"each of the {service.brokers} brokers"
        seen = f"{shown} for a process, {needed} are needed in {each}"
        return Finding(
            "open files", "too small", seen, f"{more}; or run 'ulimit -Hn {needed}' as root before it", allowed
        )
    old = fleet.lingering // service.brokers
    return Finding(
        "open files", "warning",
        f"{shown} for a process: a busy broker may not have seen {old} connections end, and lacks room for them",
        f"let gateways arrive spread over minutes, or {more}", allowed,
    )  # fmt: skip


def _at_least(connections: int, room: int) -> int:
    return -(-connections // max(1, room))


def _ports(here: Host, gateways: int, fleet: Connections, service: _Service) -> Finding:
    """Look at the ports of this host: as many towards each broker, and from each of loopback's addresses."""
    ports = here.ports[1] - here.ports[0] + 1
    if service.here:
        most = _LOOPBACK_SOURCES * min(GATEWAYS_PER_SOURCE, ports // 2 * service.brokers)
        seen = f"{ports} for each of {_LOOPBACK_SOURCES} addresses of loopback"
        fits = gateways <= most
    else:
        most = ports * service.brokers * gateways // fleet.ports
        seen = f"{ports} towards {'one' if service.brokers == 1 else 'each'} broker"
        fits = fleet.ports <= ports * service.brokers
    if fits:
        return Finding("ports", "ok", seen, most=most)
    return Finding(
        "ports", "too small", seen,
        "widen net.ipv4.ip_local_port_range, as in: sysctl net.ipv4.ip_local_port_range='10000 65000'", most,
    )  # fmt: skip


def _memory(here: Host, gateways: int, service: _Service) -> Finding:
    each = SWARM_BYTES + (BROKER_BYTES if service.here else 0)
    base = _BASE_BYTES * (service.brokers if service.here else 1)
    most = max(0, here.available_bytes - base) // each
    needed = (base + gateways * each) >> 20
    seen = f"{here.available_bytes >> 20} MiB are free, about {needed} MiB are needed"
    if gateways > most:
        return Finding("memory", "too small", seen, "ask for fewer gateways, or use several machines", most)
    return Finding("memory", "ok", seen, most=most)


def _cores(here: Host, workers: int, service: _Service) -> Finding:
    busy = workers + (service.brokers if service.here else 0) + (1 if service.mosquitto else 0)
    seen = f"{here.cores} for {busy} busy processes"
    if busy > here.cores:
        return Finding("cores", "warning", seen, "the figures are those of programs that share cores; offer less")
    return Finding("cores", "ok", seen)


def _backlog(here: Host, at_once: int, service: _Service) -> Finding:
    backlog = min(here.somaxconn, _MOSQUITTO_BACKLOG) if service.mosquitto else here.somaxconn
    why = f"{backlog} connections can wait to be accepted" + (
        ", which Mosquitto fixes at 100" if service.mosquitto else ""
    )
    if at_once > backlog * service.brokers:
        seen = f"{why}; up to {at_once} gateways arrive within 0.1 s"
        return Finding("backlog", "warning", seen, "each beyond it may lose a second or more; let them arrive slower")
    if not service.mosquitto and backlog < _ENOUGH_BACKLOG:
        return Finding("backlog", "warning", why, f"run: sysctl net.core.somaxconn={_ENOUGH_BACKLOG}")
    return Finding("backlog", "ok", why)


def _nodelay(*, ours: bool, known: str | None) -> Finding:
    if ours or known == "on":
        return Finding("nodelay", "ok", "the broker sends at once")
    return Finding(
        "nodelay", "warning", "what the broker does cannot be seen from here",
        "a Mosquitto needs 'set_tcp_nodelay true', or each step takes 40 ms",
    )  # fmt: skip


def _clock(here: Host) -> Finding:
    if here.clock in _GOOD_CLOCKS:
        return Finding("clock", "ok", here.clock)
    return Finding("clock", "warning", here.clock, "reading it may cost microseconds each time; prefer tsc")


def _load(here: Host) -> Finding:
    seen = f"{here.load:.1f} on {here.cores} cores"
    if here.load > _BUSY * here.cores:
        return Finding("load", "warning", seen, "others are at work here; end them, or do not trust the percentiles")
    return Finding("load", "ok", seen)


def _meminfo(root: Path) -> dict[str, int]:
    """Give sizes in bytes by name."""
    lines = _read(root / "proc/meminfo", "").splitlines()
    return {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines) if value}


def _read(path: Path, otherwise: str) -> str:
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return otherwise
