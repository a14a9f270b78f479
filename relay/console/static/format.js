// Numbers and moments, shown as the server shows them.
export const NONE = "–";

const two = (number) => String(number).padStart(2, "0");

export function showCount(number) {
  return number === null || number === undefined ? NONE : Math.round(number).toLocaleString("en-US");
}

export function showCompact(number) {
  if (number === null || number === undefined) return NONE;
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(number) >= size) return (number / size).toFixed(1).replace(/\.0$/, "") + letter;
  }
  return String(Math.round(number * 100) / 100);
}

export function showSeconds(ms) {
  if (ms === null || ms === undefined) return NONE;
  const seconds = ms / 1000;
  return seconds < 10 ? seconds.toFixed(2) : seconds < 100 ? seconds.toFixed(1) : showCount(seconds);
}

// A decimal of up to nine places, rounded once to six for the eye; never by way of a float.
export function showUsd(text) {
  const sign = text.startsWith("-") ? "-" : "";
  const [whole, part = ""] = text.replace("-", "").split(".");
  const scaled = BigInt(whole + part.padEnd(9, "0").slice(0, 9));
  const micros = (scaled + 500n) / 1000n;
  const units = (micros / 1000000n).toString().replace(/\B(?=(\d{3})+$)/g, ",");
  return `${sign}${units}.${(micros % 1000000n).toString().padStart(6, "0")}`;
}

// Local time with its zone; UTC stays in the title.
export function showTimes(part) {
  for (const time of part.querySelectorAll("time[datetime]:not([data-local])")) {
    const at = new Date(time.dateTime);
    const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
    time.title ||= `${time.textContent} UTC`;
    const short = time.classList.contains("short");
    time.textContent = short
      ? `${day.slice(5)} ${clock}.${String(at.getMilliseconds()).padStart(3, "0")}`
      : `${day} ${clock} ${zone(at)}`;
    time.dataset.local = "";
  }
  for (const head of part.querySelectorAll("[data-zone]")) head.textContent = zone(new Date());
}

export function zone(at) {
  const minutes = -at.getTimezoneOffset();
  if (minutes === 0) return "UTC";
  const rest = Math.abs(minutes) % 60;
  return `UTC${minutes < 0 ? "-" : "+"}${Math.floor(Math.abs(minutes) / 60)}${rest ? `:${two(rest)}` : ""}`;
}
