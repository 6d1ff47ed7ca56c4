"""What a gateway connects with: as one that provisions itself, and with the credentials of a reply. Pure."""

from typing import Final

from mqttprov.gateway.actions import Connect
from mqttprov.gateway.replies import UNUSABLE, Refusal, parse_reply

# The user name marks the session, no password is looked at (reference/thingsboard.md rule 2); 60 s as the vendor's.
TO_PROVISION: Final = Connect("provisioning", "", "provision", None, 60, 4, False)
# Stands for "none", so that every place that holds a login or something to save holds one type.
NO_LOGIN: Final = Connect("operational", "", None, None, 0, 5, False)


def login_of(
    reply: bytes, keep_alive_s: int, *, has_client_certificate: bool, renewed: bool = False
) -> Connect | Refusal:
    """Give the login that a provision reply is good for, or why it is good for none."""
    result = parse_reply(reply)
    if isinstance(result, Refusal):
        return result
    by_certificate = result.type == "X509_CERTIFICATE"
    if by_certificate and not has_client_certificate:
        return Refusal(UNUSABLE, "X509_CERTIFICATE, but this gateway has no certificate to show")
    return Connect(
        "operational", result.client_id, result.username, result.password, keep_alive_s, 5, by_certificate, renewed
    )
