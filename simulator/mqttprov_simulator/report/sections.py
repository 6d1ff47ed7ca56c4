"""The parts of a run's page as HTML, all but the charts' drawings. Everything that comes out of a result is escaped."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

import msgspec

from mqttprov_simulator.report import figures, words
from mqttprov_simulator.report.charts import Chart
from mqttprov_simulator.report.result import Check, Mark, RunResult
from mqttprov_simulator.report.verdict import kernel_remarks
from mqttprov_simulator.running.values import Broken, Second

_NAMED_GATEWAYS: Final = 12
_NAMED_BREACHES: Final = 20
_TABLE_STEPS: Final = 300
_SPARK_STEPS: Final = 60


def _stroke(path: str) -> str:
    return (
        f'<path d="{path}" fill="none" stroke="{{0}}" stroke-width="2.4" stroke-linecap="round" '
        'stroke-linejoin="round"/>'
    )


_TICK: Final = _stroke("M6.5 12.5l3.8 3.8 7.4-8")
_CROSS: Final = _stroke("M8 8l8 8M16 8l-8 8")
_MARK: Final = _stroke("M12 6.5v7M12 17v.4")
_DASH: Final = _stroke("M8 12h8")
_DISC: Final = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="11" fill="currentColor"/>{0}</svg>'
)
_RING: Final = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="10" fill="none" stroke="currentColor" '
    'stroke-width="1.6"/>{0}</svg>'
)
_VERDICTS: Final = {
    "passed": (_TICK, "Passed", "Every promise that was checked held, and every threshold was kept."),
    "failed": (_CROSS, "Failed", "It did not go as it must."),
    "refused": (_MARK, "No verdict", "The figures are not the server's."),
}
_CHECKS: Final = {"held": ("held", _TICK), "broken": ("broken", _CROSS), "not checked": ("unseen", _DASH)}


def head(result: RunResult) -> str:
    """Give the name of the run, what it was, and its verdict with the reasons."""
    facts = (
        words.several(result.gateways, "gateway"),
        f"on {result.target}",
        words.several(result.workers, "process", "processes"),
        words.seconds(result.duration_s),
        result.began_at.replace("T", " ").replace("Z", " UTC"),
        f"seed {result.seed}",
    )
    sign, title, otherwise = _VERDICTS[result.verdict.state]
    unseen = sum(check.state == "not checked" for check in result.checks)
    otherwise += f" {words.several(unseen, 'promise')} could not be checked." if unseen else ""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in result.verdict.reasons)
    return (
        '<header class="head"><div><p class="maker">mqttprov swarm</p>'
        f"<h1>{escape(str(result.scenario.get('name', 'A run')))}</h1>"
        f"<p>{escape(str(result.scenario.get('summary', '')))}</p>"
        f'<p class="facts">{"".join(f"<span>{escape(fact)}</span>" for fact in facts)}</p></div></header>'
        f'<div class="verdict {result.verdict.state}" id="verdict">'
        f"{_DISC.format(sign.format('var(--card)'))}<strong>{title}</strong>"
        f"{f'<ul>{reasons}</ul>' if reasons else f'<p>{otherwise}</p>'}</div>{_warnings(result)}"
    )


def _warnings(result: RunResult) -> str:
    rows = "".join(f"<li>{escape(warning)}</li>" for warning in (*result.warnings, *kernel_remarks(result)))
    return f'<ul class="warnings" aria-label="What to know about the host">{rows}</ul>' if rows else ""


def four_figures(result: RunResult) -> str:
    """Give the four figures that matter, each with how it came about."""
    under_load = figures.load(result)
    _, steps = figures.in_steps(result.seconds, _SPARK_STEPS)
    online = [float(step.states.get("online", 0)) for step in steps]
    missing = result.expected - result.online_at_end
    rates = words.UNKNOWN if under_load is None else words.rate(under_load.registrations_per_s)
    offered = "nothing was due" if under_load is None else f"{words.rate(under_load.offered_per_s)} arrived"
    p50, p99 = (words.milliseconds(figures.latency_ms(result, percent)) for percent in (50, 99))
    every = f"all of {words.count(result.expected)} expected" if missing <= 0 else f"{words.count(missing)} are missing"
    return (
        '<dl class="figures">'
        + _figure(
            "Online at the end",
            f"{words.count(result.online_at_end)} <small>of {words.count(result.expected)}</small>",
            every,
            _spark(online, "green"),
        )
        + _figure(
            "All online after",
            "never" if result.all_online_at_s is None else words.seconds(result.all_online_at_s),
            "from the planned start",
            _spark([float(step.came_online) for step in steps], "blue"),
        )
        + _figure(
            "Registration p50 / p99",
            f"{p50} <small>/</small> {p99}",
            "from the planned arrival",
            _spark([figures.percentile_ms(step.latency, 99) or 0.0 for step in steps], "red"),
        )
        + _figure("Registrations", rates, offered, _spark([float(step.registered) for step in steps], "green"))
        + "</dl>"
    )


def _figure(name: str, value: str, about: str, spark: str) -> str:
    return f'<div class="card"><dt>{name}</dt><dd>{value}</dd><dd>{about}</dd>{spark}</div>'


def _spark(values: Sequence[float], colour: str) -> str:
    top = max(values, default=0.0) or 1.0
    width = max(len(values) - 1, 1)
    points = "L".join(f"{n * 100 / width:.1f} {24 - 23 * value / top:.1f}" for n, value in enumerate(values))
    if not points:
        return ""
    return (
        f'<svg class="spark {colour}" viewBox="0 0 100 25" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="below" d="M0 25L{points}L100 25Z"/><path d="M{points}"/></svg>'
    )


def promises(checks: Sequence[Check]) -> str:
    """Give the promises: the broken ones first, with gateways and times."""
    counted = {state: sum(check.state == state for check in checks) for state in ("broken", "held", "not checked")}
    title = ", ".join(f"{number} {state}" for state, number in counted.items() if number) or "none was looked at"
    order = sorted(checks, key=lambda check: ("broken", "held", "not checked").index(check.state))
    return (
        f'<section aria-labelledby="promises-title"><h2 id="promises-title">Promises <span class="soft">{title}</span>'
        f'</h2><ul class="promises card">{"".join(map(_promise, order))}</ul></section>'
    )


def _promise(check: Check) -> str:
    name, sign = _CHECKS[check.state]
    sentence, number = words.PROMISES[check.promise]
    tag = f'<span class="id">{number}</span>' if number else ""
    gateways = {gateway for broken in check.broken for gateway in broken.gateways}
    state = {
        "held": f"held, {words.count(check.looked_at)} seen" if check.looked_at else "held",
        "broken": f"broken with {words.several(len(gateways), 'gateway')}" if gateways else "broken",
        "not checked": "not checked",
    }[check.state]
    more = ""
    if check.broken:
        left = max(check.in_all, len(check.broken)) - _NAMED_BREACHES
        rows = "".join(f"<li>{_breach(broken)}</li>" for broken in check.broken[:_NAMED_BREACHES])
        rest = f"<li>and {words.several(left, 'more time')}</li>" if left > 0 else ""
        more = f'<ol class="details">{rows}{rest}</ol>'
    elif check.why_not:
        more = f'<p class="details soft">{escape(check.why_not)}</p>'
    symbol = (_DISC if check.state == "broken" else _RING).format(
        sign.format("var(--card)" if check.state == "broken" else "currentColor")
    )
    return (
        f'<li class="is-{name}"><span class="sign {name}">{symbol}</span>'
        f'<span class="what">{escape(sentence)}{tag}</span><span class="state">{state}</span>{more}</li>'
    )


def _breach(broken: Broken) -> str:
    named = ", ".join(map(escape, broken.gateways[:_NAMED_GATEWAYS]))
    left = len(broken.gateways) - _NAMED_GATEWAYS
    return (
        f"<b>{words.seconds(broken.at_s)}</b> {escape(broken.seen)}<br>"
        f"<code>{named}{f' and {words.count(left)} more' if left > 0 else ''}</code>"
    )


def marks(result: RunResult, letters: Sequence[str]) -> str:
    """Give what the letters on the charts mean."""
    rows = "".join(f"<li><b>{letter}</b>{_mark(mark)}</li>" for mark, letter in zip(result.marks, letters, strict=True))
    return f'<ul class="marks" aria-label="What was done to the run">{rows}</ul>' if rows else ""


def _mark(mark: Mark) -> str:
    kind = "" if mark.kind == mark.name else f" ({mark.kind})"
    until = f" to {mark.until_s:.3g}" if mark.until_s > mark.at_s else ""
    note = f", {mark.note}" if mark.note else ""
    return f'<span>{escape(mark.name + kind)} <span class="soft">{mark.at_s:.3g}{until} s{escape(note)}</span></span>'


def figure(chart: Chart, *, wide: bool) -> str:
    """Give the place where a chart is drawn, with what it shows in words."""
    return (
        f'<figure class="chart card{" wide" if wide else ""}" id="chart-{chart.id}"><figcaption><h3>{chart.title}</h3>'
        f'<p>{escape(chart.says)}</p></figcaption><div class="legend"></div>'
        f'<div class="stage" role="group" aria-label="{chart.title}: values by arrow keys">'
        '<div class="tip" role="status" hidden></div></div></figure>'
    )


def tables(result: RunResult) -> str:
    """Give percentiles, costs and reasons as tables, and every second as one: the charts' figures without drawings."""
    kinds = [kind for kind in ("latency", "service", "login", "telemetry", "rpc", "lag") if result.histograms.get(kind)]
    percents = (50, 90, 99, 99.9, 100)
    rows = [
        [kind, *(words.milliseconds(figures.latency_ms(result, percent, kind)) for percent in percents)]
        for kind in kinds
    ]
    parts = [
        _table_card("Latency", ["", "p50", "p90", "p99", "p99.9", "max"], rows),
        _table_card("What it cost", ["process", "CPU", "per registration", "memory"], _costs(result)),
        _reasons("Refused, by reason", result.refusals),
        _reasons("Connections lost, by reason", result.lost_connections),
    ]
    return (
        '<section aria-labelledby="tables-title"><h2 id="tables-title">In figures</h2>'
        f'<div class="tables">{"".join(parts)}</div>{_every_second(result)}</section>'
    )


