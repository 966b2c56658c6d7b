"use strict";
/* What the data hold comes from configurations: it is put on the page as text, never as markup. */
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PALETTE = ["#2f6db5", "#c8442c", "#3a8f5c", "#8a5bb0", "#b8860b", "#2a9aae", "#a03b6b", "#7a7f87"];
const better = data.mode === "max" ? "higher is better" : "lower is better";
const jobs = new Map(data.jobs.map((job) => [job.id, job]));
const chosen = new Map(); // id of a job -> its colour

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
/* Plotly reads a few tags in its texts: these are no tags. */
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1e5 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}
/* A value of a configuration: numbers with a point in four digits that count. */
function briefly(value) {
  const known = value === null || value === undefined || value === "";
  return !known && /[.e]/.test(String(value)) && Number.isFinite(Number(value)) ? shown(Number(value)) : value;
}
function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 100) return `${Number(seconds.toPrecision(3))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes} min` : `${(seconds / 3600).toFixed(1)} h`;
}
const spread = (s) => (s.n === 0 ? "–" : s.n > 1 ? `${shown(s.mean)} ± ${Number(s.sd.toPrecision(2))}` : shown(s.mean));

/* A table whose columns sort. A column: {name, value(row), show(row), number, prose}. */
function table(place, columns, rows, options = {}) {
  const head = place.createTHead().insertRow();
  const body = place.createTBody();
  let order = { column: -1, down: false };
  columns.forEach((column, index) => {
    const cell = element("th", null, column.number ? "number" : "");
    const button = element("button", column.name);
    button.type = "button";
    button.title = column.title || "sort";
    button.addEventListener("click", () => {
      order = { column: index, down: order.column === index ? !order.down : Boolean(column.down) };
      [...head.cells].forEach((other, i) => {
        if (i === index) other.setAttribute("aria-sort", order.down ? "descending" : "ascending");
        else other.removeAttribute("aria-sort");
      });
      draw();
    });
    cell.append(button);
    head.append(cell);
  });
  function compare(a, b) {
    const column = columns[order.column];
    const [x, y] = [column.value(a), column.value(b)];
    const [no, nor] = [x === null || x === undefined, y === null || y === undefined];
    if (no || nor) return no - nor; // what is not known stands last either way
    const sign = order.down ? -1 : 1;
    const numbers = typeof x === "number" && typeof y === "number";
    return sign * (numbers ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
  }
  function draw() {
    const sorted = order.column < 0 ? rows : [...rows].sort(compare);
    body.replaceChildren(...sorted.map((row) => {
      const line = element("tr");
      for (const column of columns) {
        const kind = [column.number && "number", column.prose && "prose"].filter(Boolean).join(" ");
        const content = (column.show || column.value)(row);
        const cell = element("td", content instanceof Node ? null : content ?? "–", kind);
        if (content instanceof Node) cell.append(content);
        line.append(cell);
      }
      if (options.prepare) options.prepare(line, row);
      return line;
    }));
  }
  draw();
}
function clickable(line, act) {
  line.classList.add("click");
  line.tabIndex = 0;
  line.addEventListener("click", act);
  line.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(); }
  });
}

/* Plots in the page's own colours, drawn again when these change. */
const plots = [];
function layout(more) {
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true };
  const both = { ...more };
  both.xaxis = { ...axis, ...(more.xaxis || {}) };
  both.yaxis = { ...axis, ...(more.yaxis || {}) };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 60, r: 20, t: 36, b: 48 },
    font: { color: colour("text"), size: 13 }, hoverlabel: { align: "left" }, showlegend: false, ...both,
  };
}
function plot(id, make, act) {
  const place = $(id);
  const draw = () => {
    const { traces, ...more } = make();
    return Plotly.react(place, traces, layout(more), { responsive: true, displayModeBar: false });
  };
  draw();
  if (act) place.on("plotly_click", (event) => act(event.points[0]));
  plots.push(draw);
  return draw;
}

/* The head. */
$("title").textContent = data.title;
for (const [state, count] of Object.entries(data.counts)) {
  const of = state === "finished" ? ` of ${data.planned}` : "";
  $("summary").append(element("span", `${count}${of} ${state}`, `pill ${state}`));
}
if (!data.counts.finished) $("summary").append(element("span", `0 of ${data.planned} finished`, "pill"));
if (data.others) $("summary").append(element("span",
  ` ${data.others} more in this folder, of other code or an earlier grid, are not counted.`));
