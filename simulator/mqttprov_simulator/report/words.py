"""How figures and names become words for people: one way in pages and tables. Pure."""

from typing import Final

from mqttprov_simulator.running.values import Promise

UNKNOWN: Final = "-"

# What a promise says when it holds, and which one it is (docs/reference/words.md).
PROMISES: Final[dict[Promise, tuple[str, str]]] = {
    "limit-exceeded": ("No token registered more than its maximum", "P1"),
    "told-not-durable": ("Credentials that were told log in", "P2"),
    "reply-to-another": ("A reply reached only who had asked", "P3"),
    "shared-credential": ("No two gateways were told one credential", "P3"),
    "answer-changed": ("The same request got the same answer", "P4"),
    "no-event": ("Every registration has its audit event", "P5"),
    "old-still-works": ("Superseded and revoked credentials were refused", "P7"),
    "echoed": ("No gateway got what a gateway published", ""),
    "let-in": ("Who was to be refused stayed out", ""),
    "not-online": ("Every expected gateway was online in time", "P10"),
}


def count(value: float) -> str:
    """Give a count: 10,000."""
    return f"{value:,.0f}"


def rate(value: float | None) -> str:
    """Give something per second: 0.4/s, 12.5/s, 1,024/s."""
    return UNKNOWN if value is None else f"{_short(value)}/s"


def milliseconds(value_ms: float | None) -> str:
    """Give a short time: 0.61 ms, 4.1 ms, 58 ms, 1.20 s."""
    if value_ms is None:
        return UNKNOWN
    if value_ms >= 999.5:
        return seconds(value_ms / 1000)
    return f"{value_ms:.2f} ms" if value_ms < 0.995 else f"{_short(value_ms)} ms"


def seconds(value_s: float | None) -> str:
    """Give a time: 1.20 s, 12.4 s, 3 min 05 s, 2 h 03 min."""
    if value_s is None:
        return UNKNOWN
    if value_s < 9.995:
        return f"{value_s:.2f} s"
    if value_s < 119.95:
        return f"{value_s:.1f} s"
    whole = round(value_s)
    if whole < 7_200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(value_bytes: float) -> str:
    """Give an amount of memory: 820 KiB, 96 MiB, 23.3 GiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if value_bytes >= size:
            return f"{_short(value_bytes / size)} {unit}"
    return f"{_short(value_bytes / 1024)} KiB"


def share(value: float) -> str:
    """Give a share: 0.3 %, 12 %; never 100 % or 0 % of what is not quite all or nothing."""
    percent = value * 100
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.0f} %" if percent in {0, 100} or 9.95 <= percent <= 99 else f"{percent:.1f} %"


def several(number: float, one: str, many: str | None = None) -> str:
    """Give a number with its noun: 1 gateway, 2 gateways."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def listed(names: list[str]) -> str:
    """Give names as a person would say them: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 99.95 or value == int(value) else f"{value:.1f}"
