"""Stock amqtt 0.12.1 with our plugin, as its documentation says. Arguments: the port and the state directory."""

import asyncio
import sys

from amqtt.broker import Broker


async def serve(port: int, plugins: dict[str, dict[str, str]]) -> None:
    """Run stock amqtt with these plugins until stdin ends."""
    listener = {"type": "tcp", "bind": f"127.0.0.1:{port}", "max_connections": 50_000}
    broker = Broker({"listeners": {"default": listener}, "plugins": plugins})
    await broker.start()
    print(f"mqtt://127.0.0.1:{port}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), {"mqttprov.brokers.amqtt_plugin.ProvisioningPlugin": {"state": sys.argv[2]}}))