const best = data.settings.find((setting) => setting.values[data.metric] && setting.values[data.metric].n);
if (best) {
  $("summary").append(element("br"), "Best: ", element("b", best.label), ` with ${data.metric} `,
    element("b", spread(best.values[data.metric])), `, ${better}.`);
}
for (const section of document.querySelectorAll("main section")) {
  const link = element("a", section.querySelector("h2").textContent);
  link.href = `#${section.id}`;
  $("nav").append(link);
}
$("made").textContent = data.made;

/* The leaderboard. */
$("leaderboard-says").textContent = best
  ? `Ranked by ${data.metric}, ${better}` + (data.seeds.length
    ? `; mean ± standard deviation (n - 1) over the n jobs that differ in ${data.seeds.join(", ")} alone.`
    : "; one job a setting.") + " Click a column to sort, a row to see the curves of its jobs."
  : "No job has finished yet: there is nothing to rank.";
const keys = data.axes.filter((key) => !data.seeds.includes(key));
const known = (s) => (s && s.n ? s.mean : null);
/* Columns of what was measured: that by which settings are ranked, what it costs, and all the rest. */
function measured(find, value, show, cost) {
  const column = (metric) => ({
    name: metric, number: true, value: (row) => value(find(row, metric)), show: (row) => show(find(row, metric)),
    down: metric === data.metric && data.mode === "max",
  });
  const rest = data.metrics.filter((metric) => metric !== data.metric);
  return [...(data.metric ? [column(data.metric)] : []), ...cost, ...rest.map(column)];
}
/* Columns of what quality costs, but of costs that the sweep looks at as metrics. */
const costs = (value) => [["parameters", "parameters", shown], ["seconds", "time", duration]]
  .filter(([key]) => !data.metrics.includes(key))
  .map(([key, name, show]) => ({ name, number: true, value: (row) => value(row, key), show: (row) => show(value(row, key)) }));
table($("settings"), [
  { name: "rank", number: true, value: (s) => s.rank },
  ...keys.map((key) => ({ name: key, value: (s) => s.point[key], show: (s) => briefly(s.point[key]) })),
  ...measured((s, metric) => s.values[metric], known, spread, [
    { name: "n", number: true, title: "finished jobs, of all", value: (s) => s.finished,
      show: (s) => (s.finished === s.jobs.length ? s.finished : `${s.finished} of ${s.jobs.length}`) },
    ...costs((s, key) => known(s[key])),
  ]),
], data.settings, {
  prepare(line, setting) {
    if (setting === best) line.classList.add("best");
    clickable(line, () => {
      chosen.clear();
      setting.jobs.forEach((id) => choose(id, true));
      refresh();
      $("curves").scrollIntoView({ behavior: "smooth" });
    });
  },
});

/* Learning curves, and the jobs. */
const quantities = [...new Set(data.jobs.flatMap((job) => Object.keys(job.curves)))].sort();
for (const name of quantities) $("quantity").append(new Option(name, name));
$("quantity").value = quantities.includes(data.curve) ? data.curve : quantities[0];
function choose(id, on) {
  if (on ?? !chosen.has(id)) {
    const used = new Set(chosen.values());
    chosen.set(id, PALETTE.find((one) => !used.has(one)) || PALETTE[chosen.size % PALETTE.length]);
  } else chosen.delete(id);
}
const withCurves = () => data.jobs.filter((job) => job.curves[$("quantity").value]);
/* Until a job is chosen, curves are coloured by the key that tells most of the difference. */
const telling = data.factors.filter((factor) => !factor.continuous && factor.levels.length <= PALETTE.length)
  .sort((a, b) => (b.share ?? 0) - (a.share ?? 0))[0];
