// The live tail: one indexed read every two seconds, rows put on top, the oldest dropped.
import { NONE, showCompact, showCount, showSeconds, showTimes, showUsd } from "./format.js";

const PERIOD_MS = 2000;
const ROWS_MAX = 200;
const button = document.getElementById("tail");
const body = document.querySelector("#log tbody");
let timer = 0;

button?.addEventListener("click", () => {
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  clearTimeout(timer);
  if (on) look();
});

async function look() {
  if (!document.hidden) await ask().catch(() => {});
  if (button.getAttribute("aria-pressed") === "true") timer = setTimeout(look, PERIOD_MS);
}

async function ask() {
  const address = new URL(button.dataset.url, location.href);
  const newest = body?.querySelector("time")?.dateTime;
  if (newest) address.searchParams.set("since", newest);
  address.searchParams.set("limit", "100");
  const answer = await fetch(address);
  if (!answer.ok) return;
  const found = (await answer.json()).logs;
  if (!body) {
    if (found.length) location.reload();
    return;
  }
  const known = new Set([...body.rows].map((row) => row.dataset.id));
  const fresh = found.filter((call) => !known.has(call.request_id));
  body.prepend(...fresh.map(draw));
  while (body.rows.length > ROWS_MAX) body.lastElementChild.remove();
  showTimes(body);
}

function draw(call) {
  const row = body.rows[0].cloneNode(true);
  const href = `/logs/${call.request_id}`;
  row.dataset.id = call.request_id;
  row.dataset.href = href;
  row.className = "fresh";
  const cell = (name) => row.querySelector(`[data-cell="${name}"]`);
  const time = row.querySelector("time");
  time.dateTime = call.time;
  delete time.dataset.local;
  time.title = call.time.replace("T", " ").replace("Z", " UTC");
  row.querySelector("a.open").href = href;
  cell("key").textContent = call.key_name ?? `#${call.key_id}`;
  cell("model").textContent = call.model;
  if (call.served_model && call.served_model !== call.model) cell("model").append(arrow(), call.served_model);
  cell("in").textContent = showCount(call.input_tokens);
  cell("cached").textContent = showCount(call.cached_tokens);
  cell("out").textContent = showCount(call.output_tokens);
  cell("cost").textContent = showUsd(call.cost_usd);
  cell("first").textContent = showSeconds(call.ttft_ms);
  cell("total").textContent = showSeconds(call.total_ms);
  cell("rate").textContent = call.tokens_per_s === null ? NONE : showCompact(call.tokens_per_s);
  const status = cell("status");
  status.classList.remove("bad", "warn");
  status.textContent = call.error_code ? `${call.status} ${call.error_code}` : String(call.status);
  if (call.status >= 400 || call.reason !== "completed") status.classList.add(call.status >= 500 ? "bad" : "warn");
  cell("line").textContent = call.line ?? NONE;
  cell("ip").textContent = call.ip ?? NONE;
  return row;
}

function arrow() {
  const span = document.createElement("span");
  span.className = "arrow";
  span.textContent = " › ";
  return span;
}
