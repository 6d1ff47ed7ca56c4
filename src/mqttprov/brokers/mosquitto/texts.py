"""The texts that are written for an operator: Mosquitto's configuration, the responder's, and units of systemd.

Each setting stands with its reason. The traps are those of Mosquitto 2.0.11 to 2.1 (reference/mosquitto.md).
"""

import shlex
from pathlib import Path
from typing import Final

from mqttprov.brokers.mosquitto.places import BROKER_USER, RESPONDER_USER, Places

_HEAD: Final = """\
# Written by `mqttprov mosquitto install`, which writes it again when it is run again: put settings of your own into
# another file. It goes with Mosquitto 2.0.11 and newer.
"""

_GATE: Final = """
# The gate decides every login and topic; nobody comes in without it.
allow_anonymous false
plugin {plugin}
plugin_opt_database {database}
plugin_opt_pepper_file {pepper}
plugin_opt_responder_file {password}

# With `true` Mosquitto 2.0 never calls the gate's clock, and listeners without the gate would be open.
per_listener_settings false
# Otherwise an acknowledgement holds up the reply behind it for 40 ms.
set_tcp_nodelay true
# Bounds what waits for a slow device. Never 0: Debian's 2.0.11 then hangs up on who publishes where it may not.
max_queued_messages 1000
# A session that outlives the broker would be anybody's who knows its client id: the gate only knows those it let in.
persistence false
# They hold client ids, and a device may use its access token as one. To look for a fault set it to true for a while.
connection_messages false
"""

_PLAIN: Final = """
# Without TLS, for this machine alone: the responder, and devices behind a TLS front. To open it to others, whoever is
# on the way reads keys, secrets and tokens.
listener {port} 127.0.0.1
"""

_TLS: Final = """
# TLS 1.2 and newer, with and without a client certificate: the gate has Mosquitto ask for one and take any, and lets
# in those that devices have registered. So there is no cafile and no `require_certificate`. Never set
# `use_identity_as_username` or `use_subject_as_username`: Mosquitto then believes a certificate and asks no gate.
listener {port}
certfile {certificate}
keyfile {private_key}
"""

# What a service of ours may do at most (systemd.exec(5)).
_HARDENED: Final = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=
AmbientCapabilities=
"""


def broker_configuration(places: Places, user: str, port: int, tls_port: int | None, server: tuple[Path, Path]) -> str:
    """Give mosquitto.conf; `server` are the files of the TLS certificate and its private key."""
    text = _HEAD + _GATE.format(
        plugin=places.plugin,
        database=places.state / "mqttprov.db",
        pepper=places.pepper,
        password=places.gate_password,
    )
    if not places.system:  # Debian's own mosquitto.conf says these
        text += f"\n# Started by root it becomes this user, who may read the secrets above.\nuser {user}\n"
        text += "log_dest stderr\n"
    text += _PLAIN.format(port=port)
    if tls_port is not None:
        text += _TLS.format(port=tls_port, certificate=server[0], private_key=server[1])
    return text


def responder_configuration(places: Places, port: int) -> str:
    """Give responder.toml."""
    return (
        "# Written by `mqttprov mosquitto install` for `mqttprov respond --config`.\n"
        f"broker = {_toml(f'mqtt://127.0.0.1:{port}')}\n"
        f"password_file = {_toml(places.password)}\n"
        f"state = {_toml(places.state)}\n"
    )


def responder_unit(places: Places, command: list[str], user: str) -> str:
    """Give the unit of the responder."""
    broker = "mosquitto.service" if places.system else "mqttprov-mosquitto.service"
    who = f"User={RESPONDER_USER}\nGroup={BROKER_USER}\n" if places.system else f"User={user}\n"
    # The group of the files that the broker reads may read them, nobody else.
    mask = "0027" if places.system else "0077"
    return (
        "[Unit]\n"
        "Description=mqttprov: the responder beside Mosquitto\n"
        f"After=network.target {broker}\n"
        f"Wants={broker}\n"
        "\n[Service]\n"
        f"ExecStart={' '.join(map(_unit_word, [*command, 'respond', '--config', str(places.responder)]))}\n"
        "Restart=on-failure\nRestartSec=1\n"
        f"{who}UMask={mask}\nLimitNOFILE=4096\n"
        f"{_HARDENED}ReadWritePaths={_unit_word(str(places.state))}\n"
        "\n[Install]\nWantedBy=multi-user.target\n"
    )


def broker_unit(places: Places, program: str, user: str) -> str:
    """Give the unit of a Mosquitto below a directory; a system's own has one."""
    return (
        "[Unit]\n"
        "Description=Mosquitto with the gate of mqttprov\n"
        "After=network.target\n"
        "\n[Service]\n"
        "Type=notify\nNotifyAccess=main\n"
        f"ExecStart={_unit_word(program)} -c {_unit_word(str(places.configuration))}\n"
        "ExecReload=/bin/kill -HUP $MAINPID\n"
        "Restart=on-failure\nRestartSec=1\n"
        f"User={user}\nUMask=0077\nLimitNOFILE=1048576\n"
        # SQLite shares the memory of a database with its writers in a file beside it.
        f"{_HARDENED}ReadWritePaths={_unit_word(str(places.state))}\n"
        "\n[Install]\nWantedBy=multi-user.target\n"
    )


def _toml(value: str | Path) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _unit_word(word: str) -> str:
    """Quote a word for systemd, where `%` and `$` mean something (systemd.service(5))."""
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return escaped if shlex.quote(escaped) == escaped else '"' + escaped.replace('"', '\\"') + '"'
