"""A state directory of a run's own, made as its scenario asks, gone with the run."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mqttprov.admin import Admin, StateError, StoreUnavailable, initialise
from mqttprov_simulator.host import HostLimitError, allow_connections
from mqttprov_simulator.leash import Leash
from mqttprov_simulator.scenario.connections import connections
from mqttprov_simulator.scenario.model import Scenario
from mqttprov_simulator.targets.preparing import Prepared, prepare
from mqttprov_simulator.targets.target import TargetError

_ACTOR: Final = "swarm"
DATABASE: Final = "mqttprov.db"


@contextmanager
def own_leash() -> Iterator[Leash]:
    """Give a temporary folder, with what holds the target's processes. Raises TargetError."""
    try:
        leash = Leash()
    except OSError as error:
        raise TargetError(f"no folder can be made for the target: {error}") from error
    try:
        yield leash
    finally:
        leash.close()


def own_state(path: Path, scenario: Scenario) -> Prepared:
    """Make the state directory with all that the scenario needs. Raises TargetError."""
    try:
        born = initialise(path, actor=_ACTOR)
        with Admin(path, actor=_ACTOR) as admin:
            return prepare(scenario, admin, born)
    except (StateError, StoreUnavailable) as error:
        raise TargetError(f"the state directory of the run cannot be made: {error}") from error


def allow_broker(scenario: Scenario) -> None:
    """Let the broker, which inherits our limit of open files, have the connections of the plan, and old ones.

    Raises TargetError.
    """
    planned = connections(scenario)
    try:
        allow_connections(planned.open, planned.lingering)
    except HostLimitError as error:
        raise TargetError(str(error)) from error


def needs_tls(scenario: Scenario) -> bool:
    """Tell whether a group uses TLS."""
    return any(group.tls or group.credentials == "X509_CERTIFICATE" for group in scenario.groups)


def no_room(state: Path) -> int:
    """Give a size (bytes) beyond which none of the database's files can be written without growing."""
    sizes = [file.stat().st_size for file in (state / DATABASE, state / f"{DATABASE}-wal") if file.exists()]
    return min(sizes, default=resource.RLIM_INFINITY)


def settings_of(state: Path) -> dict[str, str]:
    """Give what of the store changes figures, for the report."""
    disk = os.statvfs(state)
    return {"store": "SQLite, WAL, synchronous=FULL", "free disk": f"{disk.f_bavail * disk.f_frsize >> 20} MiB"}
