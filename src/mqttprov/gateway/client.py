"""A real gateway: drives `machine` with paho-mqtt, the clock, the credentials file and the system's randomness.

It carries out actions and reports events; it decides nothing. One thread, the caller's, does all of it.
"""

import contextlib
import logging
import random
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from mqttprov.gateway.actions import (
    Action,
    AdoptRenewed,
    CancelTimer,
    Connect,
    Disconnect,
    MakeRequest,
    Publish,
    RemoveCredentials,
    SaveCredentials,
    SetTimer,
    StateChanged,
    Stopped,
    Subscribe,
)
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.gateway.connection import Connection
from mqttprov.gateway.credentials_file import RENEWED, CredentialsFile
from mqttprov.gateway.events import (
    CredentialsRemoved,
    CredentialsRemoveFailed,
    CredentialsSaved,
    CredentialsSaveFailed,
    CredentialsUnusable,
    Event,
    RequestMade,
    RequestNotMade,
    Started,
    StopRequested,
    TimerFired,
)
from mqttprov.gateway.identity import ClientCertificate, IdentityError, load_identity, request_payload
from mqttprov.gateway.issued import IssuedCertificate, IssuedCertificates, NotUsable
from mqttprov.gateway.machine import GatewayMachine
from mqttprov.gateway.renewal import Life
from mqttprov.gateway.settings import GatewaySettings, SettingsError

_log = logging.getLogger(__name__)

# How often paho gets to look at its keep alive while nothing happens.
_LONGEST_WAIT_S: Final = 1.0


