"""`mqttprov swarm`: fleets of virtual gateways that play a scenario, and what came of it.

The swarm is loaded by these verbs only. Looking at scenarios and at results is in modules beside this one.
"""

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from mqttprov.cli import values
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_columns, emit_json, say
from mqttprov.cli.request import FROM_FILE_HELP, KeyOption
from mqttprov.cli.simulate import progress_console
from mqttprov.cli.state import JsonOption, directory

if TYPE_CHECKING:
    from mqttprov_simulator.report.result import RunResult
    from mqttprov_simulator.running.environment import Finding
    from mqttprov_simulator.running.playing import Where
    from mqttprov_simulator.scenario.model import Scenario

app = typer.Typer(help="Play scenarios with thousands of virtual gateways, and judge the server.")

_COLUMNS: Final = {"check": "CHECK", "level": "RESULT", "seen": "SEEN", "advice": "DO"}
_STATUS: Final = {"passed": Exit.OK, "failed": Exit.FAILED, "refused": Exit.FAILED}


@app.callback()
def _swarm() -> None:
    """Play scenarios with thousands of virtual gateways, and judge the server."""


ScenarioArgument = Annotated[str, typer.Argument(metavar="SCENARIO", help="A shipped scenario's name, or a TOML file.")]
TargetOption = Annotated[
    str,
    typer.Option(
        metavar="T",
        help="'embedded' or 'mosquitto', which are started for the run, or mqtt(s)://HOST:PORT; several brokers of one "
        "service with commas between them.",
    ),
]
GatewaysOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=1_000_000,
        help="How many in all; groups and rates scale along.",
        show_default="as the scenario says",
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, max=2**53 - 1, help="For all that chance decides.", show_default="the scenario's"),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=1_000,
        help="Processes that carry the gateways.",
        show_default="as many as the fleet needs",
    ),
]
ClusterOption = Annotated[
    str | None, typer.Option(metavar="URL", help="Scheduler of a Dask cluster that carries the gateways.")
]
SecretFileOption = Annotated[Path | None, typer.Option(metavar="F", help=f"Of a URL's target: {FROM_FILE_HELP}")]
StateDirOption = Annotated[
    Path | None,
    typer.Option("--state-dir", parser=directory, metavar="DIR", help="Of a URL's target: its state directory."),
]
CaOption = Annotated[
    Path | None, typer.Option("--tls-ca", metavar="FILE", help="Of a URL's target: CA of its certificate (PEM).")
]


@app.command()
def run(
    scenario: ScenarioArgument,
    target: TargetOption = "embedded",
    gateways: GatewaysOption = None,
    seed: SeedOption = None,
    processes: ProcessesOption = None,
    cluster: ClusterOption = None,
    key: KeyOption = None,
    secret_file: SecretFileOption = None,
    state_dir: StateDirOption = None,
    tls_ca: CaOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the whole result here, as JSON.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page about it here, as HTML.")] = None,
    json: JsonOption = False,
) -> None:
    """Play a scenario and hold the server to its promises.

    Exit status 1 when a promise is broken, a threshold is missed, or the figures say nothing about the server. Ctrl-C
    ends the run early, with what there is.
    """
    from mqttprov_simulator.report.file import write_result
    from mqttprov_simulator.report.page import page

    for path in (out, report):
        writable(path)
    played = loaded(scenario, gateways, seed)
    where = place(target, processes, cluster, key, secret_file, state_dir, tls_ca)
    with stopping() as stop:
        result = played_once(played, where, command=_command(scenario, played, where), stop=stop)
    if json:
        emit_json(msgspec.to_builtins(result, str_keys=True))
    else:
        from mqttprov_simulator.report.summary import print_result

        print_result(result, progress_console())
    if out is not None:
        write_result(out, result)
    if report is not None:
        report.write_text(page(result), "utf-8")
    if stop.is_set():
        raise typer.Exit(Exit.INTERRUPTED)
    raise typer.Exit(_STATUS[result.verdict.state])


