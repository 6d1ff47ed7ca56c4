"""What a device does with the vendor's client: provision, log in with what it got, send telemetry.

Run by the interpreter of the vendor's environment. Reads a JSON array of cases from stdin, handles them at once, and
prints a JSON array of what came of each: `credentials` and whether it was `connected`, told its `limits` and `sent`.
A case holds the arguments of `provision`, and for a login by certificate `tls` with its files and `port`.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# The vendor's client is in another environment than the one that checks this file.
from tb_device_mqtt import TBDeviceMqttClient, TBPublishInfo  # type: ignore[import-not-found]  # only in its own environment

PATIENCE_S = 30.0


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Handle one case."""
    target = {"host": case["provision"]["host"], "port": case.get("port", case["provision"]["port"])}
    credentials = TBDeviceMqttClient.provision(**case["provision"])
    if credentials is None:
        return {"credentials": None}
    value, tls = credentials["credentialsValue"], case.get("tls")
    login: dict[str, Any] = {}
    if isinstance(value, dict):
        login = {"username": value["userName"], "password": value["password"], "client_id": value["clientId"]}
    elif not tls:
        login = {"username": value}
    client = TBDeviceMqttClient(**target, **login)
    client.connect(**({"tls": True, **tls} if tls else {}))
    try:
        # The client has no event for either; its own code polls these as well.
        deadline_s = time.monotonic() + PATIENCE_S
        while not client.rate_limits_received and time.monotonic() < deadline_s:
            time.sleep(0.02)
        sent = client.send_telemetry({"temperature": 21.5}).get() == TBPublishInfo.TB_ERR_SUCCESS
        return {
            "credentials": credentials,
            "connected": client.is_connected(),
            "limits": client.rate_limits_received,
            "sent": sent,
        }
    finally:
        client.disconnect()
        client.stop()


if __name__ == "__main__":
    cases = json.load(sys.stdin)
    with ThreadPoolExecutor(len(cases)) as pool:
        json.dump(list(pool.map(run, cases)), sys.stdout)
