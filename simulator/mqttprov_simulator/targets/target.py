"""What every target can do. The contract only."""

from pathlib import Path
from typing import Protocol

from mqttprov_simulator.running.values import Endpoint, TokenKey
from mqttprov_simulator.scenario.model import TargetFault


class TargetError(Exception):
    """The target cannot be had, or cannot do what the scenario asks; the text says why and what to do."""


class Target(Protocol):
    """A broker with its responder while a run lasts; made by a context manager that ends what it started."""

    name: str
    endpoint: Endpoint
    tokens: dict[str, TokenKey]  # by "profile/token"
    operator: tuple[str, str] | None
    state: Path | None  # its state directory, where we may look; None: the store is not ours to see
    about: dict[str, str]  # versions and settings for the report

    def pids(self) -> dict[str, int]:
        """Processes of the target by their part ("broker", "responder"), as they are now; {} if they are not ours."""
        ...

    def strike(self, fault: TargetFault) -> None:
        """Begin a fault; returns at once. Raises TargetError where the kind is not possible here."""
        ...

    def heal(self, fault: TargetFault) -> None:
        """End it, and wait until the target takes logins again (30 s at most). Raises TargetError if it does not."""
        ...

    def trouble(self) -> str | None:
        """Say what is wrong if something of it ended by itself, with its last words; None when all is well."""
        ...
