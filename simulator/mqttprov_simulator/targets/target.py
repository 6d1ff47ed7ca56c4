"""What every target can do. The contract only."""

from pathlib import Path
from typing import Protocol

from mqttprov_simulator.running.values import Endpoint, TokenKey
from mqttprov_simulator.scenario.model import TargetFault


class TargetError(Exception):
    """The target cannot be had, or cannot do what the scenario asks; the text says why and what to do."""


class Target(Protocol):
    """A broker with its responder while a run lasts; made by a context manager that ends what it started."""

    @property
    def name(self) -> str:
        """What it is called in reports: "embedded", "mosquitto" or its URLs."""
        ...

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where gateways connect to, in turn if there are several (`Assignment`); the same after restarts."""
        ...

    @property
    def tokens(self) -> dict[str, TokenKey]:
        """The registration tokens of the run, by "profile/token"."""
        ...

    @property
    def operator(self) -> tuple[str, str] | None:
        """Name and password of an operator who calls RPCs, if the scenario needs one."""
        ...

    @property
    def state(self) -> Path | None:
        """Its state directory, where we may look and act; None: the store is not ours to see."""
        ...

    @property
    def about(self) -> dict[str, str]:
        """Versions and settings, for the report."""
        ...

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