const levelOf = new Map((telling?.levels ?? []).flatMap((level, i) => level.jobs.map((id) => [id, i])));
const drawCurves = plot("curve-plot", () => {
  const quantity = $("quantity").value;
  const order = withCurves().sort((a, b) => chosen.has(a.id) - chosen.has(b.id));
  const named = new Set();
  return {
    traces: order.map((job) => {
      const [x, y] = job.curves[quantity];
      const mine = chosen.get(job.id);
      const level = chosen.size ? undefined : levelOf.get(job.id);
      const first = level !== undefined && !named.has(level);
      named.add(level);
      return {
        x, y, mode: x.length < 25 ? "lines+markers" : "lines", customdata: x.map(() => job.id),
        name: plain(level === undefined ? job.label : `${telling.name}=${telling.levels[level].label}`),
        line: { color: mine || PALETTE[level] || colour("quiet"), width: mine ? 2.6 : 1.2 }, marker: { size: mine ? 6 : 3 },
        opacity: mine || !chosen.size ? 1 : 0.5, showlegend: first || Boolean(mine), legendgroup: level ?? job.id,
        hovertemplate: `${plain(job.label)}<br>step %{x}: %{y:.5g}<extra></extra>`,
      };
    }),
    xaxis: { title: { text: "step" } }, yaxis: { title: { text: plain(quantity || "") } }, showlegend: chosen.size + levelOf.size > 0,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, hovermode: "closest",
    annotations: order.length ? [] : [{ text: "no job has left a curve yet", showarrow: false, font: { size: 15 } }],
  };
}, (point) => { choose(point.customdata); refresh(); });
$("quantity").addEventListener("change", refresh);
function details() {
  $("details").replaceChildren(...[...chosen].map(([id, own]) => {
    const job = jobs.get(id);
    const card = element("div", null, "job");
    card.style.borderLeftColor = own;
    card.append(element("p", `job ${job.number}: ${job.label}`));
    const measures = Object.entries(job.metrics).map(([name, value]) => `${name} ${shown(value)}`).join(", ");
    card.append(element("p", [job.state, duration(job.seconds), measures, job.reason].filter(Boolean).join(" · "), "facts"));
    card.append(element("p", `in ${job.folder}`, "facts"), command(job));
    return card;
  }));
}
function command(job) {
  const line = element("p");
  const copy = element("button", "copy", "copy");
  copy.type = "button";
  copy.addEventListener("click", async (event) => {
    event.stopPropagation();
    try { await navigator.clipboard.writeText(job.command); copy.textContent = "copied"; }
    catch { getSelection().selectAllChildren(line.querySelector("code")); copy.textContent = "selected"; }
  });
  line.append(element("code", job.command), " ", copy);
  return line;
}
table($("jobs"), [
  { name: "job", number: true, value: (job) => job.number },
  { name: "state", value: (job) => job.state },
  ...data.axes.map((key) => ({ name: key, value: (job) => job.point[key], show: (job) => briefly(job.point[key]) })),
  ...measured((job, metric) => job.metrics[metric], (value) => value, shown, costs((job, key) => job[key])),
], data.jobs, {
  prepare(line, job) {
    line.dataset.job = job.id;
    line.classList.toggle("chosen", chosen.has(job.id));
    clickable(line, () => { choose(job.id); refresh(); });
  },
});
function refresh() {
  drawCurves();
  details();
  for (const line of $("jobs").tBodies[0].rows) line.classList.toggle("chosen", chosen.has(line.dataset.job));
}

/* The factors. */
$("effects-says").textContent = data.factors.length
  ? `${data.metric} of all finished jobs by each swept key, the others mixed: points are jobs, the bar is the mean ± `
    + "one standard deviation. The share is that of the variance between jobs that the means account for (eta squared)."
    + (data.factors.some((factor) => !factor.balanced)
      ? " Values have unequally many jobs: what differs between them may come of the other keys." : "")
  : "No key has more than one value.";
/* Numbers that a search drew: a point a job, without means. */
function scatter(id, factor) {
  const values = factor.levels.map((level) => level.value);
  const wide = Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 30;
  plot(id, () => ({
    traces: [{
      x: factor.levels.flatMap((level) => level.jobs.map(() => level.value)),
      y: factor.levels.flatMap((level) => level.jobs.map((job) => jobs.get(job).metrics[data.metric])),
      customdata: factor.levels.flatMap((level) => level.jobs),
      text: factor.levels.flatMap((level) => level.jobs.map((job) => plain(jobs.get(job).label))),
      mode: "markers", marker: { color: colour("accent"), size: 8 }, hovertemplate: "%{text}<br>%{y:.5g}<extra></extra>",
    }],
    title: { text: plain(factor.name) + (factor.correlation === null ? "" : `: rank correlation ${factor.correlation.toFixed(2)}`),
      font: { size: 14 } },
    xaxis: { type: wide ? "log" : "linear" }, yaxis: { title: { text: plain(data.metric) } }, hovermode: "closest",
  }), (point) => { choose(point.customdata, true); refresh(); });
}
data.factors.forEach((factor, number) => {
  const place = element("div", null, "plot");
  place.id = `effect-${number}`;
  $("effect-plots").append(place);
  if (factor.continuous) return scatter(place.id, factor);
  const at = (index) => index;
  plot(place.id, () => ({
    traces: [
      {
        x: factor.levels.flatMap((level, i) => level.jobs.map((_, j) => at(i) - 0.18 + 0.12 * ((j * 0.618) % 1))),
        y: factor.levels.flatMap((level) => level.jobs.map((id) => jobs.get(id).metrics[data.metric])),
        customdata: factor.levels.flatMap((level) => level.jobs),
        text: factor.levels.flatMap((level) => level.jobs.map((id) => plain(jobs.get(id).label))),
        mode: "markers", marker: { color: colour("quiet"), size: 7 }, hovertemplate: "%{text}<br>%{y:.5g}<extra></extra>",
      },
      {
        x: factor.levels.map((_, i) => at(i) + 0.08), y: factor.levels.map((level) => level.mean), mode: "lines+markers",
        error_y: { type: "data", array: factor.levels.map((level) => level.sd || 0), thickness: 1.6, color: colour("accent") },
        line: { color: colour("accent"), width: factor.numeric ? 1.4 : 0 }, marker: { size: 10, color: colour("accent") },
        text: factor.levels.map((level) => plain(`${level.label}: ${spread(level)}, ${level.n} jobs`)),
        hovertemplate: "%{text}<extra></extra>",
      },
    ],
    title: { text: plain(factor.name) + (factor.share === null ? "" : `: ${Math.round(100 * factor.share)} %`), font: { size: 14 } },
    xaxis: { tickvals: factor.levels.map((_, i) => i), ticktext: factor.levels.map((level) => plain(level.label)),
      range: [-0.5, factor.levels.length - 0.5], showgrid: false, zeroline: false, ticklabeloverflow: "allow",
      // Plotly leaves out names that would touch; turned, all have room.
      tickangle: factor.levels.reduce((sum, level) => sum + String(level.label).length, 0) > 30 ? -25 : 0 },
    yaxis: { title: { text: plain(data.metric) } }, hovermode: "closest",
  }), (point) => { if (point.customdata) { choose(point.customdata, true); refresh(); } });
});

