"""What the page on embedding shows works as it stands, from an empty directory."""

import re
import socket
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "embed.md"


def run(example: str, folder: Path) -> list[str]:
    """Run one example in a process of its own, on a port of its own; give the lines that it printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-c", example.replace("1883", port)],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_examples_of_the_page_work(tmp_path: Path) -> None:
    """A broker in ten lines, an operator's action in it, and outcomes by kind."""
    first, second = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    body = re.search(r"^async def main.*?(?=^asyncio\.run)", first, re.MULTILINE | re.DOTALL)
    assert body is not None
    assert len(body[0].strip().splitlines()) <= 10
    lines = run(first, tmp_path)
    assert any(re.fullmatch(r"\S{24} registers devices at mqtt://127\.0\.0\.1:\d+", line) for line in lines)
    assert any("TOKEN_CREATED" in line and line.startswith("Recorded(") for line in lines)
    lines = run(second, tmp_path)
    assert "['gw-1']" in lines
    assert [line for line in lines if line != "['gw-1']"] == [
        "new: gw-1 of lot8",
        "refused: wrong-secret from 127.0.0.1",
    ]
