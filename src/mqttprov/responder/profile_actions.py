"""Operator actions on profiles: making them, and what of them may change. Each is one transaction with its event."""

from typing import Final

import msgspec

from mqttprov.core import names
from mqttprov.core.audit import EventKind
from mqttprov.core.limits import MAX_SECRET_CHARS
from mqttprov.core.model import Chain, Profile, Strategy
from mqttprov.core.subjects import check_subject_pattern
from mqttprov.responder.acting import NotFound
from mqttprov.responder.token_actions import IssuedToken, TokenActions, TokenChange
from mqttprov.store.protocol import WriteTransaction

DEFAULT: Final = "default"  # the name of the first profile, and of the token that every profile is born with


class ProfileActions(TokenActions):
    """Makes and changes profiles."""

    def create_profile(self, profile: Profile, chain: Chain | None = None) -> IssuedToken:
        """Make a profile (its id is given by the store) with its `default` token, which has no limit.

        `chain` is for the strategy `certificate-chain`, and for no other. Raises `Conflict` and `names.InvalidName`.
        """
        names.check_object_name("profile", profile.name)
        names.check_topic_patterns("publish topics", profile.publish_topics)
        names.check_topic_patterns("subscribe topics", profile.subscribe_topics)
        names.check_labels(dict.fromkeys(profile.label_keys, ""))
        if not 1 <= profile.min_secret_chars <= MAX_SECRET_CHARS:
            raise names.InvalidName(
                f"secrets of at least {profile.min_secret_chars} characters make no sense; give 1 to {MAX_SECRET_CHARS}"
            )
        chain = self._checked_chain(profile.strategy, chain)
        with self._store.write() as transaction:
            return self._add_profile(transaction, profile, chain)

    def _checked_chain(self, strategy: Strategy, chain: Chain | None) -> Chain | None:
        if (strategy is Strategy.CERTIFICATE_CHAIN) != (chain is not None):
            raise names.InvalidName(
                f"the authorities that issue the devices' certificates are needed with the strategy "
                f"{Strategy.CERTIFICATE_CHAIN}, and only with it"
            )
        if chain is None:
            return None
        from mqttprov.pki.chains import check_authorities  # noqa: PLC0415 - X.509 takes long to load
        from mqttprov.pki.inspect import BadCertificate  # noqa: PLC0415 - the same

        try:
            authorities = check_authorities(chain.authorities, self._now_ms())
        except BadCertificate as error:
            raise names.InvalidName(str(error)) from error
        return Chain(authorities, check_subject_pattern(chain.subject_pattern))

    def _add_profile(self, transaction: WriteTransaction, profile: Profile, chain: Chain | None) -> IssuedToken:
        stored = transaction.add_profile(profile, self._now_ms(), chain)
        text = f"strategy {profile.strategy}, credentials {profile.credentials_type}, reprovision {profile.reprovision}"
        if profile.rotate_on_first_use:
            text += ", rotate on first use"
        transaction.append([self._event(EventKind.PROFILE_CREATED, profile=profile.name, text=text)])
        return self._add_token(transaction, stored, DEFAULT, TokenChange())

    def update_profile(
        self, name: str, *, rotate_on_first_use: bool | None = None, authorities: str | None = None
    ) -> Profile:
        """Change whether factory identities rotate on first use, or whose certificates make devices; None: as it was.

        Raises `NotFound` and `names.InvalidName`.
        """
        with self._store.write() as transaction:
            rows = transaction.reader().profiles(name)
            if not rows:
                raise NotFound(f"there is no profile named {name!r}; see: mqttprov profile list")
            profile, chain, changes = rows[0].profile, rows[0].chain, []
            if rotate_on_first_use is not None:
                profile = msgspec.structs.replace(profile, rotate_on_first_use=rotate_on_first_use)
                changes.append(f"{'' if rotate_on_first_use else 'no '}rotation on first use")
            if authorities is not None:
                pattern = chain.subject_pattern if chain else ""
                chain = self._checked_chain(profile.strategy, Chain(authorities, pattern))
                changes.append("other authorities")
            if not changes:
                raise names.InvalidName("nothing to change was given")
            transaction.update_profile(profile, chain)
            transaction.append([self._event(EventKind.PROFILE_UPDATED, profile=profile.name, text=", ".join(changes))])
            return profile
