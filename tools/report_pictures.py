"""Makes docs/img/report-light.png and report-dark.png, the pictures of a run's page: `python -m tools.report_pictures`.

Of a result that is named, or of one that only looks like a real one.
"""

import sys
import tempfile
from pathlib import Path

from tests.simulator import believable
from tests.simulator.chromium import browser

from mqttprov_simulator.report.file import read_result
from mqttprov_simulator.report.page import page

PICTURES = Path(__file__).parents[1] / "docs" / "img"
MAX_BYTES = 200_000


def main() -> None:
    """Take both pictures of the upper part of the page."""
    result = read_result(Path(sys.argv[1])) if len(sys.argv) > 1 else believable.result()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, browser(Path(name) / "profile") as running:
        path = Path(name) / "page.html"
        path.write_text(page(result), "utf-8")
        for scheme in ("light", "dark"):
            look = running.look(path, width=1120, height=1400, dark=scheme == "dark")
            picture = PICTURES / f"report-{scheme}.png"
            picture.write_bytes(look.picture())
            if picture.stat().st_size > MAX_BYTES:
                sys.exit(f"{picture} is larger than {MAX_BYTES} bytes: make the window smaller")


if __name__ == "__main__":
    main()
