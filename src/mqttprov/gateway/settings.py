"""What a gateway is told from outside: server, directory and the eight TB_GW_PROVISIONING_* variables.

Only reading and checking of settings; what is made up when they are silent (name, key pair) is in `identity`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import msgspec

from mqttprov.gateway.replies import CredentialsType

TLS_PORT: Final = 8883
_PREFIX: Final = "TB_GW_PROVISIONING_DEVICE_"


class SettingsError(ValueError):
    """A setting is missing or makes no sense; the text says which one and what to do."""


class SecretText:
    """A text that does not show itself in repr, str, logs or tracebacks (P6)."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Give the text itself."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretText) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a gateway is told. `ca_file` verifies the server; with it every connection uses TLS.

    `signing_request`: ask for a certificate of the server's authority, instead of registering one made here.
    Raises SettingsError for a host, port or device name that cannot be right and for a CA file that is not there.
    """

    host: str
    port: int
    directory: Path
    provision_key: str
    provision_secret: SecretText
    device_name: str | None = None
    access_token: SecretText | None = None
    username: str | None = None
    password: SecretText | None = None
    client_id: str | None = None
    ca_file: Path | None = None
    signing_request: bool = False

    def __post_init__(self) -> None:
        if self.signing_request and not self.uses_tls:
            raise SettingsError(f"a certificate logs in over TLS only: set {_PREFIX}CA_CERT_FILENAME")
        if self.signing_request and self.credentials_type != "X509_CERTIFICATE":
            raise SettingsError(
                f"a signing request cannot be sent with a token or password: unset {_PREFIX}ACCESS_TOKEN, "
                "_USERNAME, _PASSWORD and _CLIENT_ID"
            )
        if not self.host.strip():
            raise SettingsError("the host is empty: give the name or address of the MQTT server")
        if not 0 < self.port < 65_536:
            raise SettingsError(f"port {self.port} is not between 1 and 65535: 1883 is usual, {TLS_PORT} with TLS")
        if self.device_name is not None and not self.device_name.strip():
            raise SettingsError(f"{_PREFIX}NAME is blank: give a name, or unset it to have one drawn")
        if self.ca_file is not None and not self.ca_file.is_file():
            raise SettingsError(
                f"{self.ca_file} is not there: put the CA certificate (PEM) of the server into {self.directory}, "
                f"or unset {_PREFIX}CA_CERT_FILENAME"
            )

    @classmethod
    def from_environment(
        cls, env: Mapping[str, str], *, host: str, port: int, directory: Path, signing_request: bool = False
    ) -> Self:
        """Read the eight variables; an empty one counts as not set, as containers pass them.

        The CA file name is one inside `directory` (the vendor's config folder). Raises SettingsError.
        """
        missing = [_PREFIX + name for name in ("KEY", "SECRET") if not env.get(_PREFIX + name)]
        if missing:
            raise SettingsError(
                f"{' and '.join(missing)} not set: take key and secret of the device profile from the server's operator"
            )
        values = {name: env.get(_PREFIX + name) or None for name in ("NAME", "USERNAME", "CLIENT_ID")}
        return cls(
            host=host,
            port=port,
            directory=directory,
            provision_key=env[_PREFIX + "KEY"],
            provision_secret=SecretText(env[_PREFIX + "SECRET"]),
            device_name=values["NAME"],
            access_token=_secret(env, "ACCESS_TOKEN"),
            username=values["USERNAME"],
            password=_secret(env, "PASSWORD"),
            client_id=values["CLIENT_ID"],
            ca_file=_ca_file(env.get(_PREFIX + "CA_CERT_FILENAME", ""), directory),
            signing_request=signing_request,
        )

    @property
    def credentials_type(self) -> CredentialsType | None:
        """What to ask for: token before basic before X.509 (reference/thingsboard.md section 11.2), else None."""
        if self.access_token is not None:
            return "ACCESS_TOKEN"
        if self.username is not None or self.password is not None or self.client_id is not None:
            return "MQTT_BASIC"
        return None if self.ca_file is None and not self.signing_request else "X509_CERTIFICATE"

    @property
    def uses_tls(self) -> bool:
        """TLS in both roles; there is no way back to plain text from here."""
        return self.ca_file is not None or self.port == TLS_PORT


def _secret(env: Mapping[str, str], name: str) -> SecretText | None:
    value = env.get(_PREFIX + name)
    return SecretText(value) if value else None


def _ca_file(name: str, directory: Path) -> Path | None:
    if not name:
        return None
    if Path(name).name != name:
        raise SettingsError(f"{_PREFIX}CA_CERT_FILENAME is {name!r}: it must be the name of a file in {directory}")
    return directory / name
