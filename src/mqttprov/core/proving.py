"""Who knows the secret: a registration token's, its older one during an overlap, or a device's own claim secret.

Each judgement compares the same number of keyed hashes, whoever asks (SD-1); what it found goes into the proof by which
a repeated request is recognised (P4).
"""

from typing import Final

import msgspec

from mqttprov.core.facts import DeviceFacts
from mqttprov.core.limits import MAX_SECRET_CHARS, MIN_SECRET_CHARS
from mqttprov.core.model import Token
from mqttprov.core.names import InvalidName
from mqttprov.core.requests import ProvisionRequest
from mqttprov.core.secrets import Keys, equal, split_claim_code

_NO_VERIFIER: Final = "0" * 64  # compared against where there is nothing, so that the work is the same (SD-1)


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What the presented secret proves; `base` stands for it in the proof of the request.

    The base of a token outlives a rotation with overlap, which is planned: a device that already has the new secret
    gets the same answer (P4). A rotation at once follows a leak: whoever was told credentials before must not share
    them with who proves the new secret.
    """

    proven: bool
    claimed: bool  # by the device's claim secret
    base: str
    factory: bool = False  # by the key of its factory certificate, in the TLS handshake


def check_claim_secret(secret: str) -> None:
    """Refuse a claim secret that is too short, too long or not printable, or reads as if a claim code followed it.

    Raises `InvalidName`, without quoting it.
    """
    if not MIN_SECRET_CHARS <= len(secret) <= MAX_SECRET_CHARS or not secret.isprintable():
        raise InvalidName(f"a claim secret has {MIN_SECRET_CHARS} to {MAX_SECRET_CHARS} printable characters")
    if split_claim_code(secret)[1] is not None:
        raise InvalidName("a claim secret does not end in ':' and the claim code of a transfer")


def claim_verifier(keys: Keys, fold: str, secret: str) -> str:
    """Give what is kept of a device's claim secret; bound to its name, so that it opens no other device."""
    return keys.mac("claim-secret", fold, secret)


def pass_for_unproven(standing: Standing, request: ProvisionRequest, fold: str, keys: Keys) -> None:
    """Do the work that `judge_secret` spared who knows the token's secret, for refusals that must cost the same."""
    if standing.proven and not standing.claimed:
        equal(claim_verifier(keys, fold, request.secret), _NO_VERIFIER)


def judge_secret(
    request: ProvisionRequest, token: Token | None, known: DeviceFacts | None, keys: Keys, now_ms: int
) -> Standing:
    """Tell what the request's secret proves. Without a token the work is the same and the answer is: nothing."""
    factory = request.factory
    if factory is not None and factory.suffices and not request.secret:
        # Who is here has shown the key, so that equal work would hide nothing.
        proven = token is not None and token.key == factory.token_key
        return Standing(proven, claimed=False, base=keys.mac("factory-proof", factory.public_key), factory=proven)
    presented = keys.registration_verifier(request.key, request.secret)
    current = equal(presented, token.verifier if token else _NO_VERIFIER)
    previous = equal(presented, (token.previous_verifier if token else None) or _NO_VERIFIER)
    base = (token.proof_base or token.verifier) if token else _NO_VERIFIER
    if token is not None and (current or (previous and now_ms < (token.previous_until_ms or 0))):
        return Standing(proven=True, claimed=False, base=base)
    fold = known.device.fold if known else request.device_name or ""
    expected = (known.device.claim if known else None) or _NO_VERIFIER
    claimed = equal(claim_verifier(keys, fold, request.secret), expected)
    if claimed and token is not None and known is not None and known.device.profile_id == token.profile.id:
        return Standing(proven=True, claimed=True, base=expected)
    return Standing(proven=False, claimed=False, base=base)
