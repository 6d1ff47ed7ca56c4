"""The provision request as a gateway sends it: a value -> bytes. Pure; the swarm uses it too.

The same value gives the same bytes at every time (P4). Member names: reference/thingsboard.md sections 2 and 11.4.
"""

import msgspec

from mqttprov.gateway.replies import CredentialsType


class ProvisionRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """What a gateway asks for. What is None is left out; without `credentials_type` the server decides."""

    provision_device_key: str
    provision_device_secret: str
    device_name: str | None = None
    credentials_type: CredentialsType | None = None
    token: str | None = None
    username: str | None = None
    password: str | None = None
    client_id: str | None = None
    certificate_pem: str | None = msgspec.field(default=None, name="hash")
    csr: str | None = None
    gateway: bool = False

    def __repr__(self) -> str:
        return f"ProvisionRequest(device_name={self.device_name!r}, credentials_type={self.credentials_type!r})"


def encode_request(request: ProvisionRequest) -> bytes:
    """Give the payload for `/provision/request`."""
    return msgspec.json.encode(request)
