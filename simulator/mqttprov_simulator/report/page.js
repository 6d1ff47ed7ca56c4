// Draws the charts of a run's page as SVG from the values in it. No library, no network, no markup out of data.
"use strict";
(() => {
  const run = JSON.parse(document.getElementById("run").textContent);
  const NARROW = 520;
  const MARGIN = { top: 22, right: 14, bottom: 28, left: 54 };
  const LANE = 34;
  const drawn = new Map(); // chart id -> what its pointer needs

  const make = (name, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const tag = (name, className, ...children) => {
    const node = document.createElement(name);
    node.className = className;
    node.append(...children);
    return node;
  };

  // --- figures for people ---
  const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const plain = (v) => (v >= 99.95 || Number.isInteger(v) ? grouped.format(v) : v < 1 ? String(Number(v.toPrecision(2))) : v.toFixed(1));
  const clock = (s) => {
    if (s < 120) return `${Number.isInteger(s) ? s : s.toFixed(1)} s`;
    const rest = String(Math.floor(s % 60)).padStart(2, "0");
    return s < 7200 ? `${Math.floor(s / 60)}:${rest}` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)}`;
  };
  const shown = {
    gateways: grouped.format,
    "per second": (v) => `${plain(v)}/s`,
    ms: (v) => (v >= 1000 ? `${plain(v / 1000)} s` : `${plain(v)} ms`),
    cores: (v) => v.toFixed(2),
    times: (v) => `${grouped.format(v)} ×`,
  };
  const onAxis = {
    ...shown,
    gateways: (v) => (v >= 10000 ? `${plain(v / 1000)}k` : grouped.format(v)),
    "per second": (v) => (v >= 10000 ? `${plain(v / 1000)}k` : plain(v)),
    cores: plain,
  };

  // --- scales ---
  const steps = (limit, wanted, bases) => {
    const least = limit / wanted;
    for (let size = 10 ** Math.floor(Math.log10(least)); ; size *= 10)
      for (const base of bases) if (base * size >= least) return base * size;
  };
  const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
  const times = (until, width) => {
    const step = TIMES.find((s) => (until / s) * 62 <= width) || 86400;
    return Array.from({ length: Math.floor(until / step) + 1 }, (_, n) => n * step);
  };
  const odds = (percent) => Math.log10(100 / (100 - percent));
  const NINES = [50, 90, 99, 99.9, 99.99, 99.999];

  const horizontal = (chart, width) => {
    const span = width - MARGIN.left - MARGIN.right;
    if (chart.over === "percentile") {
      const known = chart.x.filter((_, i) => chart.series.some((s) => s.values[i] !== null));
      const end = Math.max(odds(known[known.length - 1]), 1);
      return { at: (p) => MARGIN.left + (odds(p) / end) * span, ticks: NINES.filter((p) => odds(p) <= end + 1e-9), label: (p) => `${p}%` };
    }
    return { at: (s) => MARGIN.left + (s / run.end) * span, ticks: times(run.end, span), label: clock };
  };
  const vertical = (chart, values, height) => {
    const low = height - MARGIN.bottom;
    const span = low - MARGIN.top;
    if (!chart.logarithmic) {
      const top = Math.max(...values, chart.unit === "cores" ? 0.5 : 0) || 1;
      const step = steps(top, 4, chart.unit === "gateways" && top < 10 ? [1, 2, 5] : [1, 2, 2.5, 5]);
      const end = Math.ceil(top / step - 1e-9) * step;
      const ticks = Array.from({ length: Math.round(end / step) + 1 }, (_, n) => n * step);
      return { at: (v) => low - (v / end) * span, ticks, low };
    }
    const positive = values.filter((v) => v > 0);
    const first = Math.max(-2, Math.floor(Math.log10(Math.min(...positive)))); // below 10 us nothing is told apart
    const last = Math.max(first + 1, Math.ceil(Math.log10(Math.max(...positive))));
    const ticks = Array.from({ length: last - first + 1 }, (_, n) => 10 ** (first + n));
    const at = (v) => low - (Math.max(0, Math.log10(Math.max(v, 1e-9)) - first) / (last - first)) * span;
    return { at, ticks, low };
  };

  // --- shapes ---
  const path = (points) => {
    let text = "";
    let pen = "M";
    for (const [x, y] of points) {
      if (y === null) { pen = "M"; continue; }
      text += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
    }
    return text;
  };
  const line = (series, chart, x, y, into) => {
    const points = series.values.map((v, i) => [x.at(chart.x[i]), v === null ? null : y.at(v)]);
    into.append(make("path", { d: path(points), class: `line ${series.style} c-${series.colour}` }));
    points.forEach(([px, py], i) => { // a value without neighbours is no line
      const alone = py !== null && [i - 1, i + 1].every((n) => !points[n] || points[n][1] === null);
      if (alone) into.append(make("circle", { cx: px, cy: py, r: 2.5, class: `dot c-${series.colour}` }));
    });
  };
  const areas = (visible, chart, x, y, into) => {
    const base = chart.x.map(() => 0);
    for (const series of visible) {
      const under = base.map((v, i) => [x.at(chart.x[i]), y.at(v)]);
      series.values.forEach((v, i) => { base[i] += v || 0; });
      const over = base.map((v, i) => [x.at(chart.x[i]), y.at(v)]);
      into.append(make("path", { d: `${path(over)}${path(under.reverse()).replace("M", "L")}Z`, class: `area c-${series.colour}` }));
    }
  };
  const bars = (visible, chart, x, y, into) => {
    const room = Math.max(1, x.at(chart.x[1] ?? chart.x[0] + 1) - x.at(chart.x[0]));
    const wide = Math.max(1, (room * 0.8) / visible.length);
    visible.forEach((series, n) => {
      let d = "";
      series.values.forEach((v, i) => {
        if (!v) return;
        const left = x.at(chart.x[i]) - room * 0.4 + n * wide;
        d += `M${left.toFixed(1)} ${y.low}V${Math.min(y.at(v), y.low - 1.5).toFixed(1)}h${wide.toFixed(1)}V${y.low}Z`;
      });
      into.append(make("path", { d, class: `bar c-${series.colour}` }));
    });
  };
  const lanes = (visible, chart, x, into) => {
    const wide = Math.max(1.5, x.at(chart.x[1] ?? chart.x[0] + 1) - x.at(chart.x[0]) - 0.5);
    visible.forEach((series, n) => {
      const top = MARGIN.top + n * LANE;
      const most = Math.max(...series.values);
      into.append(make("text", { x: MARGIN.left, y: top + 9, class: "lane-name" }, series.name));
      into.append(make("rect", { x: MARGIN.left, y: top + 14, width: x.at(run.end) - MARGIN.left, height: 10, class: "lane-bed" }));
      series.values.forEach((v, i) => {
        if (!v) return;
        const strength = 0.3 + 0.7 * Math.sqrt(v / most);
        into.append(make("rect", { x: x.at(chart.x[i]) - wide / 2, y: top + 14, width: wide, height: 10, class: "lane c-red", "fill-opacity": strength.toFixed(2) }));
      });
    });
  };
  const background = (x, low, into) => {
    if (run.warmUp > 0) {
      const width = x.at(Math.min(run.warmUp, run.end)) - MARGIN.left;
      into.append(make("rect", { x: MARGIN.left, y: MARGIN.top, width, height: low - MARGIN.top, class: "warm-up" }));
      if (width > 48) into.append(make("text", { x: MARGIN.left + 4, y: MARGIN.top + 11, class: "warm-up-name" }, "warm-up"));
    }
    let lastAt = -Infinity;
    run.marks.forEach((mark, n) => {
      const left = x.at(Math.min(mark.from, run.end));
      const width = Math.max(x.at(Math.min(mark.until, run.end)) - left, 1.5);
      into.append(make("rect", { x: left, y: MARGIN.top, width, height: low - MARGIN.top, class: "mark" }));
      if (left - lastAt < 15) return; // the letters would lie upon each other
      lastAt = left;
      into.append(make("circle", { cx: left + width / 2, cy: MARGIN.top - 9, r: 8, class: "mark-sign" }));
      into.append(make("text", { x: left + width / 2, y: MARGIN.top - 5, class: "mark-letter" }, mark.letter));
    });
  };

  // --- a chart ---
  const draw = (chart, figure, hidden) => {
    const stage = figure.querySelector(".stage");
    const width = Math.max(240, stage.clientWidth);
    const visible = chart.series.filter((s) => !hidden.has(s.name));
    const style = chart.series[0].style;
    const height = style === "lane" ? MARGIN.top + visible.length * LANE + MARGIN.bottom
      : (width < NARROW ? 230 : figure.classList.contains("wide") ? 320 : 270);
    const values = style === "area"
      ? chart.x.map((_, i) => chart.series.reduce((sum, s) => sum + (s.values[i] || 0), 0))
      : chart.series.flatMap((s) => s.values.filter((v) => v !== null));
    const x = horizontal(chart, width);
    const y = style === "lane" ? { at: () => 0, ticks: [], low: height - MARGIN.bottom } : vertical(chart, values, height);
    const picture = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${chart.title}. ${chart.says}` });
    const right = width - MARGIN.right;
    for (const tick of y.ticks) {
      picture.append(make("path", { d: `M${MARGIN.left} ${y.at(tick).toFixed(1)}H${right}`, class: "grid" }));
      picture.append(make("text", { x: MARGIN.left - 7, y: y.at(tick) + 4, class: "tick y" }, onAxis[chart.unit](tick)));
    }
    if (chart.over === "time") background(x, y.low, picture);
    const plot = make("g", { class: "plot" });
    picture.append(plot);
    if (style === "area") areas(visible, chart, x, y, plot);
    else if (style === "bar") bars(visible, chart, x, y, plot);
    else if (style === "lane") lanes(visible, chart, x, plot);
    else for (const series of [...visible].reverse()) line(series, chart, x, y, plot);
    picture.append(make("path", { d: `M${MARGIN.left} ${y.low}H${right}`, class: "axis" }));
    for (const tick of x.ticks) {
      if (chart.over === "percentile") picture.append(make("path", { d: `M${x.at(tick).toFixed(1)} ${MARGIN.top}V${y.low}`, class: "grid" }));
      const anchor = x.at(tick) > right - 20 ? "end" : "middle";
      picture.append(make("text", { x: x.at(tick), y: y.low + 18, class: "tick", "text-anchor": anchor }, x.label(tick)));
    }
    const hair = make("path", { class: "hair" });
    const dots = make("g", {});
    picture.append(hair, dots);
    stage.querySelector("svg")?.remove();
    stage.prepend(picture);
    drawn.set(chart.id, { chart, stage, x, y, hair, dots, visible, width, height, style });
  };

  // --- pointing: one moment is shown in all charts over time, its values in the one that is pointed at ---
  const nearest = (values, at) => values.reduce((best, v, i) => (Math.abs(v - at) < Math.abs(values[best] - at) ? i : best), 0);
  const clear = () => {
    for (const view of drawn.values()) {
      view.hair.removeAttribute("d");
      view.dots.replaceChildren();
      view.stage.querySelector(".tip").hidden = true;
    }
  };
  const point = (view, index) => {
    clear();
    const { chart } = view;
    const at = chart.x[index];
    for (const other of chart.over === "time" ? [...drawn.values()].filter((v) => v.chart.over === "time") : [view])
      other.hair.setAttribute("d", `M${other.x.at(at).toFixed(1)} ${MARGIN.top}V${other.y.low}`);
    const head = chart.over === "time" ? clock(at) : `${Number(chart.x[index].toFixed(chart.x[index] < 99 ? 1 : 3))} % within`;
    const tip = view.stage.querySelector(".tip");
    const rows = view.visible.map((series) => ({ series, value: series.values[index] ?? null })).filter((r) => r.value !== null && (view.style !== "lane" || r.value));
    if (view.style === "area") rows.reverse();
    tip.replaceChildren(tag("b", "", head), ...rows.map(({ series, value }) =>
      tag("span", "", tag("i", `swatch b-${series.colour}`), tag("em", "", view.style === "lane" ? series.name.split(",")[0] : series.name), tag("strong", "", shown[chart.unit](value)))));
    if (["line", "dashed", "thin"].includes(view.style))
      for (const { series, value } of rows) view.dots.append(make("circle", { cx: view.x.at(at), cy: view.y.at(value), r: 4, class: `dot c-${series.colour}` }));
    tip.hidden = false;
    const left = view.x.at(at) + 14;
    const room = view.stage.clientWidth - tip.offsetWidth - 4;
    tip.style.left = `${left <= room ? left : Math.max(4, Math.min(room, view.x.at(at) - tip.offsetWidth - 14))}px`;
    tip.style.top = `${MARGIN.top + 6}px`;
    view.index = index;
  };

  const prepare = (chart) => {
    const figure = document.getElementById(`chart-${chart.id}`);
    const stage = figure.querySelector(".stage");
    const hidden = new Set();
    const again = () => draw(chart, figure, hidden);
    const legend = figure.querySelector(".legend");
    if (chart.series[0].style !== "lane")
      for (const series of chart.series) {
        const button = tag("button", "", tag("i", `swatch b-${series.colour} ${series.style}`), series.name);
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        button.addEventListener("click", () => {
          if (!hidden.delete(series.name)) hidden.add(series.name);
          button.setAttribute("aria-pressed", String(!hidden.has(series.name)));
          again();
        });
        legend.append(button);
      }
    stage.tabIndex = 0;
    stage.addEventListener("pointermove", (event) => {
      const view = drawn.get(chart.id);
      const at = ((event.clientX - stage.getBoundingClientRect().left) * view.width) / stage.clientWidth;
      point(view, nearest(chart.x.map(view.x.at), at));
    });
    stage.addEventListener("pointerleave", clear);
    stage.addEventListener("blur", clear);
    stage.addEventListener("keydown", (event) => {
      const view = drawn.get(chart.id);
      const last = chart.x.length - 1;
      const now = view.index ?? -1;
      const to = { ArrowRight: Math.min(last, now + 1), ArrowLeft: Math.max(0, now - 1), Home: 0, End: last }[event.key];
      if (event.key === "Escape") clear();
      if (to === undefined) return;
      event.preventDefault();
      point(view, to);
    });
    again();
    return again;
  };

  const redraws = run.charts.map(prepare);
  let width = document.documentElement.clientWidth;
  addEventListener("resize", () => {
    if (width === document.documentElement.clientWidth) return; // a phone's address bar comes and goes
    width = document.documentElement.clientWidth;
    redraws.forEach((again) => again());
  });
  for (const button of document.querySelectorAll("button[data-copies]")) {
    const source = document.getElementById(button.dataset.copies);
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(source);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }
})();
