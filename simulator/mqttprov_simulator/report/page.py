"""A run's page: one HTML file that loads nothing, made of its parts (`sections`), its charts and our own script.

The page's policy allows only the style and script that are in it, by their hashes, so nothing that a result holds can
run in it, and nothing is fetched.
"""

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template, ascii_uppercase
from typing import Final

import msgspec

from mqttprov_simulator.report import figures, sections
from mqttprov_simulator.report.charts import Chart, charts
from mqttprov_simulator.report.result import RunResult

_FILES: Final = files("mqttprov_simulator.report")
_WIDE: Final = frozenset({"states"})


class _Mark(msgspec.Struct, frozen=True, rename={"at_s": "from", "until_s": "until"}):
    at_s: float
    until_s: float
    letter: str


class _Data(msgspec.Struct, frozen=True, rename={"warm_up_s": "warmUp", "end_s": "end"}):
    end_s: float
    warm_up_s: float
    marks: list[_Mark]
    charts: list[Chart]


def page(result: RunResult) -> str:
    """Give the whole page."""
    drawn = charts(result)
    letters = [_letter(n) for n in range(len(result.marks))]
    data = _Data(
        end_s=max([*(x for chart in drawn if chart.over == "time" for x in chart.x), 1.0]),
        warm_up_s=figures.warm_up_s(result),
        marks=[_Mark(m.at_s, m.until_s, letter) for m, letter in zip(result.marks, letters, strict=True)],
        charts=drawn,
    )
    style, script = _read("page.css"), _read("page.js")
    # An odd number of charts of half width would leave a hole; the last one takes the line.
    odd = len(drawn) - sum(chart.id in _WIDE for chart in drawn)
    last = drawn[-1].id if drawn and odd % 2 else ""
    return Template(_read("page.html")).substitute(
        title=escape(f"{result.scenario.get('name', 'run')}: {result.verdict.state}"),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        head=sections.head(result),
        figures=sections.four_figures(result),
        promises=sections.promises(result.checks),
        marks=sections.marks(result, letters),
        charts="\n".join(sections.figure(chart, wide=chart.id in _WIDE or chart.id == last) for chart in drawn),
        tables=sections.tables(result),
        run=sections.the_run(result),
        version=escape(result.environment.mqttprov),
        format=result.format,
        data=_as_script_text(msgspec.json.encode(data).decode()),
    )


def _letter(number: int) -> str:
    return ascii_uppercase[number] if number < len(ascii_uppercase) else str(number + 1)


def _as_script_text(json: str) -> str:
    """Keep JSON from ending the element that it is in: `<` can only be inside its strings."""
    return json.replace("<", "\\u003c")


def _read(name: str) -> str:
    return (_FILES / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
