"""Small tools of tests of brokers: waiting, new state directories, requests for them. No test lives here."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mqttprov.brokers.responder_run import now_ms
from mqttprov.responder.administration import IssuedToken
from mqttprov.responder.state_directory import initialise

TIMEOUT_S: Final = 30.0
ACTOR: Final = "cli:test"


def request_bytes(issued: IssuedToken, device_name: str | None, **fields: Any) -> bytes:
    """Write a provisioning request as JSON."""
    request: dict[str, Any] = {"provisionDeviceKey": issued.key, "provisionDeviceSecret": issued.secret}
    if device_name is not None:
        request["deviceName"] = device_name
    return json.dumps({**request, **fields}).encode()


def new_state(path: Path) -> IssuedToken:
    """Make a state directory; give its default registration token."""
    issued = initialise(path, actor=ACTOR, now_ms=now_ms, entropy=os.urandom)
    assert issued is not None
    return issued


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in a turn of this loop."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