def _costs(result: RunResult) -> list[list[str]]:
    rows = []
    for name in dict.fromkeys([*result.cpu_s, *result.rss_bytes]):
        used_s = result.cpu_s.get(name)
        each = (
            words.UNKNOWN
            if not used_s or not result.registered
            else f"{words.count(used_s * 1e6 / result.registered)} µs"
        )
        size = result.rss_bytes.get(name)
        rows.append([name, words.seconds(used_s), each, words.UNKNOWN if size is None else words.memory(size)])
    return rows


def _reasons(title: str, counts: dict[str, int]) -> str:
    if not counts:
        return ""
    most = max(counts.values())
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="share"><svg viewBox="0 0 100 8" preserveAspectRatio="none" '
        f'aria-hidden="true"><rect width="{max(number * 100 / most, 0.5):.1f}" height="8" rx="1"/></svg></td>'
        f"<td>{words.count(number)}</td></tr>"
        for name, number in sorted(counts.items(), key=lambda item: -item[1])
    )
    return f'<section class="card"><h3>{title}</h3><table><tbody>{rows}</tbody></table></section>'


def _every_second(result: RunResult) -> str:
    length, steps = figures.in_steps(result.seconds, _TABLE_STEPS)
    title = "Every second, as a table" if length == 1 else f"Every {length} seconds, as a table"
    heads = ["second", "arrived", "registered", "online", "lost", "refused", "p50", "p99", "faults"]
    return (
        f'<details class="card"><summary>{title}</summary><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{title}">{_table(heads, [_second(step) for step in steps])}</div></details>'
    )


