"""A scenario: which gateways arrive when, what they do, what goes wrong, and what must hold. Values only.

Written as TOML (`reading`), drawn into single gateways and strikes by `drawing`. All durations in seconds.
"""

from collections import Counter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mqttprov.gateway.backoff import MachineSettings

Seconds = Annotated[float, Meta(ge=0)]
PositiveSeconds = Annotated[float, Meta(gt=0)]
Rate = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
# What people call something that happens: blanks are welcome.
Title = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._ -]*[A-Za-z0-9._-])?$")]

Credentials = Literal["ACCESS_TOKEN", "MQTT_BASIC", "X509_CERTIFICATE"]


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of the file; unknown keys are refused."""


class Profile(_Value, frozen=True):
    """A device profile that the run makes on a target of its own. Words as in `mqttprov profile create`."""

    name: Name
    strategy: Literal["allow-creating", "pre-provisioned"] = "allow-creating"
    reprovision: Literal["reuse", "refuse", "same-key"] = "reuse"


class Token(_Value, frozen=True):
    """A registration token that the run makes on a target of its own. `name` "default" is the profile's own."""

    name: Name
    profile: Name = "default"
    max_registrations: Count | None = None


# --- arrivals: when the gateways of a group are switched on ---


class Constant(_Value, frozen=True, tag="constant", tag_field="kind"):
    """One gateway every 1/rate seconds."""

    rate_per_s: Rate
    begins_s: Seconds = 0.0


class Ramp(_Value, frozen=True, tag="ramp", tag_field="kind"):
    """A rate that grows (or falls) evenly over `over_s` and stays there."""

    from_per_s: Annotated[float, Meta(ge=0)]
    to_per_s: Rate
    over_s: PositiveSeconds
    begins_s: Seconds = 0.0


class Poisson(_Value, frozen=True, tag="poisson", tag_field="kind"):
    """Independent arrivals: exponential gaps with the mean 1/rate."""

    rate_per_s: Rate
    begins_s: Seconds = 0.0


class Storm(_Value, frozen=True, tag="storm", tag_field="kind"):
    """All of them at random moments within `within_s`, as after a power cut."""

    within_s: Seconds = 0.0
    begins_s: Seconds = 0.0


class Step(_Value, frozen=True):
    """From `at_s` on, gateways arrive at this rate (0: none)."""

    at_s: Seconds
    rate_per_s: Annotated[float, Meta(ge=0)]


class Schedule(_Value, frozen=True, tag="schedule", tag_field="kind"):
    """Rates by time, in ascending order; the last one must be positive and holds until all have arrived."""

    steps: Annotated[tuple[Step, ...], Meta(min_length=1)]


Arrivals = Constant | Ramp | Poisson | Storm | Schedule


class Life(_Value, frozen=True):
    """What a gateway does when it is online; what is left out it does not do. Each is spread evenly by its own chance.

    `rpc_every_s`: an operator calls the device and its answer is awaited (two-way RPC). Telemetry and attributes go
    with QoS 1 to `v1/devices/me/...`; each carries the gateway's name and a sequence number.
    """

    telemetry_every_s: PositiveSeconds | None = None
    attributes_every_s: PositiveSeconds | None = None
    rpc_every_s: PositiveSeconds | None = None


class Group(_Value, frozen=True):
    """Gateways of one kind. `names` is what their device names begin with, a number from 1 follows.

    `names` left out: the group's name and a hyphen. `credentials` left out: the server decides. `mqtt`: the version of
    the operational connection; the provisioning one is 3.1.1, as the vendor's. `storage` "disk" keeps each credentials
    file on disk as a real gateway does. `stay`: stay online; otherwise a registered gateway disconnects and is done.
    `expect` "refused": none of them may get in; "capped": each gets in or is refused by a reply, of all groups with
    this token exactly as many as it allows get in.
    `clones_of`: each gateway uses the identity of the one with the same number in that group: its profile, token,
    device name, credentials and keys.
    """

    name: Name
    gateways: Annotated[int, Meta(ge=1, le=1_000_000)]
    arrivals: Arrivals
    profile: Name = "default"
    token: Name = "default"  # noqa: S105 - a name, no secret
    names: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    credentials: Credentials | None = None
    mqtt: Literal["3.1.1", "5"] = "5"
    tls: bool = False
    storage: Literal["memory", "disk"] = "memory"
    stay: bool = True
    expect: Literal["online", "refused", "capped"] = "online"
    clones_of: Name | None = None
    life: Life = Life()


# --- faults: what goes wrong with gateways (by chance or by time) and with the target (by time) ---


