"""The Ed25519 key that signs audit checkpoints, and checking its signatures. Their form: `mqttprov.core.checkpoint`."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mqttprov.core.audit import ChainHead
from mqttprov.core.checkpoint import VerifierKey, checkpoint_text, signed_note, verifier_key


class NoteSigner:
    """Signs checkpoints."""

    def __init__(self, seed: bytes) -> None:
        """Take the 32 secret bytes of the key."""
        self._private_key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier_key: VerifierKey = verifier_key(self._private_key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"NoteSigner({self.verifier_key.name}, ***)"

    def sign(self, head: ChainHead) -> str:
        """Give a checkpoint of this head."""
        text = checkpoint_text(self.verifier_key.name, head)
        return signed_note(self.verifier_key, text, self._private_key.sign(text.encode()))


def verify_signature(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether an Ed25519 signature fits (`mqttprov.core.checkpoint.VerifySignature`)."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
