"""Building the gate plugin from the C sources that are shipped: found, compiled, or a word on what is missing."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

PLUGIN: Final = "mqttprov_gate.so"
_TIMEOUT_S: Final = 120.0
# What the build needs -> Debian's package that has it.
_PROGRAMS: Final = {"make": "make", "gcc": "gcc"}
_HEADERS: Final = {
    "stdlib.h": "libc6-dev",
    "mosquitto_broker.h": "mosquitto-dev",
    "mosquitto.h": "libmosquitto-dev",
    "sqlite3.h": "libsqlite3-dev",
    "openssl/evp.h": "libssl-dev",
    "uthash.h": "uthash-dev",
}


class GateNotBuilt(Exception):  # noqa: N818 - it names what is wrong
    """The plugin cannot be built; the text says why and what to do."""


def sources() -> Path:
    """Give the folder with the C sources: in the installed package, or in a checkout. Raises `GateNotBuilt`."""
    package = Path(__file__).parents[2]
    for folder in (package / "mosquitto", package.parents[1] / "mosquitto"):
        if (folder / "gate.c").is_file():
            return folder
    raise GateNotBuilt(f"the plugin's C sources are not at {package / 'mosquitto'}; install mqttprov again")


def build_gate() -> bytes:
    """Compile the plugin; give the file's content. Raises `GateNotBuilt`."""
    folder = sources()
    missing = missing_packages()
    if missing:
        raise GateNotBuilt(
            f"the gate plugin is compiled here, and that needs {', '.join(missing)}; "
            f"run as root: apt-get install {' '.join(missing)}"
        )
    with tempfile.TemporaryDirectory(prefix="mqttprov-gate-") as output:
        made = _run(["make", "-C", str(folder), "CC=gcc", f"BUILD={output}"])
        if made.returncode != 0:
            raise GateNotBuilt(f"the gate plugin cannot be compiled: {_cause(made.stderr)}")
        return Path(output, PLUGIN).read_bytes()


def missing_packages() -> list[str]:
    """Give Debian's packages that the build needs and that are not installed."""
    missing = [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]
    if "gcc" in missing:
        return [*missing, *_HEADERS.values()]  # without it nobody can tell; apt-get leaves alone what is there
    return [*missing, *(package for header, package in _HEADERS.items() if not _has(header))]


def _has(header: str) -> bool:
    # Only the file is looked for: headers of a version that goes with others are the compiler's to judge.
    text = f"#if !__has_include(<{header}>)\n#error\n#endif\n"
    return _run(["gcc", "-E", "-x", "c", "-"], text).returncode == 0


def _run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - the arguments are ours
            command, input=text, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GateNotBuilt(f"{command[0]} cannot be run: {error}") from error


def _cause(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line or "cannot find" in line), lines[-1] if lines else "no word")
