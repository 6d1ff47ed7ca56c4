"""What this host allows and what it did behind our back: file descriptors and the kernel's TCP counters."""

import resource
from pathlib import Path
from typing import Final

# Beside one per connection: the loop, the standard streams, the broker's pipes, libraries.
SPARE_DESCRIPTORS: Final = 64
# What a process of the swarm has beside those of its gateways: probes, operators, and those that are just closing.
SPARE_CONNECTIONS: Final = 512
# Each of them means that a SYN was lost or thrown away, which costs its connection a second (simulation.md P2).
_COUNTERS: Final = ("ListenOverflows", "ListenDrops", "TCPTimeouts")


class HostLimitError(RuntimeError):
    """This host, as it is set up, cannot carry the swarm; the text says what to change."""


def allow_connections(count: int, lingering: int = 0) -> None:
    """Raise this process' limit of open files, so that `count` connections fit; children inherit it.

    `lingering`: as many more, if the hard limit allows it. Raises HostLimitError if that is too low for `count`.
    """
    needed, wished = count + SPARE_DESCRIPTORS, count + lingering + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wished:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise HostLimitError(
            f"{count} connections need {needed} open files, but this host allows {hard}; "
            f"ask for fewer gateways, or raise the limit with 'ulimit -Hn {needed}' as root"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wished if hard == resource.RLIM_INFINITY else min(wished, hard), hard))


def tcp_counters(path: Path = Path("/proc/net/netstat")) -> dict[str, int]:
    """Give the kernel's counters of connections that did not come about at once; {} where there are none."""
    try:
        lines = path.read_text("ascii").splitlines()
    except OSError:
        return {}
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names.startswith("TcpExt:"):
            counters = dict(zip(names.split()[1:], values.split()[1:], strict=False))
            return {name: int(counters[name]) for name in _COUNTERS if name in counters}
    return {}
