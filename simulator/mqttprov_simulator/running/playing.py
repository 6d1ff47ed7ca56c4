"""From a scenario and where to run it to a result: looks at the host, starts target and workers, conducts, ends all."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import msgspec

from mqttprov_simulator.report.result import RunResult
from mqttprov_simulator.running.conduct import RunError, Watch, conduct
from mqttprov_simulator.running.crew import Crew, LocalCrew, processes_for
from mqttprov_simulator.running.dask_crew import DaskCrew
from mqttprov_simulator.running.environment import Finding, examine, host
from mqttprov_simulator.running.values import TokenKey
from mqttprov_simulator.scenario.connections import connections
from mqttprov_simulator.scenario.model import Scenario
from mqttprov_simulator.targets.actions import can_act
from mqttprov_simulator.targets.embedded import embedded
from mqttprov_simulator.targets.mosquitto import mosquitto
from mqttprov_simulator.targets.target import Target, TargetError
from mqttprov_simulator.targets.url import UrlTarget


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """Where a scenario is run. `target`: embedded, mosquitto or a URL, and for a URL what is known of it.

    `processes` None: as the fleet needs. `cluster`: the scheduler of a Dask cluster that carries the gateways.
    """

    target: str = "embedded"
    processes: int | None = None
    cluster: str | None = None
    ca: Path | None = None
    token: TokenKey | None = None
    state: Path | None = None


def play(
    scenario: Scenario,
    where: Where,
    *,
    command: str = "",
    watch: Watch | None = None,
    stop: threading.Event | None = None,
    tell: Callable[[Finding], None] = lambda _finding: None,
) -> RunResult:
    """Run a scenario once and give the result. `tell` gets what is not well with this host, before it begins.

    Raises RunError (also when the fleet does not fit here), TargetError, CrewError.
    """
    crew: Crew
    if where.cluster is None:
        here, planned = host(), connections(scenario)
        crew = LocalCrew()
        workers = where.processes or processes_for(scenario.gateways, here.cores, planned.open, here.open_files)
        findings = examine(here, scenario.gateways, workers=workers, target=where.target, planned=planned)
        _refuse(findings)
        findings = [finding for finding in findings if finding.level != "ok"]
    else:
        crew = DaskCrew(where.cluster)
        workers, findings = where.processes or crew.machines, []
    for finding in findings:
        tell(finding)
    try:
        with opened(scenario, where) as target:
            can_act(scenario, target)
            return conduct(
                scenario, target, crew, workers=workers, command=command, watch=watch, stop=stop,
                warnings=tuple(f"{finding.check}: {finding.seen}; {finding.advice}" for finding in findings),
            )  # fmt: skip
    finally:
        crew.end()


def opened(scenario: Scenario, where: Where) -> AbstractContextManager[Target]:
    """Give the target; with the context what was started of it ends. Raises TargetError."""
    own: dict[str, Callable[[Scenario], AbstractContextManager[Target]]] = {
        "embedded": embedded, "mosquitto": mosquitto,
    }  # fmt: skip
    if where.target not in own:
        token, state = where.token, where.state
        return nullcontext(UrlTarget.prepared(where.target, scenario, ca=where.ca, token=token, state=state))
    if where.ca or where.token or where.state:
        raise TargetError(
            f"the target {where.target} has a state directory, a token and certificates of its own; "
            "leave out --state-dir, --key, --secret-file and --tls-ca, or give a URL"
        )
    return own[where.target](scenario)


def _refuse(findings: list[Finding]) -> None:
    small = [finding for finding in findings if finding.level == "too small"]
    if small:
        raise RunError("; ".join(f"{finding.check}: {finding.seen}; {finding.advice}" for finding in small))
