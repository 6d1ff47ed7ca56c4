"""Where the files of a Mosquitto with our gate are: all below one directory, or where Debian expects them."""

from pathlib import Path
from typing import Final, Self

import msgspec

SYSTEM_STATE: Final = Path("/var/lib/mqttprov")
BROKER_USER: Final = "mosquitto"  # as Debian's package makes it
RESPONDER_USER: Final = "mqttprov"


class Places(msgspec.Struct, frozen=True):
    """Paths as the running programs see them; `root` is put before each of them while files are written."""

    root: Path
    system: bool
    state: Path
    configuration: Path
    plugin: Path
    pepper: Path  # what the gate reads
    gate_password: Path  # the responder's password, as the gate reads it
    password: Path  # the same, as the responder reads it
    responder: Path
    certificate: Path
    private_key: Path
    units: Path

    @classmethod
    def below(cls, folder: Path, state: Path) -> Self:
        """Everything below one directory, for one ordinary user."""
        return cls(
            root=Path("/"),
            system=False,
            state=state,
            configuration=folder / "mosquitto.conf",
            plugin=folder / "mqttprov_gate.so",
            pepper=state / "keys" / "pepper",
            gate_password=folder / "responder-password",
            password=folder / "responder-password",
            responder=folder / "responder.toml",
            certificate=folder / "tls" / "server.pem",
            private_key=folder / "tls" / "server-key.pem",
            units=folder / "systemd",
        )

    @classmethod
    def of_system(cls, root: Path, state: Path) -> Self:
        """Debian's places. What the broker's user alone may read lies in a folder of its own: the gate takes no secret
        that a group may read, and the broker gets none that it does not need.
        """
        gate = Path("/etc/mosquitto/mqttprov")
        return cls(
            root=root,
            system=True,
            state=state,
            configuration=Path("/etc/mosquitto/conf.d/mqttprov.conf"),
            plugin=Path("/usr/lib/mqttprov/mqttprov_gate.so"),
            pepper=gate / "pepper",
            gate_password=gate / "responder-password",
            password=Path("/etc/mqttprov/responder-password"),
            responder=Path("/etc/mqttprov/responder.toml"),
            certificate=gate / "server.pem",
            private_key=gate / "server-key.pem",
            units=Path("/etc/systemd/system"),
        )

    def real(self, path: Path) -> Path:
        """Give where a path is now, before it is seen from below the root."""
        return self.root / path.relative_to("/")

    @property
    def live(self) -> bool:
        """Whether the root is that of this machine, and not of an image or a package that is being made."""
        return self.root == Path("/")
