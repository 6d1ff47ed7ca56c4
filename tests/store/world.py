"""A store that is filled by the real rules, for tests of what it keeps."""

from pathlib import Path

from mqttprov.core.credentials import SignedCertificate
from mqttprov.core.facts import Effect, Facts
from mqttprov.core.login import activate
from mqttprov.core.model import Profile
from mqttprov.core.names import fold
from mqttprov.core.provisioning import Context, Decision, decide, lookup_fold
from mqttprov.core.requests import ProvisionRequest
from mqttprov.core.secrets import Keys
from mqttprov.store.protocol import NewToken
from mqttprov.store.sqlite import SqliteStore
from mqttprov.store.sqlite_transaction import SqliteTransaction

NOW_MS = 1_700_000_000_000


class World:
    """A store with one profile and one registration token, and batches that the rules decide."""

    key = "the-key"
    secret = "the-registration-secret"

    def __init__(self, path: Path, max_registrations: int | None = None) -> None:
        """Make the store."""
        self.keys = Keys(pepper=b"p" * 32, issuing_key=b"i" * 32)
        self.store = SqliteStore(path, create=True)
        self._draws = 0
        with self.store.write() as transaction:
            profile = transaction.add_profile(Profile(0, "default"), NOW_MS)
            verifier = self.keys.registration_verifier(self.key, self.secret)
            self.token_id = transaction.add_token(
                NewToken(
                    profile.id,
                    "default",
                    self.key,
                    verifier,
                    NOW_MS,
                    {"line": "A"},
                    max_registrations=max_registrations,
                )
            )

    def entropy(self) -> bytes:
        """Give 48 bytes that never came before."""
        self._draws += 1
        return self._draws.to_bytes(4, "big") * 12

    def request(self, name: str, **fields: object) -> ProvisionRequest:
        """Make a request with the world's key and secret."""
        return ProvisionRequest(self.key, self.secret, name, **fields)  # type: ignore[arg-type] # fields by name

    def provision(self, facts: Facts, request: ProvisionRequest) -> Decision:
        """Decide a request on loaded facts."""
        return decide(request, facts, Context(NOW_MS, self.entropy(), self.keys, "10.0.0.1", _no_certificates))

    def facts(self, transaction: SqliteTransaction, *names: str, logins: tuple[str, ...] = ()) -> Facts:
        """Load facts about the token and these devices."""
        folds = {lookup_fold(self.request(name), self.keys, b"") or "" for name in names}
        return transaction.load({self.key}, folds, logins)

    def batch(self, *steps: ProvisionRequest | tuple[str, int]) -> Facts:
        """Commit requests and activations (device name, generation) in one transaction; give the facts after it."""
        names = [step[0] if isinstance(step, tuple) else step.device_name or "" for step in steps]
        effects: list[Effect] = []
        with self.store.write() as transaction:
            facts = self.facts(transaction, *names)
            events = []
            for step in steps:
                if isinstance(step, tuple):
                    done = activate(fold(step[0]), step[1], facts, now_ms=NOW_MS, source=None)
                    events += [done.event] if done.event else []
                    effects += done.effects
                else:
                    decision = self.provision(facts, step)
                    events.append(decision.event)
                    effects += decision.effects
            transaction.write(facts, effects)
            transaction.append(events)
        return facts


def _no_certificates(csr: str, device_id: str, name: str, entropy: bytes, now_ms: int) -> SignedCertificate:
    raise AssertionError("no certificate is asked for here")