@app.command()
def doctor(
    gateways: Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="How many.")] = 10_000,
    target: TargetOption = "embedded",
    processes: ProcessesOption = None,
    json: JsonOption = False,
) -> None:
    """Say whether a fleet fits on this machine, and which is the largest. Exit status 7 when it does not."""
    from mqttprov_simulator.running.crew import processes_for
    from mqttprov_simulator.running.environment import examine, host, most_gateways
    from mqttprov_simulator.targets.target import TargetError

    here = host()
    workers = processes or processes_for(gateways, here.cores, gateways, here.open_files)
    try:
        findings = examine(here, gateways, workers=workers, target=target)
    except TargetError as error:
        raise Failure(str(error), Exit.USAGE) from error
    most = most_gateways(findings)
    rows = [{name: getattr(finding, name) for name in _COLUMNS} for finding in findings]
    if json:
        emit_json({"gateways": gateways, "target": target, "most": most, "findings": rows})
    else:
        emit_columns(rows, _COLUMNS)
        say(f"the largest honest fleet here: {most} gateways")
    if any(finding.level == "too small" for finding in findings):
        raise typer.Exit(Exit.FOUND)


def writable(path: Path | None) -> None:
    """See that a file can be written, before minutes are spent on what is to be in it. Raises Failure."""
    if path is None:
        return
    if path.is_dir():
        raise Failure(f"{path} is a directory; name a file to write", Exit.USAGE)
    if not path.parent.is_dir():
        raise Failure(f"{path} cannot be written: there is no directory {path.parent}", Exit.USAGE)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise Failure(f"{path} cannot be written: permission denied", Exit.USAGE)


def loaded(scenario: str, gateways: int | None, seed: int | None) -> "Scenario":
    """Read a scenario, with what the command line changes of it. Raises Failure."""
    from mqttprov_simulator.scenario.reading import ScenarioError, load
    from mqttprov_simulator.scenario.scaling import scaled

    try:
        read = load(scenario)
        if gateways is not None:
            read = scaled(read, gateways)
    except ScenarioError as error:
        raise Failure(str(error), Exit.USAGE) from error
    return read if seed is None else msgspec.structs.replace(read, seed=seed)


def place(
    target: str, processes: int | None, cluster: str | None, key: str | None, secret_file: Path | None,
    state_dir: Path | None, tls_ca: Path | None,
) -> "Where":  # fmt: skip
    """Put together where a scenario is run. Raises Failure."""
    from mqttprov_simulator.running.playing import Where
    from mqttprov_simulator.running.values import TokenKey
    from mqttprov_simulator.targets.addresses import addresses
    from mqttprov_simulator.targets.target import TargetError

    if target not in {"embedded", "mosquitto"}:
        try:
            addresses(target)
        except TargetError as error:
            raise Failure(str(error), Exit.USAGE) from error
    token = None
    if secret_file is not None:
        token = TokenKey(*values.registration_token(key, values.text_from_file(secret_file)))
    elif key is not None:
        raise Failure("--key needs --secret-file", Exit.USAGE)
    return Where(target=target, processes=processes, cluster=cluster, ca=tls_ca, token=token, state=state_dir)


def played_once(scenario: "Scenario", where: "Where", *, command: str, stop: threading.Event) -> "RunResult":
    """Run it with the live view. Raises Failure."""
    from mqttprov_simulator.live import LiveView
    from mqttprov_simulator.running.conduct import RunError
    from mqttprov_simulator.running.crew import CrewError
    from mqttprov_simulator.running.playing import play
    from mqttprov_simulator.targets.target import TargetError

    say(f"scenario {scenario.name}, seed {scenario.seed}: {scenario.gateways} gateways against {where.target}")
    try:
        with LiveView(progress_console(stderr=True), live=True) as view:
            return play(scenario, where, command=command, watch=view.update, stop=stop, tell=_warn)
    except (RunError, CrewError, TargetError) as error:
        if stop.is_set():  # it was told while something was being made, which then failed
            raise KeyboardInterrupt from error
        raise Failure(str(error)) from error


def _warn(finding: "Finding") -> None:
    say(f"note: {finding.check}: {finding.seen}; {finding.advice}")


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Give what the first Ctrl-C or SIGTERM sets; the second one interrupts at once."""
    stop = threading.Event()

    def ask(_number: int, _frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _command(given: str, scenario: "Scenario", where: "Where") -> str:
    """Give the command line that repeats a run. No secret is in it (P6)."""
    words = ["mqttprov", "swarm", "run", given, "--target", where.target]
    words += ["--gateways", str(scenario.gateways), "--seed", str(scenario.seed)]
    for option, value in (
        ("--processes", where.processes), ("--cluster", where.cluster), ("--state-dir", where.state),
        ("--tls-ca", where.ca),
    ):  # fmt: skip
        words += [] if value is None else [option, str(value)]
    if where.token is not None:
        words += ["--key", where.token.key, "--secret-file", "FILE"]
    return shlex.join(words)
