"""What this host is and allows, and whether a fleet fits on it: for the doctor, before each run, and in each result."""

import math
import os
import platform
import resource
from pathlib import Path
from typing import Final, Literal

import msgspec

import mqttprov
from mqttprov_simulator.host import SPARE_DESCRIPTORS, broker_connections
from mqttprov_simulator.plan import GATEWAYS_PER_SOURCE
from mqttprov_simulator.report.result import Environment

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
    at_once: int = 0,
    nodelay: str | None = None,
) -> list[Finding]:
    """Say how well a fleet fits here. `target`: embedded, mosquitto or a URL. `at_once`: the most gateways that arrive
    within a tenth of a second. `nodelay`: what is known of the broker's TCP_NODELAY."""
    ours = target in {"embedded", "mosquitto"}
    return [
        _open_files(here, gateways, workers, ours=ours),
        _ports(here, gateways, ours=ours),
        _memory(here, gateways, ours=ours),
        _cores(here, workers, ours=ours, mosquitto=target == "mosquitto"),
        _backlog(here, at_once, target),
        _nodelay(ours=ours, known=nodelay),
        _clock(here),
        _load(here),
    ]


def most_gateways(findings: list[Finding]) -> int:
    """Give the largest honest fleet."""
    return max(0, min(finding.most for finding in findings if finding.most is not None))


def _open_files(here: Host, gateways: int, workers: int, *, ours: bool) -> Finding:
    each = broker_connections(4) / 4 if ours else 1.0
    most = int((here.open_files - SPARE_DESCRIPTORS) / each) * (1 if ours else workers)
    shown = "unlimited" if here.open_files >= 2**60 else str(here.open_files)
    if gateways <= most:
        return Finding("open files", "ok", f"{shown} for a process", most=most)
    needed = math.ceil(each * gateways) + SPARE_DESCRIPTORS
    return Finding(
        "open files", "too small", f"{shown} for a process, {needed} are needed",
        f"run 'ulimit -Hn {needed}' as root before it" + ("" if ours else ", or use more --processes"), most,
    )  # fmt: skip


def _ports(here: Host, gateways: int, *, ours: bool) -> Finding:
    ports = here.ports[1] - here.ports[0] + 1
    if ours:
        most = _LOOPBACK_SOURCES * min(GATEWAYS_PER_SOURCE, ports // 2)
        seen = f"{ports} for each of {_LOOPBACK_SOURCES} addresses of loopback"
    else:
        most = ports // 2  # two connections of a gateway within a minute, which is how long a port stays taken
        seen = f"{ports} towards one broker"
    if gateways <= most:
        return Finding("ports", "ok", seen, most=most)
    return Finding(
        "ports", "too small", seen,
        "widen net.ipv4.ip_local_port_range, as in: sysctl net.ipv4.ip_local_port_range='10000 65000'", most,
    )  # fmt: skip


def _memory(here: Host, gateways: int, *, ours: bool) -> Finding:
    each = SWARM_BYTES + (BROKER_BYTES if ours else 0)
    most = max(0, here.available_bytes - _BASE_BYTES) // each
    needed = (_BASE_BYTES + gateways * each) >> 20
    seen = f"{here.available_bytes >> 20} MiB are free, about {needed} MiB are needed"
    if gateways > most:
        return Finding("memory", "too small", seen, "ask for fewer gateways, or use several machines", most)
    return Finding("memory", "ok", seen, most=most)


def _cores(here: Host, workers: int, *, ours: bool, mosquitto: bool) -> Finding:
    busy = workers + (0 if not ours else 2 if mosquitto else 1)
    seen = f"{here.cores} for {busy} busy processes"
    if busy > here.cores:
        return Finding("cores", "warning", seen, "the figures are those of programs that share cores; offer less")
    return Finding("cores", "ok", seen)


def _backlog(here: Host, at_once: int, target: str) -> Finding:
    backlog = min(here.somaxconn, _MOSQUITTO_BACKLOG) if target == "mosquitto" else here.somaxconn
    why = f"{backlog} connections can wait to be accepted" + (
        ", which Mosquitto fixes at 100" if target == "mosquitto" else ""
    )
    if at_once > backlog:
        seen = f"{why}; up to {at_once} gateways arrive within 0.1 s"
        return Finding("backlog", "warning", seen, "each beyond it may lose a second or more; let them arrive slower")
    if target != "mosquitto" and backlog < _ENOUGH_BACKLOG:
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