class GatewayFault(_Value, frozen=True):
    """Something that happens to gateways.

    By chance: with `probability` at each occasion (each time that the gateway comes to the point where the kind can
    strike), at most `times` per gateway. By time: at `at_s`, to `share` of the gateways of `groups` (each one with this
    chance), each within `spread_s`; it then strikes once, at the gateway's next occasion, "power-loss" at once.
    Exactly one of `probability` and `at_s` is given. `groups` empty: all.
    `for_s` is how long it lasts where it lasts. What each `kind` means, and its occasion, is under "Kinds of faults".
    """

    kind: Literal[
        "cut-before-request",
        "cut-after-request",
        "reply-lost",
        "latency",
        "stalled-reader",
        "power-loss",
        "slow-save",
        "failed-save",
        "wrong-secret",
        "clock-skew",
    ]
    name: Title | None = None
    groups: tuple[Name, ...] = ()
    probability: Share | None = None
    at_s: Seconds | None = None
    share: Share = 1.0
    spread_s: Seconds = 0.0
    times: Count | None = None
    for_s: Seconds = 0.0
    skew_s: float = 0.0


class TargetFault(_Value, frozen=True):
    """Something that happens to what we start ourselves, at `at_s` for `for_s`. See "Kinds of faults"."""

    kind: Literal["broker-restart", "broker-kill", "responder-stop", "responder-kill", "responder-freeze", "disk-full"]
    at_s: Seconds
    for_s: Seconds = 0.0
    name: Title | None = None


class Action(_Value, frozen=True):
    """Something that an operator does at `at_s`, beside the running server, as with the command line.

    `rotate-devices`, `suspend-devices`, `resume-devices`: of `share` of the devices of `groups` (empty: all; each one
    with this chance), evenly over `for_s`. `revoke-token`: the token `token` of `profile`, with `cascade` suspending
    what it registered. Devices that it could not be done on (they had not registered yet) are counted at its mark, and
    no promise is called broken because they work on.
    """

    kind: Literal["rotate-devices", "suspend-devices", "resume-devices", "revoke-token"]
    at_s: Seconds
    for_s: Seconds = 0.0
    groups: tuple[Name, ...] = ()
    share: Share = 1.0
    profile: Name = "default"
    token: Name | None = None
    cascade: bool = False
    name: Title | None = None


class Stop(_Value, frozen=True):
    """When the run ends: when every expected gateway is (or was, without `stay`) online, nothing of the plan is due any
    more, and that has held for `hold_s`; at `after_s` if that is given; at `timeout_s` in any case.

    `online_within_s` is the T of the promise: after the last arrival and the last fault's end, all expected gateways
    are online within that time. One that was turned away many times may wait for a minute (`backoff_cap_s`) by itself.
    """

    hold_s: Seconds = 2.0
    after_s: PositiveSeconds | None = None
    timeout_s: PositiveSeconds = 300.0
    online_within_s: PositiveSeconds = 60.0


class Thresholds(_Value, frozen=True):
    """What must hold beside the promises; a run that misses one ends with exit status 1. What is left out is not asked.

    `p50_ms`, `p99_ms`: of registrations, from the planned arrival until online. `login_p99_ms`: of all logins with
    issued credentials. `telemetry_p99_ms`: until it is acknowledged. `max_failed_share`: of the expected gateways.
    """

    p50_ms: PositiveSeconds | None = None
    p99_ms: PositiveSeconds | None = None
    login_p99_ms: PositiveSeconds | None = None
    telemetry_p99_ms: PositiveSeconds | None = None
    min_registrations_per_s: Rate | None = None
    max_failed_share: Annotated[float, Meta(ge=0, le=1)] | None = None
    all_online_within_s: PositiveSeconds | None = None


class Gateway(_Value, frozen=True):
    """Times of the gateways that differ from those of the shipped gateway."""

    connect_timeout_s: PositiveSeconds | None = None
    reply_timeout_s: PositiveSeconds | None = None
    backoff_base_s: PositiveSeconds | None = None
    backoff_cap_s: PositiveSeconds | None = None
    keep_alive_s: Annotated[int, Meta(ge=1, le=65_535)] | None = None

    def machine_settings(self) -> MachineSettings:
        """Give the settings for all machines of the run. Raises ValueError if they make no sense together."""
        given = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        return MachineSettings(heartbeat_s=None, **given)


