// What every page gains from a script: local times, copying, keys, a drawer. All of it is optional.
import { showTimes } from "./format.js";

const root = document.documentElement;
const words = JSON.parse(document.getElementById("words").textContent);

showTimes(document);
offerSwitches();
offerCopies(document);
submitOnChange();
document.querySelector(".rail [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
document.addEventListener("click", openRow);
document.addEventListener("keydown", walk);

function offerSwitches() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  for (const button of document.querySelectorAll("[data-switch]")) {
    button.addEventListener("click", () => {
      const name = button.dataset.switch;
      const now = name === "theme" ? (root.dataset.theme ?? (dark.matches ? "dark" : "light")) : root.dataset.density;
      const next = name === "theme" ? (now === "dark" ? "light" : "dark") : now === "compact" ? "" : "compact";
      root.dataset[name] = next;
      localStorage.setItem(`relay-${name}`, next);
      document.dispatchEvent(new Event("theme"));
    });
  }
}

function offerCopies(part) {
  for (const pre of part.querySelectorAll("[data-copy]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "link";
    button.textContent = words.copy;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(pre.textContent.trim());
      button.textContent = words.copied;
      setTimeout(() => { button.textContent = words.copy; }, 1500);
    });
    pre.after(button);
  }
}

function submitOnChange() {
  for (const form of document.querySelectorAll("form[data-filters]")) {
    form.addEventListener("change", (event) => {
      if (event.target.matches("select")) form.requestSubmit();
    });
    // What is empty stays out of the address.
    form.addEventListener("formdata", (event) => {
      for (const [name, value] of [...event.formData]) if (!value) event.formData.delete(name);
    });
  }
}

// --- rows and the drawer ---------------------------------------------------------------------------

function openRow(event) {
  const row = event.target.closest("tr[data-href]");
  const plain = !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0;
  if (!row || !plain || event.target.closest("a:not(.open), button, summary, form, input")) return;
  if (String(getSelection())) return;
  event.preventDefault();
  open(row);
}

function open(row) {
  mark(row);
  if (row.dataset.drawer === undefined) location.href = row.dataset.href;
  else show(row.dataset.href);
}

async function show(href) {
  const answer = await fetch(href, { headers: { accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const detail = page.getElementById("detail");
  if (!answer.ok || !detail) { location.href = href; return; }
  if (!drawer()) history.pushState({ drawer: true }, "", href);
  else history.replaceState({ drawer: true }, "", href);
  drawer()?.remove();
  const aside = document.createElement("dialog");
  aside.className = "drawer";
  aside.setAttribute("aria-label", page.title);
  const close = document.createElement("button");
  close.type = "button";
  close.className = "close";
  close.textContent = words.close;
  close.addEventListener("click", () => history.back());
  aside.append(close, detail);
  document.body.append(aside);
  aside.show();
  showTimes(aside);
  offerCopies(aside);
  close.focus({ preventScroll: true });
}

function drawer() { return document.querySelector("dialog.drawer"); }

addEventListener("popstate", () => {
  if (history.state?.drawer) { location.reload(); return; }
  drawer()?.remove();
  document.querySelector("tr.at")?.querySelector("a")?.focus({ preventScroll: true });
});

function mark(row) {
  for (const other of document.querySelectorAll("tr.at")) other.classList.remove("at");
  row.classList.add("at");
  row.scrollIntoView({ block: "nearest" });
}

// --- keys: / j k enter esc -------------------------------------------------------------------------

function walk(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (drawer()) history.back();
    else document.activeElement?.blur();
    return;
  }
  if (event.target.closest("input, select, textarea")) return;
  if (event.key === "/") {
    const first = document.querySelector("[data-first], form[data-filters] :is(select, input)");
    if (first) { event.preventDefault(); first.focus(); }
    return;
  }
  const rows = [...document.querySelectorAll("tr[data-href]")];
  const at = rows.findIndex((row) => row.classList.contains("at"));
  if (event.key === "j" || event.key === "k") {
    const next = rows[at + (event.key === "j" ? 1 : -1)] ?? rows[at < 0 ? 0 : at];
    if (!next) return;
    mark(next);
    if (drawer()) open(next);
  } else if (event.key === "Enter" && at >= 0 && !event.target.closest("a, button, summary")) {
    open(rows[at]);
  }
}
