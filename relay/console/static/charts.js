// Charts over time, each drawn from the table behind it: what is seen is what is written there.
import { NONE, showCompact, showSeconds, zone } from "./format.js";

// A script of its own before this one: its smallest build is no module.
const { uPlot } = globalThis;
const GROUPS_MAX = 7;
const LIMIT_IN_SIGHT = 4;
const STEPS_S = { minute: 60, hour: 3600, day: 86400 };
const table = document.getElementById("usage-table");
const words = JSON.parse(document.getElementById("words").textContent);
const two = (number) => String(number).padStart(2, "0");
let drawn = [];

if (table && table.tBodies[0].rows.length) {
  draw();
  document.addEventListener("theme", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

function draw() {
  for (const one of drawn) one.destroy();
  const data = read();
  drawn = [...document.querySelectorAll("[data-chart]")].map((place) => plot(place, data));
}

// --- from the table --------------------------------------------------------------------------------

function read() {
  const names = [...table.tHead.rows[0].cells].map((head) => head.dataset.name);
  const rows = [...table.tBodies[0].rows].map((row) => {
    const cells = [...row.cells];
    return Object.fromEntries(names.map((name, at) => [name, value(name, cells[at])]));
  });
  const step = STEPS_S[table.dataset.by];
  const first = Math.min(...rows.map((row) => row.time));
  const last = Math.max(...rows.map((row) => row.time));
  const times = [];
  for (let time = first; time <= last; time += step) times.push(time);
  const place = new Map(times.map((time, at) => [time, at]));
  const groups = names.includes("group") ? dearest(rows) : null;
  return { rows, times, place, step, groups };
}

function value(name, cell) {
  if (name === "time") return Date.parse(cell.querySelector("time").dateTime) / 1000;
  const text = cell.textContent.trim();
  if (name === "group") return text;
  return text === NONE ? null : Number(text.replaceAll(",", ""));
}

function dearest(rows) {
  const sums = new Map();
  for (const row of rows) sums.set(row.group, (sums.get(row.group) ?? 0) + row.input + row.output);
  const names = [...sums].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  return names.length > GROUPS_MAX ? [...names.slice(0, GROUPS_MAX), null] : names;
}

// A column over all times: null where there is no row at all, so that a gap stays a gap.
function column(data, measure, group) {
  const values = new Array(data.times.length).fill(null);
  for (const row of data.rows) {
    const at = data.place.get(row.time);
    if (at === undefined) continue;
    const ours = group === undefined || row.group === group
      || (group === null && !data.groups.includes(row.group));
    const found = ours ? measure(row) : 0;
    if (found !== null) values[at] = (values[at] ?? 0) + found;
  }
  return values;
}

function aMinute(data, measure) { return (row) => (measure(row) * 60) / data.step; }

function tokens(row) { return row.input + row.output; }

function measures(kind, data) {
  const byGroup = (measure) =>
    data.groups.map((group) => ({ label: group ?? words.rest, values: column(data, measure, group) }));
  if (kind === "tokens") {
    if (data.groups) return byGroup(aMinute(data, tokens));
    return [
      { label: words.fresh, values: column(data, aMinute(data, (row) => row.input - row.cached)) },
      { label: words.cached, values: column(data, aMinute(data, (row) => row.cached)) },
      { label: words.out, values: column(data, aMinute(data, (row) => row.output)) },
    ];
  }
  if (kind === "requests") {
    if (data.groups) return byGroup(aMinute(data, (row) => row.requests));
    return [
      { label: words.requests, values: column(data, aMinute(data, (row) => row.requests)) },
      { label: words.errors, color: "--bad", values: column(data, aMinute(data, (row) => row.errors)) },
    ];
  }
  if (kind === "spend") {
    if (data.groups) return byGroup((row) => row.cost);
    return [{ label: "USD", values: column(data, (row) => row.cost) }];
  }
  if (data.groups) return data.groups.filter((group) => group !== null).map((group) => ({
    label: group, values: latency(data, "p50", group),
  }));
  return [
    { label: "p50", values: latency(data, "p50") },
    { label: "p95", color: "--s3", values: latency(data, "p95") },
  ];
}

function latency(data, name, group) {
  const values = new Array(data.times.length).fill(null);
  for (const row of data.rows) {
    if (group === undefined || row.group === group) values[data.place.get(row.time)] = row[name];
  }
  return values;
}

// --- to the screen ---------------------------------------------------------------------------------

function color(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function plot(place, data) {
  place.replaceChildren();
  const kind = place.dataset.chart;
  const stacked = kind === "tokens" || kind === "spend";
  const show = kind === "latency" ? (seconds) => `${showSeconds(seconds * 1000)} s` : showCompact;
  const lines = measures(kind, data);
  const columns = stacked ? pile(lines.map((line) => line.values)) : lines.map((line) => line.values);
  const series = lines.map((line, at) => {
    const stroke = color(line.color ?? `--s${(at % 8) + 1}`);
    return {
      label: line.label, stroke, width: 1, fill: stacked ? stroke : undefined,
      points: { show: true, size: 3, stroke, fill: stroke, filter: (chart, place) => alone(chart.data[place]) },
      value: (_, __, ___, idx) => (idx === null || line.values[idx] === null ? NONE : show(line.values[idx])),
    };
  });
  if (stacked) { series.reverse(); columns.reverse(); }
  const limit = Number(place.dataset.limit || 0);
  const highest = Math.max(0, ...columns.flat().filter((one) => one !== null));
  if (limit && limit <= highest * LIMIT_IN_SIGHT) {
    columns.push(data.times.map(() => limit));
    series.push({ label: words.limit, stroke: color("--bad"), width: 1, dash: [6, 4], points: { show: false },
      value: () => showCompact(limit) });
  }
  const limited = place.dataset.band === undefined ? null : column(data, (row) => row.limited);
  const chart = new uPlot(options(place, data, series, show, limited), [data.times, ...columns], place);
  const watch = new ResizeObserver(() => chart.setSize({ width: place.clientWidth, height: height(place) }));
  watch.observe(place);
  return { destroy() { watch.disconnect(); chart.destroy(); } };
}

function pile(columns) {
  const sums = new Array(columns[0].length).fill(0);
  return columns.map((values) => values.map((one, at) => (one === null ? null : (sums[at] += one))));
}

// Only a span between two gaps needs a point: no line leads to it.
function alone(values) {
  const found = [];
  values.forEach((one, at) => {
    if (one !== null && (values[at - 1] ?? null) === null && (values[at + 1] ?? null) === null) found.push(at);
  });
  return found;
}

function height(place) { return Math.min(Number(place.dataset.height || 180), innerWidth < 720 ? 170 : 400); }

function options(place, data, series, show, limited) {
  const text = color("--muted");
  const line = color("--line");
  const axis = { stroke: text, font: "11px system-ui, sans-serif", ticks: { show: false } };
  return {
    width: place.clientWidth, height: height(place), padding: [8, 8, 0, 0],
    scales: { x: { time: true, range: (_, min, max) => (min === max ? [min - data.step, max + data.step] : [min, max]) }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.05 : 1] } },
    cursor: { sync: { key: "relay" }, drag: { x: true, y: false, setScale: false }, points: { size: 5 } },
    axes: [
      { ...axis, grid: { show: false }, values: (_, splits) => splits.map((at) => tick(at, data)), size: 26 },
      { ...axis, grid: { stroke: line, width: 1 }, values: (_, splits) => splits.map((at) => (at === 0 ? "0" : show(at))), size: 54 },
    ],
    series: [{ label: words.time, value: (_, at) => (at === null ? NONE : moment(at)) }, ...series],
    hooks: {
      draw: limited ? [(chart) => band(chart, data, limited)] : [],
      setSelect: [(chart) => brush(place, chart, data)],
    },
  };
}

function tick(at, data) {
  const time = new Date(at * 1000);
  const whole = time.getHours() === 0 && time.getMinutes() === 0;
  const days = (data.times.at(-1) - data.times[0]) / 86400;
  if (whole || (days > 4 && data.step >= 3600)) return `${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  return `${two(time.getHours())}:${two(time.getMinutes())}`;
}

function moment(at) {
  const time = new Date(at * 1000);
  return `${two(time.getMonth() + 1)}-${two(time.getDate())} ${two(time.getHours())}:${two(time.getMinutes())} ${zone(time)}`;
}

function band(chart, data, limited) {
  const { ctx, bbox } = chart;
  ctx.save();
  ctx.fillStyle = color("--band");
  limited.forEach((count, at) => {
    if (!count) return;
    const from = chart.valToPos(data.times[at] - data.step / 2, "x", true);
    const to = chart.valToPos(data.times[at] + data.step / 2, "x", true);
    ctx.fillRect(from, bbox.top, to - from, bbox.height);
  });
  ctx.restore();
}

// What was brushed becomes a link to the log (and to the same chart, closer).
function brush(place, chart, data) {
  const { left, width } = chart.select;
  if (width < 4) return;
  const iso = (px, up) => {
    const steps = chart.posToVal(px, "x") / data.step;
    return new Date((up ? Math.ceil(steps) : Math.floor(steps)) * data.step * 1000).toISOString();
  };
  const range = { since: iso(left, false), until: iso(left + width, true) };
  const query = new URLSearchParams(table.dataset.query);
  for (const [name, text] of Object.entries(range)) query.set(name, text);
  const said = document.getElementById("brushed");
  if (!said) return;
  const closer = new URLSearchParams(query);
  closer.set("by", table.dataset.by);
  if (table.dataset.group) closer.set("group", table.dataset.group);
  const span = `${moment(Date.parse(range.since) / 1000)} – ${moment(Date.parse(range.until) / 1000)}`;
  said.replaceChildren(`${span}  `);
  if (said.dataset.log !== undefined) said.append(link(`/logs?${query}`, words.inTheLog), "  ");
  said.append(link(`/usage?${closer}`, words.closer));
}

function link(href, text) {
  const made = document.createElement("a");
  made.href = href;
  made.textContent = text;
  return made;
}
