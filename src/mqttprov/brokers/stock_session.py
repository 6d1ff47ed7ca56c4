"""One session of a stock amqtt broker as we see it: whose it is, what it listens to, whether it has ended.

amqtt looks sessions up by the client id of any CONNECT, before it asks who that is: a refused one deletes or takes over
somebody's session. So each session gets an id of ours, which no CONNECT can name: a keyed hash is part of it.
"""

from collections.abc import Callable
from typing import Final

from mqttprov.brokers.amqtt_seam import AmqttHandler, AmqttSession
from mqttprov.core.login import Principal
from mqttprov.mqtt import ReasonCode, topic_matches

ATTRIBUTE: Final = "mqttprov"  # where a session keeps ours, among the attributes that amqtt leaves to plugins
ENTER_TIMEOUT_S: Final = 10.0  # from our yes to the broker's CONNACK
PROVISIONING_TIMEOUT_S: Final = 60.0  # as ThingsBoard: it closes such a session 60 s after a reply
MAX_FILTERS_PER_SESSION: Final = 256


class StockSession:
    """A session from our yes to its end. `principal` is None while it may only provision."""

    __slots__ = (
        "_end",
        "asked",
        "deadline",
        "ended",
        "entering",
        "filters",
        "handler",
        "key",
        "pending_deliveries",
        "pending_requests",
        "principal",
        "session",
        "slot",
        "source",
    )

    def __init__(
        self,
        session: AmqttSession,
        key: str,
        principal: Principal | None,
        deadline_s: float,
        end: "Callable[[StockSession], None]",
    ) -> None:
        self.session = session
        self.key = key  # the client id by which amqtt knows it
        self.principal = principal
        self.source = session.remote_address or ""
        self.handler: AmqttHandler | None = None  # while it is connected
        self.entering = True  # until CONNACK
        self.ended = False
        self.deadline: float | None = deadline_s
        self.asked: set[str] = set()  # filters that we granted, as the client named them
        self.filters: dict[str, int] = {}  # filters that everybody granted, in the broker's topics, with QoS
        self.slot = 0  # the wheel's
        self.pending_requests = 0
        self.pending_deliveries = 0
        self._end = end
        session.attributes[ATTRIBUTE] = self

    @property
    def kept(self) -> bool:
        """Tell whether it goes on while its client is away."""
        return not self.session.clean_session

    def granted(self, topic: str) -> int | None:
        """Give the QoS with which it listens to a topic of the broker; None: it does not."""
        qos = [granted for topic_filter, granted in self.filters.items() if topic_matches(topic_filter, topic)]
        return max(qos) if qos else None

    def end(self, reason: ReasonCode) -> None:
        """End it from our side; MQTT 3.1.1 has no way to tell the reason."""
        del reason
        self._end(self)

    # --- deadlines (wheel) ---

    def deadline_s(self) -> float | None:
        """Give the time at which it has been undecided, or a guest, for too long."""
        return None if self.ended else self.deadline

    def expire(self) -> None:
        """End it for that."""
        self._end(self)


def session_of(session: AmqttSession | None) -> StockSession | None:
    """Give ours of amqtt's session; None for one that another plugin let in."""
    ours = session.attributes.get(ATTRIBUTE) if session is not None else None
    return ours if isinstance(ours, StockSession) and ours.session is session else None
