"""Yardstick: stock amqtt 0.12.1 with the smallest plugin that provisions and lasts: one SQLite commit per request.

Arguments: the port and a file for the database.
"""

import asyncio
import json
import sqlite3
import sys
from dataclasses import dataclass
from typing import Any

from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin

from amqtt_with_plugin import serve

TOKENS: set[str] = set()


class Provisioning(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]  # amqtt is not typed here
    """Answers requests on the requester's own handler, after a commit with full sync."""

    @dataclass
    class Config:
        """Where the database is."""

        database: str = ""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._database = sqlite3.connect(self.config.database, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE device (name TEXT PRIMARY KEY, token TEXT) WITHOUT ROWID")

    async def authenticate(self, *, session: Any) -> bool:
        """Let in who provisions and who was given a token."""
        return session.username == "provision" or session.username in TOKENS

    async def topic_filtering(self, *, session: Any = None, topic: Any = None, action: Any = None) -> bool:
        """Keep requests from being routed."""
        return not (action == Action.PUBLISH and topic == "/provision/request")

    async def on_broker_message_received(self, *, client_id: str, message: Any) -> None:
        """Store the device and reply to the session that asked."""
        if message is None or message.topic != "/provision/request":
            return
        name = json.loads(message.data)["deviceName"]
        token = f"token-{name}"
        self._database.execute("INSERT INTO device VALUES (?, ?)", (name, token))
        TOKENS.add(token)
        reply = {"credentialsValue": token, "credentialsType": "ACCESS_TOKEN", "status": "SUCCESS"}
        _, handler = self.context._broker_instance._sessions[client_id]  # noqa: SLF001 - the one way to one session
        await handler.mqtt_publish("/provision/response", json.dumps(reply).encode(), 0, retain=False)


if __name__ == "__main__":
    sys.modules["stock_amqtt"] = sys.modules["__main__"]
    asyncio.run(serve(int(sys.argv[1]), {"stock_amqtt.Provisioning": {"database": sys.argv[2]}}))
