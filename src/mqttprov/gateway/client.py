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
    CancelTimer,
    Connect,
    Disconnect,
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
from mqttprov.gateway.credentials_file import CredentialsFile
from mqttprov.gateway.events import (
    CredentialsRemoved,
    CredentialsRemoveFailed,
    CredentialsSaved,
    CredentialsSaveFailed,
    Event,
    Started,
    StopRequested,
    TimerFired,
)
from mqttprov.gateway.identity import ClientCertificate, load_identity, request_payload
from mqttprov.gateway.machine import GatewayMachine
from mqttprov.gateway.settings import GatewaySettings, SettingsError

_log = logging.getLogger(__name__)

# How often paho gets to look at its keep alive while nothing happens.
_LONGEST_WAIT_S: Final = 1.0


class GatewayClient:
    """One gateway of this process. `on_state` is called with every change of state, in the thread of `run`."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        machine_settings: MachineSettings | None = None,
        on_state: Callable[[StateChanged], None] | None = None,
    ) -> None:
        self._settings: Final = settings
        self._machine_settings: Final = machine_settings or MachineSettings()
        self._on_state: Final = on_state
        self._credentials: Final = CredentialsFile(settings.directory)
        self._events: deque[tuple[Connection | None, Event]] = deque()
        self._connection: Connection | None = None
        self._tls: ssl.SSLContext | None = None
        self._tls_with_certificate: ssl.SSLContext | None = None
        self._timer: tuple[int, float] | None = None  # number, due time
        self._stopped = False
        self._stop_requested: Final = threading.Event()
        self._wake_up: socket.socket | None = None

    def run(self) -> None:
        """Be a gateway until `stop` is called; run it once.

        Before it connects it raises SettingsError (CA file) or IdentityError (directory) if it cannot start; whatever
        happens afterwards, it goes on (P10).
        """
        machine = self._prepare()
        self._take_stop_request()
        self._report(None, Started(self._credentials.read()))
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

    def _prepare(self) -> GatewayMachine:
        settings = self._settings
        try:
            settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"cannot make the gateway's directory {settings.directory}: {error}") from error
        identity = load_identity(settings)
        if settings.uses_tls:
            # Made once: a file that vanishes later must not stop a gateway that runs (P10).
            self._tls = _tls_context(settings, None)
            self._tls_with_certificate = _tls_context(settings, identity.certificate)
        return GatewayMachine(
            request_payload(settings, identity),
            self._machine_settings,
            rng=random.SystemRandom().random,
            has_client_certificate=identity.certificate is not None,
        )

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
            case SetTimer(number, delay_s):
                self._timer = (number, time.monotonic() + delay_s)
            case CancelTimer():
                self._timer = None
            case SaveCredentials() | RemoveCredentials():
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
            tls=self._tls_with_certificate if action.use_client_certificate else self._tls,
            connect_timeout_s=self._machine_settings.connect_timeout_s,
            report=lambda event: self._report(connection, event),
        )
        self._connection = connection
        connection.open()

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _change_file(self, action: SaveCredentials | RemoveCredentials) -> Event:
        saving = isinstance(action, SaveCredentials)
        try:
            if isinstance(action, SaveCredentials):
                self._credentials.save(action.content)
            else:
                self._credentials.remove()
        except OSError as error:
            return CredentialsSaveFailed(str(error)) if saving else CredentialsRemoveFailed(str(error))
        return CredentialsSaved() if saving else CredentialsRemoved()


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
