"""Planted bug: what a device publishes on a `me` topic comes back to who is subscribed to it (DESIGN decision 8)."""

from mqttprov.brokers.routing import Router
from mqttprov.brokers.sessions import Session
from mqttprov.cli.main import main
from mqttprov.mqtt import Message

_route = Router.route


def route(self: Router, sender: Session | None, message: Message, *, own: bool) -> None:
    """Deliver to everybody, whoever said it."""
    _route(self, sender, message, own=False)


if __name__ == "__main__":
    Router.route = route  # type: ignore[method-assign] # the planted bug
    main()
