// How values are written for people.

// reason is a reason as policies and docs write it: REASON_POLICY_DENIED is policy_denied.
export const reason = (r) => word(r, "REASON_");
export const word = (value, prefix) => String(value ?? "").replace(prefix, "").toLowerCase();

// seconds reads a duration of protobuf's JSON: "0.000421s".
export const seconds = (d) => Number.parseFloat(d ?? "0") || 0;

export function duration(s) {
  if (s < 0.001) return `${Math.round(s * 1e6)} µs`;
  if (s < 1) return `${(s * 1e3).toFixed(s < 0.01 ? 2 : 1)} ms`;
  return `${s.toFixed(2)} s`;
}

const two = (n) => String(n).padStart(2, "0");

export function clock(time) {
  const d = new Date(time);
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, "0")}`;
}

export function moment(time) {
  if (!time) return "";
  const d = new Date(time);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

const units = [["year", 31557600], ["month", 2629800], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

// ago is how long ago a time was, or how long it is until then.
export function ago(time, now = Date.now()) {
  if (!time) return "";
  const s = (new Date(time) - now) / 1000;
  if (Math.abs(s) < 1) return "now";
  for (const [unit, size] of units) {
    if (Math.abs(s) >= size || unit === "second") return relative.format(Math.trunc(s / size), unit);
  }
}

// who is a principal in a word: "acme/ann".
export function who(p) {
  if (!p || !p.id) return "anonymous";
  return (p.tenant ? p.tenant + "/" : "") + p.id;
}

export const asked = (r) => `${r.method ?? ""} ${r.host ?? ""}${r.path ?? ""}`.trim() || "an action";

// list is a text of names apart by commas or spaces.
export const list = (text) => text.split(/[\s,]+/).filter(Boolean);