/* Side by side: plain lines, so that neither WebGL nor eval is needed. */
plot("parallel-plot", () => {
  const done = data.jobs.filter((job) => job.state === "finished" && typeof job.metrics[data.metric] === "number");
  const axes = [...keys, data.metric];
  const value = (job, key) => (key === data.metric ? job.metrics[key] : job.point[key]);
  const scales = axes.map((key) => {
    const values = [...new Set(done.map((job) => value(job, key)))];
    if (key === data.metric) {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const place = (v) => (high > low ? (v - low) / (high - low) : 0.5);
      return { place, ticks: [...new Set([low, (low + high) / 2, high])].map((v) => [place(v), shown(v)]) };
    }
    const sorted = data.order[key].filter((v) => values.includes(v));
    const place = (v) => (sorted.length > 1 ? sorted.indexOf(v) / (sorted.length - 1) : 0.5);
    const every = Math.ceil(sorted.length / 7);
    const some = sorted.filter((_, i) => i % every === 0);
    return { place, ticks: some.map((v) => [place(v), briefly(v)]) };
  });
  const quality = (job) => {
    const place = scales[scales.length - 1].place(job.metrics[data.metric]);
    return data.mode === "max" ? place : 1 - place;
  };
  const ordered = [...done].sort((a, b) => quality(a) - quality(b)); // the best last, on top
  const best = (index) => index >= ordered.length - Math.max(1, Math.round(ordered.length / 10));
  const jitter = (index) => (((index * 0.618) % 1) - 0.5) * 0.03; // lines through the same values stay apart
  const marks = scales.flatMap((scale, i) => [
    ...scale.ticks.map(([y, label]) => ({ x: i, y, text: plain(label), showarrow: false, font: { size: 12 },
      xanchor: i + 1 < axes.length ? "right" : "left", xshift: i + 1 < axes.length ? -8 : 8, bgcolor: colour("card") })),
    { x: i, y: 1.1, text: `<b>${plain(axes[i])}</b>`, showarrow: false, font: { size: 13 } },
  ]);
  return {
    traces: ordered.map((job, index) => ({
      x: axes.map((_, i) => i),
      y: axes.map((key, i) => scales[i].place(value(job, key)) + (key === data.metric ? 0 : jitter(index))),
      mode: "lines+markers", marker: { size: 5 }, customdata: axes.map(() => job.id), hoverinfo: "text",
      text: axes.map(() => plain(`${job.label}: ${data.metric} ${shown(job.metrics[data.metric])}`)),
      opacity: best(index) ? 1 : 0.25 + 0.5 * index / ordered.length,
      line: { color: colour(best(index) ? "accent" : "quiet"), width: best(index) ? 2.4 : 1.2, shape: "spline", smoothing: 0.6 },
    })),
    xaxis: { visible: false, range: [-0.35, axes.length - 0.75] }, yaxis: { visible: false, range: [-0.08, 1.2] },
    shapes: axes.map((_, i) => ({ type: "line", x0: i, x1: i, y0: -0.04, y1: 1.04, line: { color: colour("faint"), width: 1 } })),
    annotations: done.length ? marks : [{ text: "no finished job", showarrow: false, font: { size: 15 } }],
    hovermode: "closest", margin: { l: 30, r: 30, t: 20, b: 20 },
  };
}, (point) => { choose(point.customdata); refresh(); $("curves").scrollIntoView({ behavior: "smooth" }); });

/* Costs. Points of a front whose names have room, the best first: where each name stands, or null. */
function apart(front, all) {
  const span = [0, 1].map((axis) => Math.max(...all.map((p) => p[axis])) - (axis ? Math.min(...all.map((p) => p[axis])) : 0) || 1);
  const named = [];
  const places = front.map(() => null);
  for (let i = front.length - 1; i >= 0; i--) {
    const far = (other) => Math.abs(front[i][0] - other[0]) > 0.3 * span[0] || Math.abs(front[i][1] - other[1]) > 0.12 * span[1];
    if (!named.every(far)) continue;
    named.push(front[i]);
    places[i] = front[i][0] > 0.5 * span[0] ? "top left" : "bottom right";
  }
  return places;
}
function cost(id, key, title, show) {
  if (key === data.metric) return $(id).remove(); // against itself
  plot(id, () => {
    const points = data.settings.filter((s) => known(s.values[data.metric]) !== null && known(s[key]) !== null);
    const front = points.filter((s) => s.front[key]).sort((a, b) => a[key].mean - b[key].mean);
    const told = (s) => plain(`${s.label}: ${spread(s.values[data.metric])}, ${show(s[key].mean)}`);
    const trace = (some, more) => ({
      x: some.map((s) => s[key].mean), y: some.map((s) => s.values[data.metric].mean), customdata: some.map((s) => s.jobs),
      text: some.map(told), hovertemplate: "%{text}<extra></extra>", ...more,
    });
    const labelled = apart(front.map((s) => [s[key].mean, s.values[data.metric].mean]), points.map((s) => [s[key].mean, s.values[data.metric].mean]));
    const bars = (some) => ({ type: "data", array: some.map((s) => s.values[data.metric].sd || 0), thickness: 1.2, width: 3 });
    return {
      traces: [
        trace(points, { mode: "markers", marker: { color: colour("quiet"), size: 9 }, error_y: { ...bars(points), color: colour("quiet") } }),
        trace(front, { mode: "lines+markers+text", hovertext: front.map(told), hovertemplate: "%{hovertext}<extra></extra>",
          text: front.map((s, i) => (labelled[i] ? plain(keys.map((k) => briefly(s.point[k])).join(" ")) : "")),
          textposition: labelled.map((place) => place || "top center"), textfont: { size: 12 }, cliponaxis: false, line: { color: colour("accent"), shape: "hv", width: 1.6 }, marker: { color: colour("accent"), size: 10 } }),
      ],
      xaxis: { title: { text: title }, rangemode: "tozero" }, yaxis: { title: { text: plain(data.metric) } }, hovermode: "closest",
    };
  }, (point) => { chosen.clear(); point.customdata.forEach((one) => choose(one, true)); refresh(); });
}
cost("time-plot", "seconds", "seconds at work", duration);
cost("size-plot", "parameters", "parameters", shown);

/* What is not finished. */
const open = data.jobs.filter((job) => job.state !== "finished" && job.state !== "pruned");
const broken = data.damaged.map((folder) => ({ label: folder.name, state: "damaged", reason: folder.reason }));
const waiting = (job) => job.state === "pending";
const rest = [...open.filter((job) => !waiting(job)), ...broken, ...open.filter(waiting)];
$("failures-says").textContent = rest.length
  ? "Start the sweep again, and it goes on with these alone; a job by itself runs by its own command."
  : `Every job has finished${data.counts.pruned ? ", or was pruned as hopeless" : ""}.`;
if (rest.length) {
  table($("unfinished"), [
    { name: "job", value: (job) => job.label, prose: true },
    { name: "state", value: (job) => job.state },
    { name: "tries", number: true, value: (job) => job.attempts },
    { name: "why", value: (job) => job.reason || "", prose: true },
    { name: "command", value: (job) => job.command || "", show: (job) => (job.command ? command(job) : ""), prose: true },
  ], rest);
}

/* Light and dark. */
function theme(name) {
  document.documentElement.dataset.theme = name;
  plots.forEach((draw) => draw());
}
const dark = matchMedia("(prefers-color-scheme: dark)");
$("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
theme(dark.matches ? "dark" : "light");
document.documentElement.dataset.ready = "yes";
