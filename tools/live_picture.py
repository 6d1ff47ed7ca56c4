"""Makes docs/img/swarm.svg, the picture of a played scenario in the README: `python tools/live_picture.py`."""

import io
import math
from pathlib import Path

from rich.console import Console

from mqttprov_simulator.live import view
from mqttprov_simulator.report.summary import print_result
from mqttprov_simulator.results import Progress
from mqttprov_simulator.running.playing import Where, play
from mqttprov_simulator.scenario.reading import load
from mqttprov_simulator.state_groups import grouped

PICTURE = Path(__file__).parents[1] / "docs" / "img" / "swarm.svg"
SCENARIO = "power-cut-region"
_SEEN = 0.02  # of the fleet: less is no bar that one sees


def main() -> None:
    """Play the scenario on Mosquitto and keep its liveliest moment and the result."""
    moments: list[Progress] = []
    where = Where(target="mosquitto")
    command = f"mqttprov swarm run {SCENARIO} --target {where.target}"
    result = play(load(SCENARIO), where, command=command, watch=moments.append)
    console = Console(file=io.StringIO(), record=True, width=100, force_terminal=True)
    console.print(f"[bold]$ {command}[/bold]")
    console.print(view(max(moments, key=_liveliness)))
    console.print("[dim]...[/dim]")
    print_result(result, console)
    console.save_svg(str(PICTURE), title="mqttprov swarm")


def _liveliness(moment: Progress) -> tuple[bool, int, float]:
    """Say how much there is to see: a fault that goes on, and a fleet that is spread over many states."""
    shares = [count / moment.gateways for count in grouped(moment.states).values() if count]
    seen = sum(share > _SEEN for share in shares)
    return (bool(moment.faults), seen, -sum(share * math.log(share) for share in shares))


if __name__ == "__main__":
    main()
