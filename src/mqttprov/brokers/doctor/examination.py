"""The whole examination: from outside first, then by devices of its own, then on this machine."""

from collections.abc import Iterator

from mqttprov.admin import Admin
from mqttprov.brokers.doctor.canaries import examine_devices
from mqttprov.brokers.doctor.finding import Finding, Verdict, right, unknown, wrong
from mqttprov.brokers.doctor.local import examine_machine
from mqttprov.brokers.doctor.probe import Address, NoBroker
from mqttprov.brokers.doctor.sessions import examine_sessions


def examine(address: Address, admin: Admin | None) -> Iterator[Finding]:
    """Look at everything, one finding after the other; `admin` is on the broker's state, if that is here."""
    answers = True
    try:
        for finding in examine_sessions(address):
            answers = answers and not (finding.check == "responder" and finding.verdict is Verdict.WRONG)
            yield finding
        if admin is None:
            yield unknown("devices", "there is no state directory here to make devices with; name it with --state")
        elif answers:
            yield from examine_devices(address, admin)
        else:
            yield unknown("devices", "nothing answers provisioning requests")
        yield right("broker", f"{address.host}:{address.port} speaks MQTT 5")
    except NoBroker as error:
        yield wrong("broker", str(error))
    yield from examine_machine(None if admin is None else admin.path)
