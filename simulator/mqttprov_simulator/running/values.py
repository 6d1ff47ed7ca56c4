"""What goes between a run and its workers, as JSON lines: the assignment one way, moments and a recording the other.

Values only. Times are seconds since the planned start of the run (`Assignment.starts_at`), so that the parts of several
processes and machines add up. Secrets go in an assignment over stdin, never elsewhere (P6).
"""

from typing import Final, Literal

import msgspec

from mqttprov_simulator.histogram import Buckets
from mqttprov_simulator.scenario.model import Scenario


class TokenKey(msgspec.Struct, frozen=True):
    """Key and secret of a registration token."""

    key: str
    secret: str

    def __repr__(self) -> str:
        return f"TokenKey(key={self.key!r})"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where gateways connect to. `ca_pem`: verify the server by it, for groups with TLS and for the TLS port.

    `own_topics`: the broker cannot make the shared reply topic private, gateways use topics of their own.
    """

    host: str
    port: int | None
    tls_port: int | None = None
    ca_pem: str | None = None
    own_topics: bool = False


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's part: of all gateways, in the order of `drawing`, those with number % workers == worker.

    Of several `endpoints`, brokers of one service, each gateway always goes to that with number % endpoints.

    `tokens`: by (profile, token) as "profile/token". `starts_at`: the planned start, Unix time in seconds; 0: say
    `Ready` once all is made that takes time, and wait for `Begin`, the second line on stdin.
    `operator`: name and password of an operator who may call RPCs, where a group's life needs it. `directory`: where
    credentials files and keys go, None: nothing is kept on disk.
    """

    scenario: Scenario
    worker: int
    workers: int
    starts_at: float
    endpoints: tuple[Endpoint, ...]
    tokens: dict[str, TokenKey]
    operator: tuple[str, str] | None = None
    directory: str | None = None

    def __repr__(self) -> str:
        return f"Assignment({self.scenario.name}, worker {self.worker} of {self.workers})"


class Begin(msgspec.Struct, frozen=True):
    """When the run starts, Unix time in seconds: told to all workers once the last of them is ready.

    Told again when what is done to the target lasts longer than planned, with `over_at_s`: until when at least.
    """

    starts_at: float
    over_at_s: float = 0.0


class Told(msgspec.Struct, frozen=True, gc=False):
    """Credentials that a reply gave to a gateway. `fingerprint`: SHA-256 of the credentials, 16 hex digits (P6).

    `device`: the device name it asked under.
    """

    gateway: str
    device: str
    fingerprint: str
    at_s: float


Promise = Literal[
    "limit-exceeded",  # P1 a token registered more devices than its maximum
    "told-not-durable",  # P2 credentials that were told, and nobody replaced or revoked, do not log in
    "reply-to-another",  # P3 a gateway got a reply that was not meant for it
    "shared-credential",  # P3 two gateways (that are no clones) were told one credential
    "answer-changed",  # P4 the same proof got another answer while the first was unused
    "no-event",  # P5 a registration without its audit event, or a chain that does not verify
    "old-still-works",  # P7 a superseded or revoked credential logs in
    "echoed",  # DESIGN decision 8: a gateway got what a gateway published on a `me` topic
    "let-in",  # a gateway that was to be refused came online
    "not-online",  # P10 an expected gateway was not online in time
]


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A promise that was seen broken: which gateways, when, and what was seen."""

    promise: Promise
    gateways: tuple[str, ...]
    at_s: float
    seen: str


class Second(msgspec.Struct, kw_only=True):
    """What happened within one second of the run, and how the fleet stood at its end. Adds up over workers.

    `due`: planned arrivals; `started`; `registered`: gateways that were online for the first time; `came_online`: all
    logins with issued credentials; `failed`: gave up. `latency`: of those registered in it, microseconds from the
    planned arrival. `login`: CONNECT to online, all logins. `strikes`: faults by name. `states`: gateways by machine
    state at its end.
    """

    at_s: int
    due: int = 0
    started: int = 0
    registered: int = 0
    came_online: int = 0
    refused: int = 0
    lost: int = 0
    latency: Buckets = msgspec.field(default_factory=dict)
    login: Buckets = msgspec.field(default_factory=dict)
    strikes: dict[str, int] = msgspec.field(default_factory=dict)
    states: dict[str, int] = msgspec.field(default_factory=dict)


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """A worker has made what takes time (its share of the plan, keys) and waits for `Begin`."""

    worker: int


class Moment(msgspec.Struct, frozen=True, kw_only=True, tag="moment"):
    """What a worker says four times a second. `second`: the running second so far; `closed`: those that ended since.

    `told`, `broken`: new since the last moment. `online`, `registered`: so far. `cpu_s`: of the worker, so far.
    """

    worker: int
    at_s: float
    second: Second
    closed: tuple[Second, ...] = ()
    told: tuple[Told, ...] = ()
    broken: tuple[Broken, ...] = ()
    online: int = 0
    registered: int = 0
    cpu_s: float = 0.0


class Standing(msgspec.Struct, frozen=True, gc=False):
    """How a gateway stood when its worker ended. `fingerprints`: of all credentials told to it, in order; `stored`: of
    those in its credentials file. `online_at_s`: when it last came online, None if it is not."""

    gateway: str
    device: str
    group: str
    state: str
    registered: bool
    fingerprints: tuple[str, ...]
    stored: str | None
    online_at_s: float | None
    refused: str | None


class Recording(msgspec.Struct, kw_only=True, tag="recording"):
    """A worker's whole part. Histograms in microseconds, of what is meant by their names in `Second`.

    `latency` includes registrations that did not happen, at the time that had passed (errors never vanish). `service`:
    from the actual start. `lag`: actual minus planned start. `telemetry`, `rpc`: publish to acknowledgement or answer.
    `refusals`, `lost_connections`: by reason. `rss_bytes`: of the worker at its largest. `prepared_cpu_s`: the part of
    `cpu_s` that was spent before the planned start: drawing, making gateways and their keys. `repeated`: replies that
    told a gateway what it had been told before. `unjudged`: gateways that are not online, in a run that ended before
    they had to be. `probed`: credentials that are not to work any more and were tried.
    All histograms leave out what was planned within the warm-up; the seconds show it.
    """

    worker: int
    gateways: int
    latency: Buckets
    service: Buckets
    lag: Buckets
    login: Buckets
    telemetry: Buckets
    rpc: Buckets
    refusals: dict[str, int]
    lost_connections: dict[str, int]
    strikes: dict[str, int]
    standings: list[Standing]
    cpu_s: float
    rss_bytes: int
    ended_at_s: float
    errors: list[str] = msgspec.field(default_factory=list)
    prepared_cpu_s: float = 0.0
    repeated: int = 0
    probed: int = 0
    unjudged: int = 0


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """A worker cannot do its part; the text says why and what to do."""

    worker: int
    text: str


FromWorker = Ready | Moment | Recording | Failure
MOMENTS_PER_S: Final = 4