class Scenario(_Value, frozen=True):
    """One run, whole. What is planned within `warm_up_s` is left out of percentiles and rates, and shown as such."""

    name: Name
    summary: str
    groups: Annotated[tuple[Group, ...], Meta(min_length=1)] = msgspec.field(name="group")
    seed: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    warm_up_s: Seconds = 0.0
    profiles: tuple[Profile, ...] = msgspec.field(default=(), name="profile")
    tokens: tuple[Token, ...] = msgspec.field(default=(), name="token")
    faults: tuple[GatewayFault, ...] = msgspec.field(default=(), name="fault")
    target_faults: tuple[TargetFault, ...] = msgspec.field(default=(), name="target-fault")
    actions: tuple[Action, ...] = msgspec.field(default=(), name="action")
    gateway: Gateway = Gateway()
    stop: Stop = Stop()
    thresholds: Thresholds = Thresholds()

    @property
    def gateways(self) -> int:
        """How many there are in all groups."""
        return sum(group.gateways for group in self.groups)

    @property
    def expected(self) -> int:
        """How many are to get in: all that are not to be refused, of those behind a capped token its maximum."""
        most = {(token.profile, token.name): token.max_registrations for token in self.tokens}
        online, capped = 0, Counter[tuple[str, str]]()
        for group in self.groups:
            if group.expect == "online":
                online += group.gateways
            elif group.expect == "capped":
                capped[group.profile, group.token] += group.gateways
        return online + sum(min(count, most.get(token) or count) for token, count in capped.items())


# kind -> (when it can strike, what it does). The reference page and the errors are made from it.
KINDS: dict[str, tuple[str, str]] = {
    "cut-before-request": ("connected to provision", "the connection is cut before the request is sent"),
    "cut-after-request": ("the request is sent", "the connection is cut once the request is on its way"),
    "reply-lost": ("a reply arrives", "the reply is thrown away unread and the connection cut"),
    "latency": ("a connection opens", "each packet is `for_s` late in both directions, on this connection"),
    "stalled-reader": ("online", "the gateway reads nothing for `for_s`"),
    "power-loss": ("a reply was received, nothing saved yet", "power is off for `for_s`; by time: wherever it is"),
    "slow-save": ("credentials are to be saved", "saving takes `for_s`"),
    "failed-save": ("credentials are to be saved", "the disk of the gateway is full: saving fails"),
    "wrong-secret": ("switched on", "the provision secret is wrong for `for_s`, or until it is switched on again"),
    "clock-skew": ("switched on", "the gateway's clock is `skew_s` wrong, which its telemetry shows"),
    "broker-restart": ("at its time", "the broker is ended with SIGTERM and started again after `for_s`"),
    "broker-kill": ("at its time", "the broker is ended with SIGKILL and started again after `for_s`"),
    "responder-stop": ("at its time", "the responder is ended with SIGTERM and started again after `for_s`"),
    "responder-kill": ("at its time", "the responder is ended with SIGKILL and started again after `for_s`"),
    "responder-freeze": ("at its time", "the responder stands still (SIGSTOP) for `for_s`"),
    "disk-full": ("at its time", "the responder's files cannot grow for `for_s`"),
}

# kind -> (the keys that only some kinds have a use for, those of them without which it makes no sense).
_DEVICES = frozenset({"groups", "share", "for_s"})
_GATEWAYS = frozenset({"groups", "share"})
USES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "cut-before-request": (_GATEWAYS, frozenset()),
    "cut-after-request": (_GATEWAYS, frozenset()),
    "reply-lost": (_GATEWAYS, frozenset()),
    "latency": (_GATEWAYS | {"for_s"}, frozenset({"for_s"})),
    "stalled-reader": (_GATEWAYS | {"for_s"}, frozenset({"for_s"})),
    "power-loss": (_GATEWAYS | {"for_s"}, frozenset()),
    "slow-save": (_GATEWAYS | {"for_s"}, frozenset({"for_s"})),
    "failed-save": (_GATEWAYS, frozenset()),
    "wrong-secret": (_GATEWAYS | {"for_s"}, frozenset()),
    "clock-skew": (_GATEWAYS | {"skew_s"}, frozenset({"skew_s"})),
    "broker-restart": (frozenset({"for_s"}), frozenset()),
    "broker-kill": (frozenset({"for_s"}), frozenset()),
    "responder-stop": (frozenset({"for_s"}), frozenset()),
    "responder-kill": (frozenset({"for_s"}), frozenset()),
    "responder-freeze": (frozenset({"for_s"}), frozenset({"for_s"})),
    "disk-full": (frozenset({"for_s"}), frozenset({"for_s"})),
    "rotate-devices": (_DEVICES, frozenset()),
    "suspend-devices": (_DEVICES, frozenset()),
    "resume-devices": (_DEVICES, frozenset()),
    "revoke-token": (frozenset({"token", "profile", "cascade"}), frozenset({"token"})),
}
