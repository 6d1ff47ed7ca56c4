"""Whose token may provision whose device, and what a claim code is good for. Judgements only; effects are elsewhere."""

from collections.abc import Sequence
from typing import Final

import msgspec

from mqttprov.core.credentials import CredentialsRefused, password_verifier, token_login_key
from mqttprov.core.facts import DeviceFacts
from mqttprov.core.model import Credential, Device, Token
from mqttprov.core.requests import ProvisionRequest, Reason
from mqttprov.core.secrets import Keys, equal

# One text for a code that is unknown, expired, finished, cancelled or another owner's: who tries codes learns nothing.
TRANSFER_TEXT: Final = "this claim code cannot be used"
_NO_CODE: Final = "0" * 64


def code_verifier(keys: Keys, device_id: str, code: str) -> str:
    """Give what is kept of a claim code; bound to the device, so that it opens no other one."""
    return keys.mac("transfer-code", device_id, code)


def judge_code(
    request: ProvisionRequest, device: Device | None, token: Token, keys: Keys, now_ms: int
) -> Reason | None:
    """Tell why the request's claim code completes no transfer; None: it does."""
    transfer = device.transfer if device is not None else None
    presented = code_verifier(keys, device.id if device is not None else "", request.claim_code or "")
    if not equal(presented, transfer.code if transfer is not None else _NO_CODE) or transfer is None:
        return Reason.TRANSFER_CODE
    if now_ms >= transfer.expires_ms:
        return Reason.TRANSFER_EXPIRED
    return None if token.owner == transfer.to_owner else Reason.TRANSFER_OWNER


def without_kept_code(request: ProvisionRequest, known: DeviceFacts | None, token: Token) -> ProvisionRequest:
    """Leave out a claim code that came with the secret, when the device belongs to the token's owner already.

    An unmodified gateway keeps the settings with which it was handed over and asks with them ever after, for example
    when it is rotated; its owner needs no code (P10). A code in a field of its own is meant, and judged.
    """
    owned = known is not None and token.owner is not None and token.owner == known.device.owner
    return msgspec.structs.replace(request, claim_code=None) if owned and request.code_with_secret else request


def is_foreign(device: Device, token: Token) -> bool:
    """Tell whether the device belongs to somebody for whom this token does not act.

    A token without owner acts for everybody, until a device was transferred: the one who had it must not get it back
    with a token that he kept.
    """
    if device.transferred_ms is not None:
        return token.owner != device.owner
    return token.owner is not None and device.owner is not None and token.owner != device.owner


def check_all_new(held: Sequence[Credential], credential: Credential, secret: str, keys: Keys) -> None:
    """Refuse a token, password or key that the last owner may know, under whatever login. Raises `CredentialsRefused`.

    `held` is everything that the device ever had, `secret` what is told of the new credential.
    """
    as_token = token_login_key(keys, secret)
    for old in held:
        known = equal(as_token, old.login_key) or equal(
            password_verifier(keys, old.login_key, secret), old.verifier or _NO_CODE
        )
        if known or (old.public_key and old.public_key == credential.public_key):
            raise CredentialsRefused("a transferred device needs new credentials; send others or let us make them")
