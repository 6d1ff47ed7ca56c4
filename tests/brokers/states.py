"""New state directories for tests of brokers, and requests for them. No test lives here."""

import json
import os
from pathlib import Path
from typing import Any, Final

from mqttprov.brokers.embedded import now_ms
from mqttprov.responder.administration import IssuedToken
from mqttprov.responder.state_directory import initialise

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
