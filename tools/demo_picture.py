"""Makes docs/img/demo.svg, the picture of a run in the README: `python tools/demo_picture.py`."""

import io
from pathlib import Path

from rich.console import Console

from mqttprov_simulator.demo import run_demo
from mqttprov_simulator.live import LiveView, print_summary
from mqttprov_simulator.live import view as live_view
from mqttprov_simulator.results import Progress

PICTURE = Path(__file__).parents[1] / "docs" / "img" / "demo.svg"


def main() -> None:
    """Run the demo and keep the live view of its middle and the summary."""
    moments: list[Progress] = []
    update = LiveView.update

    def keep(view: LiveView, progress: Progress) -> None:
        moments.append(progress)
        update(view, progress)

    LiveView.update = keep  # type: ignore[method-assign]  # the view is the one place that sees every moment
    summary = run_demo(gateways=1000, console=Console(file=io.StringIO()), live=False)
    console = Console(file=io.StringIO(), record=True, width=96, force_terminal=True)
    console.print("[bold]$ make run[/bold]")
    # The moment when half of the fleet had arrived, not the first or the last.
    console.print(live_view(min(moments, key=lambda moment: abs(moment.registered - moment.gateways // 2))))
    console.print("[dim]...[/dim]")
    print_summary(summary, console)
    console.save_svg(str(PICTURE), title="mqttprov demo")


if __name__ == "__main__":
    main()