def _second(step: Second) -> list[str]:
    counts = (step.due, step.registered, step.states.get("online", 0), step.lost, step.refused)
    latencies = (words.milliseconds(figures.percentile_ms(step.latency, percent)) for percent in (50, 99))
    strikes = ", ".join(f"{name} {number}" for name, number in step.strikes.items())
    return [str(step.at_s), *map(words.count, counts), *latencies, strikes]


def the_run(result: RunResult) -> str:
    """Give what is needed to do it again: command, seed, plan, environment, the scenario itself."""
    where = result.environment
    rows = {
        "Seed": str(result.seed),
        "Plan": result.plan_digest,
        "Target": result.target,
        "Machine": f"{words.several(where.cores, 'core')}, {words.memory(where.memory_bytes)}, Linux {where.kernel}",
        "Load before": f"{where.load_before:.2f}",
        "Versions": f"mqttprov {where.mqttprov}, Python {where.python}",
        "Kernel's counters": ", ".join(f"{name} +{moved}" for name, moved in result.tcp_counters.items()) or "none",
        **where.settings,
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items())
    scenario = msgspec.json.format(msgspec.json.encode(result.scenario), indent=2).decode()
    return (
        '<section aria-labelledby="run-title"><h2 id="run-title">Do it again</h2><div class="run card">'
        f'<div class="command"><code id="command">{escape(result.command)}</code>'
        '<button type="button" data-copies="command" hidden>Copy</button></div>'
        f"<dl>{listed}</dl></div>"
        '<details class="card"><summary>The scenario, as it was run</summary><div class="scroll" tabindex="0" '
        f'role="region" aria-label="The scenario"><pre>{escape(scenario)}</pre></div></details></section>'
    )


def _table_card(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return f'<section class="card"><h3>{title}</h3><div class="scroll">{_table(heads, rows)}</div></section>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>{"".join(f"<td>{escape(str(cell))}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
