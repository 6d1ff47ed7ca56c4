"""Operators who call devices at several brokers: each device at its gateway's, and what came of it is added up."""

from typing import Any

import pytest

from mqttprov.gateway import actions
from mqttprov_simulator.running import rpc_caller
from mqttprov_simulator.running.rpc_caller import RpcCaller, RpcCallers


class _Link:
    """A connection that only remembers; `route` is the name of the broker here."""

    def __init__(self, owner: RpcCaller, login: actions.Connect, route: Any) -> None:
        self.owner, self.login = owner, login
        self.published: list[actions.Publish] = []
        _LINKS[route] = self

    def publish(self, action: actions.Publish) -> None:
        self.published.append(action)

    def subscribe(self, action: actions.Subscribe) -> None:
        """Nothing to remember."""

    def flush(self) -> None:
        """Nothing to write."""

    def close(self) -> None:
        """Nothing to close."""


_LINKS: dict[str, _Link] = {}


async def test_a_device_is_called_at_the_broker_of_its_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls have names of their own: a cluster that passes answers on confuses nobody."""
    monkeypatch.setattr(rpc_caller, "Link", _Link)
    routes: Any = ["first", "second"]
    callers = RpcCallers(routes, ("operator", "password"), 7)
    callers.call(0, "early", 1.0)
    assert callers.failed() == {"an RPC found no operator connected": 1}
    for link in _LINKS.values():
        link.owner.connected()
    await callers.ready()
    callers.begin(0.0)
    for number in range(4):
        callers.call(number, f"d{number}", 1.0)
    topics = {route: [action.topic for action in link.published] for route, link in _LINKS.items()}
    assert [topic.split("/")[2] for topic in topics["first"]] == ["d0", "d2"]
    assert [topic.split("/")[2] for topic in topics["second"]] == ["d1", "d3"]
    assert len({topic.rpartition("/")[2] for route in routes for topic in topics[route]}) == 4
    assert _LINKS["first"].login.client_id != _LINKS["second"].login.client_id
    for route in routes:
        for topic in topics[route]:
            _LINKS[route].owner.message(topic.replace("request", "response"), b"{}")
    assert sum(callers.latency().values()) == 4
    callers.close()
    assert callers.failed().total() == 1