class GatewayClient:
    """One gateway of this process. `on_state` is called with every change of state, in the thread of `run`.

    `wall_s` is the wall clock (s since the epoch), by which certificates run out.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        machine_settings: MachineSettings | None = None,
        on_state: Callable[[StateChanged], None] | None = None,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings: Final = settings
        self._machine_settings: Final = machine_settings or MachineSettings()
        self._on_state: Final = on_state
        self._wall_s: Final = wall_s
        self._credentials: Final = CredentialsFile(settings.directory)
        self._renewed: Final = CredentialsFile(settings.directory, name=RENEWED)
        self._issued: Final = IssuedCertificates(settings.directory)
        self._certificate: IssuedCertificate | None = None  # the stored one, if the server's authority issued it
        self._next_certificate: IssuedCertificate | None = None  # that of a renewal that has not logged in yet
        self._events: deque[tuple[Connection | None, Event]] = deque()
        self._connection: Connection | None = None
        self._tls: ssl.SSLContext | None = None
        self._tls_with_certificate: ssl.SSLContext | None = None
        self._tls_with_next: ssl.SSLContext | None = None
        self._timer: tuple[int, float] | None = None  # number, due time
        self._stopped = False
        self._stop_requested: Final = threading.Event()
        self._wake_up: socket.socket | None = None

    def run(self) -> None:
        """Be a gateway until `stop` is called; run it once.

        Before it connects it raises SettingsError (CA file) or IdentityError (directory) if it cannot start; whatever
        happens afterwards, it goes on (P10).
        """
        machine, started = self._prepare()
        self._take_stop_request()
        self._report(None, started)
        sleeper, self._wake_up = socket.socketpair()
        try:
            with sleeper, self._wake_up, selectors.DefaultSelector() as selector:
                self._wake_up.setblocking(False)
                selector.register(sleeper, selectors.EVENT_READ)
                while not self._stopped:
                    self._handle_events(machine)
                    if not self._stopped:
                        self._wait(selector)
        finally:
            self._close_connection()

    def stop(self) -> None:
        """Ask `run` to end; returns at once. From any thread or signal handler, as often as you like.

        `run` returns within milliseconds, or after the connect time-out if it is just opening a TCP connection.
        """
        self._stop_requested.set()
        wake_up = self._wake_up
        if wake_up is not None:
            with contextlib.suppress(OSError):  # full of wake-ups already, or `run` has returned
                wake_up.send(b"\0")

    def _prepare(self) -> tuple[GatewayMachine, Started]:
        settings = self._settings
        try:
            settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"cannot make the gateway's directory {settings.directory}: {error}") from error
        self._identity = identity = load_identity(settings)
        if settings.uses_tls:
            # Made once: a file that vanishes later must not stop a gateway that runs (P10).
            self._tls = _tls_context(settings, None)
            self._tls_with_certificate = _tls_context(settings, identity.certificate)
        started = Started(self._credentials.read())
        if settings.signing_request:
            started = Started(self._taken(started.stored), self._taken(self._renewed.read(), renewed=True))
        machine = GatewayMachine(
            self._first_request(),
            self._machine_settings,
            rng=random.SystemRandom().random,
            has_client_certificate=identity.certificate is not None or settings.signing_request,
            life=self._life,
        )
        return machine, started

    def _first_request(self) -> bytes:
        run_out = self._certificate is not None and self._certificate.life(self._wall_s()).left_s <= 0
        try:
            return self._request(new_key=run_out)
        except OSError as error:
            raise IdentityError(f"cannot keep a key in {self._settings.directory}: {error}") from error

    def _request(self, *, new_key: bool) -> bytes:
        csr = None
        if self._settings.signing_request:
            csr = self._issued.signing_request(self._identity.device_name, new_key=new_key)
        return request_payload(self._settings, self._identity, csr)

    def _life(self) -> Life | None:
        return None if self._certificate is None else self._certificate.life(self._wall_s())

    def _taken(self, reply: bytes | None, *, renewed: bool = False) -> bytes | None:
        """Give what is stored if it can be used to log in; what cannot counts as absent."""
        if reply is None:
            return None
        try:
            self._show(*self._readied(reply, renewed=renewed), renewed=renewed)
        except (NotUsable, OSError) as error:
            _log.warning("stored credentials are left alone: %s", error)
            return None
        return reply

    def _readied(self, reply: bytes, *, renewed: bool) -> tuple[IssuedCertificate, ssl.SSLContext]:
        """Make what TLS needs of a certificate, beside what is shown until now. Raises NotUsable and OSError."""
        taken = self._issued.take(reply, renewed=renewed)
        return taken, _tls_context(self._settings, taken.files)

    def _show(self, certificate: IssuedCertificate, context: ssl.SSLContext, *, renewed: bool) -> None:
        if renewed:
            self._next_certificate, self._tls_with_next = certificate, context
            return
        self._certificate, self._tls_with_certificate = certificate, context
        self._settle()

    def _settle(self) -> None:
        if self._certificate is not None:
            try:
                self._certificate = self._issued.settle(self._certificate)
            except OSError as error:  # nothing depends on the names of keys; the next start tries again
                _log.warning("the key of the certificate keeps the name of the next one for now: %s", error)

    def _adopt_renewed(self) -> None:
        """Let the renewal replace what is stored; a failure leaves both, which is good enough for the next start."""
        if self._next_certificate is None:
            return
        self._certificate, self._tls_with_certificate = self._next_certificate, self._tls_with_next
        self._next_certificate = None
        try:
            self._credentials.take_over(self._renewed)
        except OSError as error:
            _log.warning("the renewed credentials are in use, but not in place yet: %s", error)
        else:
            self._settle()

    def _take_stop_request(self) -> None:
        if self._stop_requested.is_set():
            self._report(None, StopRequested())

    def _report(self, source: Connection | None, event: Event) -> None:
        self._events.append((source, event))

    def _handle_events(self, machine: GatewayMachine) -> None:
        while self._events and not self._stopped:
            source, event = self._events.popleft()
            if source is not None and source is not self._connection:
                continue  # of a connection that the machine has closed since
            for action in machine.handle(event, time.monotonic()):
                self._carry_out(action)

    def _wait(self, selector: selectors.BaseSelector) -> None:
        """Sleep until the socket, the timer or `stop` has something to say, and report it."""
        connection, now_s = self._connection, time.monotonic()
        timeout_s = None if connection is None else _LONGEST_WAIT_S
        if self._timer is not None:
            until_timer_s = max(0.0, self._timer[1] - now_s)
            timeout_s = until_timer_s if timeout_s is None else min(timeout_s, until_timer_s)
        sock = None if connection is None else connection.socket
        if connection is not None and sock is not None:
            write = selectors.EVENT_WRITE if connection.wants_write else 0
            selector.register(sock, selectors.EVENT_READ | write, connection)
        try:
            ready = selector.select(timeout_s)
        finally:
            if sock is not None:
                selector.unregister(sock)
        mask = next((mask for key, mask in ready if key.data is not None), 0)
        if connection is not None:
            connection.service(readable=bool(mask & selectors.EVENT_READ), writable=bool(mask & selectors.EVENT_WRITE))
        if self._timer is not None and self._timer[1] <= time.monotonic():
            number, self._timer = self._timer[0], None
            self._report(None, TimerFired(number))
        self._take_stop_request()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Connect():
                self._open_connection(action)
            case Subscribe() if self._connection:
                self._connection.subscribe(action)
            case Publish() if self._connection:
                self._connection.publish(action)
            case Disconnect():
                self._close_connection()
            case SetTimer() | CancelTimer():
                self._timer = (
                    (action.timer, time.monotonic() + action.delay_s) if isinstance(action, SetTimer) else None
                )
            case AdoptRenewed():
                self._adopt_renewed()
            case SaveCredentials() | RemoveCredentials() | MakeRequest():
                self._report(None, self._change_file(action))
            case StateChanged():
                _log.info("%s -> %s: %s", action.old, action.new, action.why)
                if self._on_state is not None:
                    self._on_state(action)
            case Stopped():
                self._stopped = True

    def _open_connection(self, action: Connect) -> None:
        connection: Connection
        connection = Connection(
            action,
            host=self._settings.host,
            port=self._settings.port,
            tls=self._context_for(action),
            connect_timeout_s=self._machine_settings.connect_timeout_s,
            report=lambda event: self._report(connection, event),
        )
        self._connection = connection
        connection.open()

    def _context_for(self, action: Connect) -> ssl.SSLContext | None:
        if not action.use_client_certificate:
            return self._tls
        return self._tls_with_next if action.renewed else self._tls_with_certificate

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _change_file(self, action: SaveCredentials | RemoveCredentials | MakeRequest) -> Event:
        match action:
            case SaveCredentials():
                return self._save(action)
            case RemoveCredentials():
                return self._remove()
            case MakeRequest(new_key):
                try:
                    return RequestMade(self._request(new_key=new_key))
                except OSError as error:
                    return RequestNotMade(str(error))

    def _remove(self) -> Event:
        try:
            self._renewed.remove()
            self._credentials.remove()
        except OSError as error:
            return CredentialsRemoveFailed(str(error))
        self._certificate = self._next_certificate = None
        return CredentialsRemoved()

    def _save(self, action: SaveCredentials) -> Event:
        readied = None
        try:
            if self._settings.signing_request:
                readied = self._readied(action.content, renewed=action.renewed)
            (self._renewed if action.renewed else self._credentials).save(action.content)
        except NotUsable as error:
            return CredentialsUnusable(str(error))
        except OSError as error:
            return CredentialsSaveFailed(str(error))
        if readied is not None:
            self._show(*readied, renewed=action.renewed)
            if not action.renewed:
                with contextlib.suppress(OSError):  # it would only be tried in vain at the next start
                    self._renewed.remove()
        return CredentialsSaved()


def _tls_context(settings: GatewaySettings, certificate: ClientCertificate | None) -> ssl.SSLContext:
    """Verify chain and host name in both roles: whoever stands between learns key, secret and credentials otherwise."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # also ssl.SSLError
        raise SettingsError(f"{settings.ca_file} is not a CA certificate in PEM form: {error}") from error
    context.sslsocket_class = _TidySocket
    if certificate is not None:
        context.load_cert_chain(certificate.certificate_file, certificate.key_file)
    return context


class _TidySocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, which paho-mqtt leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise
