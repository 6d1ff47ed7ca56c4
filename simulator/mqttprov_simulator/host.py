"""What this host allows and what it did behind our back: file descriptors and the kernel's TCP counters."""

import resource
from pathlib import Path
from typing import Final

# Beside one per connection: the loop, the standard streams, the broker's pipes, libraries.
SPARE_DESCRIPTORS: Final = 64
# Each of them means that a SYN was lost or thrown away, which costs its connection a second (simulation.md P2).
_COUNTERS: Final = ("ListenOverflows", "ListenDrops", "TCPTimeouts")


def broker_connections(gateways: int) -> int:
    """Give how many connections a broker may have of so many gateways: one each, and old ones of a quarter of
    them that have not ended yet."""
    return gateways + gateways // 4


class HostLimitError(RuntimeError):
    """This host, as it is set up, cannot carry the swarm; the text says what to change."""


def allow_connections(count: int) -> None:
    """Raise this process' limit of open files, so that `count` connections fit; children inherit it.

    Raises HostLimitError if the hard limit is lower.
    """
    needed = count + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise HostLimitError(
            f"{count} connections need {needed} open files, but this host allows {hard}; "
            f"ask for fewer gateways, or raise the limit with 'ulimit -Hn {needed}' as root"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


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
