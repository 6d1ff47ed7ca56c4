"""The page of a run, opened in a browser: it draws everything, complains of nothing, asks for nothing, fits a phone."""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.simulator import believable
from tests.simulator.chromium import Browser, Look, browser

from mqttprov_simulator.report.charts import charts
from mqttprov_simulator.report.page import page
from mqttprov_simulator.report.result import Environment, Mark, RunResult
from mqttprov_simulator.running.values import Second

_PLAN = believable.scenario(2_000, 60, p99_ms=50)
_BROKE = (
    believable.broken("shared-credential"),
    believable.broken("told-not-durable", 40, "refused: not authorised"),
)
_RESULT = believable.result(
    _PLAN, broke=_BROKE, unseen=True, warnings=("port range: 28,232 ports; use more addresses",)
)
_CHARTS = ("states", "rates", "latency", "spectrum", "cpu", "trouble", "strikes")

# Contrast as WCAG 2 has it, of every element with text of its own against the first background behind it.
_LOW_CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const linear = (v) => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = (c) => { const [r, g, b] = c.map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => { for (; node; node = node.parentElement) {
    const c = rgb(getComputedStyle(node).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    if (![...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    if (!node.getClientRects().length || node.closest("script,style,.mark-letter")) continue;
    const style = getComputedStyle(node);
    const own = node.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [a, b] = [light(rgb(own)), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push(`${node.tagName}.${node.className} ${ratio.toFixed(2)}`);
  }
  return low;
})()
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page of a run that broke promises."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "run.html").write_text(page(_RESULT), "utf-8")
    return folder


@pytest.fixture(scope="module")
def chromium(need: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests of this file."""
    need("chromium")
    with browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def look(chromium: Browser, pages: Path) -> Look:
    """The page on a desk."""
    return chromium.look(pages / "run.html", width=1280, dark=False)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_draws_everything_and_fits(chromium: Browser, pages: Path, width: int, dark: bool) -> None:
    """Light and dark, on a desk and on a phone: no complaint, no request, no overflow, contrast AA, all drawn."""
    look = chromium.look(pages / "run.html", width=width, dark=dark)
    assert look.complaints == []
    assert look.requests == []
    assert look.value("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    assert look.value("document.documentElement.scrollWidth") == width == look.value("innerWidth")
    ground = look.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) is dark
    assert look.value(_LOW_CONTRAST) == []
    for chart in _CHARTS:
        shapes = f"document.querySelectorAll('#chart-{chart} .plot path[d^=M], #chart-{chart} .lane').length"
        assert look.value(shapes) >= 1, chart
        assert look.value(f"document.querySelector('#chart-{chart} svg').getBoundingClientRect().right") < width
    assert look.picture().startswith(b"\x89PNG")


def test_pointing_at_a_chart_shows_the_values_of_a_moment(look: Look) -> None:
    """The moment is marked in all charts over time, the values are told in the one that is pointed at."""
    place = look.value("(() => { const r = document.querySelector('#chart-rates svg').getBoundingClientRect();"
                       "scrollTo(0, r.top); return [r.left + r.width / 2, r.height / 2]; })()")  # fmt: skip
    look.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    tip = "document.querySelector('#chart-rates .tip')"
    assert look.value(f"{tip}.hidden") is False
    assert re.search(r"registered\d+/sarrived", look.value(f"{tip}.textContent"))
    assert look.value("document.querySelectorAll('.hair[d]').length") == len(_CHARTS) - 1  # all but the spectrum
    assert look.complaints == []


def test_charts_are_read_by_keyboard(look: Look) -> None:
    """Arrow keys go through the moments of a chart that has the focus, Escape ends it."""
    look.value("document.querySelector('#chart-latency .stage').focus()")
    tip = "document.querySelector('#chart-latency .tip')"
    look.press("Home")
    first = look.value(f"{tip}.textContent")
    look.press("ArrowRight", "ArrowRight")
    assert first.startswith("0.5 s")
    assert look.value(f"{tip}.textContent").startswith("2.5 s")
    look.press("Escape")
    assert look.value(f"{tip}.hidden") is True


def test_a_name_in_a_legend_hides_what_it_names(look: Look) -> None:
    """And shows it again; the button says which."""
    button = "document.querySelector('#chart-rates .legend button')"
    lines = "document.querySelectorAll('#chart-rates .plot .line').length"
    assert look.value(lines) == 2
    look.value(f"{button}.click()")
    assert (look.value(lines), look.value(f"{button}.getAttribute('aria-pressed')")) == (1, "false")
    look.value(f"{button}.click()")
    assert look.value(lines) == 2


def test_what_a_result_holds_is_text_and_nothing_else(chromium: Browser, tmp_path: Path) -> None:
    """Names that are markup or end a script are shown as they are, and do nothing; the policy would stop them too."""
    evil = "</script><img src=http://127.0.0.1:9/x onerror=alert(1)><script>alert(2)</script>"
    broken = msgspec.structs.replace(believable.broken("echoed", seen=evil), gateways=(evil,))
    result = _with_names(believable.result(_PLAN, broke=(broken,)), evil)
    (tmp_path / "evil.html").write_text(page(result), "utf-8")
    look = chromium.look(tmp_path / "evil.html", width=375, dark=False)
    assert look.complaints == []
    assert look.requests == []
    assert look.value("document.querySelectorAll('img').length") == 0
    assert look.value("document.querySelector('h1').textContent") == evil
    assert look.value("document.documentElement.scrollWidth") == 375


def _with_names(result: RunResult, name: str) -> RunResult:
    return msgspec.structs.replace(
        result,
        scenario=result.scenario | {"name": name, "summary": name},
        target=name, command=name, plan_digest=name, refusals={name: 3}, lost_connections={name: 2}, strikes={name: 1},
        cpu_s={name: 1.0}, rss_bytes={name: 1}, tcp_counters={name: 1}, errors=(name,), warnings=(name,),
        marks=(Mark(3, 4, name, name, name),),
        environment=Environment(
            cores=1, memory_bytes=1, kernel=name, python=name, mqttprov=name, load_before=0, settings={name: name}
        ),
        verdict=msgspec.structs.replace(result.verdict, reasons=(name,)),
    )  # fmt: skip


@pytest.mark.parametrize("seconds", [0, 1, 1_000])
def test_runs_of_any_length_have_a_page(chromium: Browser, tmp_path: Path, seconds: int) -> None:
    """One that ended at once, and a long one, whose seconds are taken together."""
    many = tuple(msgspec.structs.replace(_RESULT.seconds[12], at_s=n) for n in range(seconds))
    result = msgspec.structs.replace(_RESULT, seconds=many, samples=(), marks=(), histograms={}, strikes={}, checks=())
    text = page(result)
    assert len(text) < 400_000
    (tmp_path / "page.html").write_text(text, "utf-8")
    look = chromium.look(tmp_path / "page.html", width=1280, dark=False)
    assert look.complaints == []
    assert look.value("document.querySelectorAll('.stage svg').length") == len(charts(result))


# --- what needs no browser ---


class _Text(HTMLParser):
    """The text of a page, without scripts and styles, and the tags that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open."""
        if tag not in {"meta", "path", "circle", "rect", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close."""
        if tag not in {"path", "circle", "rect"}:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep."""
        if not {"script", "style"} & set(self.open):
            self.text += data + " "


def _read(result: RunResult) -> str:
    parser = _Text()
    parser.feed(page(result))
    assert parser.open == []
    return re.sub(r"\s+", " ", parser.text)


def test_the_head_says_what_came_of_it() -> None:
    """Verdict, reasons, the four figures and the promises, without a script."""
    text = _read(_RESULT)
    for part in (
        "broker-restart", "A fleet comes up while its broker is restarted.", "2,000 gateways", "2 processes",
        "2026-11-22 20:35:28 UTC", "Failed", "99 of 100 registrations were to be done in 50 ms",
        "Online at the end", "2,000 of 2,000", "All online after", "Registration p50 / p99", "60/s",
        "Promises 2 broken, 6 held, 2 not checked", "broken with 40 gateways", "24.2 s refused: not authorised",
        "plant/000012 and 28 more", "the store of this target is not ours", "port range: 28,232 ports",
        "broker-restart 20 to 23 s", "net.core.somaxconn", "9f2c41d07be85a366e0d", "login: server unavailable",
        "mqttprov swarm run broker-restart --target embedded --gateways 2000 --seed 7",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ["Passed", "Every promise that was checked held", "all of 2,000 expected"]),
        ({"online_at_end": 1_990, "all_online_at_s": None}, ["10 are missing", "never"]),
        ({"tcp_counters": {"ListenOverflows": 400}}, ["Passed", "On this host an accept queue was full 400 times"]),
    ],
)
def test_each_verdict_is_said_in_plain_words(changes: dict[str, Any], said: list[str]) -> None:
    """Passed, refused, and gateways that are missing."""
    text = _read(believable.result(believable.scenario(2_000, 60), **changes))
    assert [part for part in said if part not in text] == []


def test_each_chart_says_in_words_what_it_shows() -> None:
    """Who cannot see the drawing has the sentence and the table."""
    for chart in charts(_RESULT):
        assert chart.says.endswith(".")
        assert chart.says in _read(_RESULT)
        assert all(len(series.values) == len(chart.x) for series in chart.series)
    assert "Every second, as a table" in _read(_RESULT)


def test_states_that_the_machine_does_not_have_are_shown_too() -> None:
    """A worker may count what is done with as a state of its own; who has none yet is off."""
    second = Second(at_s=0, due=2, registered=2, states={"online": 1, "done": 1, "off": 5, "new": 3})
    states = charts(msgspec.structs.replace(_RESULT, seconds=(second,)))[0]
    assert {series.name: series.values for series in states.series} == {
        "online": [0, 1],
        "off": [2_000, 1_998],
        "done": [0, 1],
    }


def test_pages_are_the_same_for_the_same_result() -> None:
    """So that they can be kept and compared."""
    assert page(_RESULT) == page(_RESULT)
