"""Two nodes of Debian's RabbitMQ as ordinary processes on loopback, with folders, cookie and port mapper of their own.

Nothing of the system's own RabbitMQ is used or touched. No test lives here.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.ports import free_port

START_TIMEOUT_S: Final = 120.0
_HOME: Final = Path("/usr/lib/rabbitmq/lib")


def installed() -> Path | None:
    """Give the program, None where it is not installed."""
    return next(iter(sorted(_HOME.glob("rabbitmq_server-*/sbin/rabbitmq-server"))), None)


def settings(mqtt_port: int, questions: str) -> str:
    """Give a node's rabbitmq.conf, as the how-to has it; `questions` is the URL of our adapter."""
    paths = "\n".join(f"auth_http.{what}_path = {questions}/{what}" for what in ("user", "vhost", "resource", "topic"))
    return f"""\
listeners.tcp = none
mqtt.listeners.tcp.1 = 127.0.0.1:{mqtt_port}
mqtt.allow_anonymous = false
mqtt.vhost = /
auth_backends.1 = http
auth_http.http_method = post
{paths}
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = one@localhost
cluster_formation.classic_config.nodes.2 = two@localhost
vm_memory_high_watermark.absolute = 512MB
"""


class Node:
    """One node; `mqtt_port` is where devices connect."""

    def __init__(self, name: str, folder: Path, mqtt_port: int, questions: str, mapper_port: int) -> None:
        self.mqtt_port = mqtt_port
        self.log = folder / f"{name}.out"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"{name}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / f"{name}.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / f"{name}-generated"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / f"{name}-flags"),
            "RABBITMQ_PID_FILE": str(folder / f"{name}.pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1",
        }
        (folder / f"{name}.conf").write_text(settings(mqtt_port, questions))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when its MQTT listener takes connections."""
        program = installed()
        assert program is not None
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [program], env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            assert self._process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.mqtt_port), 1):
                return
            time.sleep(0.2)
        raise AssertionError(f"the node does not start: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End it and what it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)


@contextlib.contextmanager
def cluster(folder: Path, questions: str, mqtt_ports: tuple[int, int]) -> Iterator[None]:
    """Run two joined nodes that ask at this URL; they are gone afterwards."""
    cookie = folder / ".erlang.cookie"
    cookie.write_text(secrets.token_hex(16))
    cookie.chmod(0o400)
    (folder / "enabled_plugins").write_text("[rabbitmq_mqtt,rabbitmq_auth_backend_http].\n")
    mapper_port = free_port()
    mapper = subprocess.Popen(["epmd", "-port", str(mapper_port), "-address", "127.0.0.1"], stdin=subprocess.DEVNULL)
    names = ("one", "two")
    nodes = [Node(name, folder, port, questions, mapper_port) for name, port in zip(names, mqtt_ports, strict=True)]
    try:
        for node in nodes:
            node.start()
        yield
    finally:
        for node in nodes:
            node.stop()
        mapper.terminate()
        mapper.wait(30)
