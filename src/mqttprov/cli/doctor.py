"""`mqttprov doctor`: show by doing that a broker keeps replies private, devices apart and promises in time."""

from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_columns, emit_json, say
from mqttprov.cli.request import CaOption, tls_context
from mqttprov.cli.state import JsonOption, StateOption, administering, state_path

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_COLUMNS: Final = {"check": "CHECK", "verdict": "RESULT", "seen": "SEEN"}


def doctor(
    broker: Annotated[str, typer.Option(metavar="URL", help="The broker: mqtt://HOST:PORT or mqtts://HOST:PORT.")],
    tls_ca: CaOption = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Examine a running broker, ours or Mosquitto, and this machine. Exit status 7 when something is wrong.

    With the broker's state directory two devices are registered and ended again, which leaves audit events.
    """
    from mqttprov.brokers.doctor.examination import examine
    from mqttprov.brokers.doctor.finding import Finding, Verdict
    from mqttprov.brokers.doctor.probe import Address

    parts = urlsplit(broker)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise Failure(f"{broker!r} names no broker; give mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS", Exit.USAGE)
    secure = parts.scheme == "mqtts"
    if tls_ca is not None and not secure:
        raise Failure(f"--tls-ca means TLS, but {broker!r} does not; give mqtts://HOST:PORT", Exit.USAGE)
    path = state_path(state)
    here = (path / "mqttprov.db").exists()
    if state is not None and not here:
        raise Failure(f"{path} is not a state directory; name the broker's, or leave --state away", Exit.UNAVAILABLE)
    if secure and tls_ca is None and here:
        tls_ca = path / "authority.pem"
    try:
        port = parts.port or _PORTS[parts.scheme]
    except ValueError as error:
        raise Failure(f"{broker!r}: {error}", Exit.USAGE) from error
    address = Address(parts.hostname, port, tls_context(_PORTS["mqtts"], tls_ca) if secure else None)
    found: list[Finding] = []
    if here:
        with administering(state) as admin:
            found.extend(examine(address, admin))
    else:
        found.extend(examine(address, None))
    bad = sum(finding.verdict is Verdict.WRONG for finding in found)
    rows = [{"check": one.check, "verdict": one.verdict.value, "seen": one.seen} for one in found]
    if json:
        emit_json({"broker": broker, "wrong": bad, "findings": rows})
    else:
        emit_columns(rows, _COLUMNS)
        say("nothing is wrong" if not bad else f"{bad} of {len(rows)} are wrong")
    if bad:
        raise typer.Exit(Exit.FOUND)
