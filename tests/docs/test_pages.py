"""The pages of the documentation do what they say: their commands run, in order, from an empty directory.

A fenced block `sh` runs in bash and must succeed; `sh background` runs beside the rest until the page ends, and the
page goes on once it says that it listens or is online; `sh newcomer` is what runs these tests, so they cannot run it.
"""

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "mosquitto").glob("*.md"), *(ROOT / "docs").rglob("*.md")]
)
BLOCK = re.compile(r"^```(sh[ \w]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
READY = (b"listening on mqtt://", b"online", b"answering requests of")
START_TIMEOUT_S = 30.0


def with_free_ports(page: str) -> str:
    """Give the page with ports of its own instead of the well-known ones; the verbs' default is written out first."""
    page = re.sub(r"^mqttprov serve$", "mqttprov serve --port 1883", page, flags=re.MULTILINE)
    page = page.replace("mqttprov serve --tls-port", "mqttprov serve --port 1883 --tls-port")
    page = re.sub(r"^(mqttprov request (?!.*--port).*)$", r"\1 --port 1883", page, flags=re.MULTILINE)
    page = page.replace("mqttprov serve --ws-port", "mqttprov serve --port 1883 --ws-port")
    for port in ("1883", "1884", "1885", "8883", "8083", "8084"):
        page = page.replace(port, str(free_port()))
    return page


def with_small_fleets(page: str) -> str:
    """Give the page with sixty gateways where it plays fifty thousand; they arrive as often, so it takes less time."""
    return page.replace("50_000", "60")


@contextmanager
def background(script: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a block until the context ends; enter once it has said that it is ready."""
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        said, deadline_s = b"", time.monotonic() + START_TIMEOUT_S
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not any(word in said for word in READY):
                assert selector.select(max(0.0, deadline_s - time.monotonic())), f"not ready, said: {said!r}"
                chunk = os.read(process.stdout.fileno(), 65_536)
                assert chunk, f"ended, said: {said!r}"
                said += chunk
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_commands_of_a_page_work_in_order(page: Path, tmp_path: Path, need: Callable[[str], None]) -> None:
    """What a reader types works, from an empty directory and nothing else."""
    if "\nopenssl " in page.read_text():
        need("openssl")
    if "mqttprov mosquitto install" in page.read_text():
        for program in ("mosquitto", "gcc", "make"):
            need(program)
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    text = with_small_fleets(with_free_ports(page.read_text()))
    contexts = []
    try:
        for kind, script in BLOCK.findall(text):
            if kind == "sh background":
                context = background(script, tmp_path, environment)
                context.__enter__()
                contexts.append(context)
            elif kind == "sh":
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", script],
                    cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
                )  # fmt: skip
                assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
            else:
                assert kind == "sh newcomer", f"an unknown kind of block: {kind}"
    finally:
        for context in reversed(contexts):
            context.__exit__(None, None, None)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """A reader never meets a dead link within the project."""
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


def test_the_two_commands_of_the_readme_are_targets_of_make() -> None:
    """What the tests cannot run themselves exists at least."""
    makefile = (ROOT / "Makefile").read_text()
    commands = [line.split()[1] for kind, block in BLOCK.findall((ROOT / "README.md").read_text())
                if kind == "sh newcomer" for line in block.splitlines()]  # fmt: skip
    assert commands == ["run", "test"]
    assert all(f"\n{target}:" in makefile for target in commands)
