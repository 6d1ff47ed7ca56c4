"""The smallest plugin for a stock amqtt that lets the scenarios run: users with passwords, one forbidden topic."""

from dataclasses import dataclass, field
from typing import Any

from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin


class Rules(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]  # amqtt is not typed for others
    """Lets in who gives the right password; nobody may publish to `forbidden`; it fails for topics with `poison`."""

    @dataclass
    class Config:
        """Who and what."""

        passwords: dict[str, str] = field(default_factory=dict)
        forbidden: str = ""

    async def authenticate(self, *, session: Any) -> bool:
        """Decide a login."""
        return session.username is not None and self.config.passwords.get(session.username) == session.password

    async def topic_filtering(self, *, session: Any = None, topic: Any = None, action: Any = None) -> bool:
        """Decide about a topic, or fail, as plugins may."""
        if action == Action.PUBLISH and "poison" in topic:
            raise RuntimeError("a plugin fails")
        return not (action == Action.PUBLISH and topic == self.config.forbidden)
