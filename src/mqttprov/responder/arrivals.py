"""What a TLS client certificate opens that no credential knows: a factory identity, or the way in by a chain.

Only logins that were refused otherwise come here, so that looking into certificates (0.2 ms) costs nobody else.
"""

from mqttprov.core.credentials import certificate_login_key
from mqttprov.core.factory import ChainArrival, arrive_by_chain, fitting_name, login_as_imported
from mqttprov.core.login import Login, LoginAttempt, LoginRefusal
from mqttprov.core.names import InvalidName, fold
from mqttprov.core.requests import Reason
from mqttprov.core.secrets import Keys
from mqttprov.pki.chains import vouches_for
from mqttprov.pki.inspect import BadCertificate, inspect_presented
from mqttprov.store.protocol import Reader

_MAY_STILL_COME: frozenset[LoginRefusal] = frozenset({LoginRefusal.UNKNOWN, LoginRefusal.WRONG_PASSWORD})


def by_certificate(
    attempt: LoginAttempt, login: Login, reader: Reader, keys: Keys, now_ms: int
) -> Login | ChainArrival:
    """Give what the attempt's certificate opens, else the login as it was decided without. Raises `StoreUnavailable`.

    A provisioning session is open to everybody; a factory identity makes it that of its device, or is refused.
    """
    if attempt.provisioning:
        known = login.principal is not None or login.refusal is LoginRefusal.STATE
        found = None if known else _find(attempt, reader, keys, now_ms)
        return found if isinstance(found, Login) else Login(provisioning=True)
    if attempt.certificate_der is None or login.refusal not in _MAY_STILL_COME:
        return login
    found = _find(attempt, reader, keys, now_ms)
    if found is None or (isinstance(found, ChainArrival) and attempt.username):
        return login  # a user name comes before a certificate as a credential (thingsboard.md section 7)
    return found


def _find(attempt: LoginAttempt, reader: Reader, keys: Keys, now_ms: int) -> Login | ChainArrival | None:
    if attempt.certificate_der is None:
        return None
    try:
        certificate = inspect_presented(attempt.certificate_der)
    except BadCertificate:
        return None
    if attempt.username and reader.find_logins([certificate_login_key(keys, certificate.fingerprint)]):
        return None  # in operation, whatever else it is
    devices = reader.factory_devices(public_key=certificate.public_key)
    if devices:
        return login_as_imported(certificate, devices, now_ms)
    chains = [chain for chain in reader.chains() if vouches_for(chain.chain.authorities, certificate.pem, now_ms)]
    for chain in chains:
        name = fitting_name(chain, certificate)
        if name is None:
            continue
        try:
            known = next(iter(reader.factory_devices(fold=fold(name.strip()))), None)
            return arrive_by_chain(certificate, chain, known, name, now_ms)
        except InvalidName:
            break
    return Login(refusal=LoginRefusal.CHAIN, reason=Reason.BAD_NAME) if chains else None
