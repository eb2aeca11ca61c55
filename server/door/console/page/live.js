// Decisions as they are made, and how one came about.
import * as api from "./api.js";
import { arrows, choice, facts, h, say, show } from "./dom.js";
import { asked, clock, duration, moment, reason, seconds, who, word } from "./words.js";
import { question } from "./playground.js";

const kept = 500; // lines on the page
const minute = 60;

export function open(root, { failed, go }) {
  let wanted = "all", text = "", paused = false, lines = [], waiting = [], lost = 0, shown = null, follower = null, drawing = 0, retry = 0, closed = false;
  const seen = Array.from({ length: minute }, () => ({ at: 0, allow: 0, deny: 0, times: [] }));

  const status = h("span", { class: "muted", role: "status" });
  const numbers = h("div", { class: "numbers" });
  const chart = h("svg", { class: "chart", viewBox: "0 0 240 36", preserveAspectRatio: "none", role: "img", "aria-label": "Decisions in each second of the last minute" });
  const body = h("tbody");
  const empty = h("p", { class: "empty" }, "Nothing has been decided yet. Ask something: ", h("code", null, "postern check https://shop.test/products"));
  const side = h("aside", { class: "side", hidden: true, "aria-label": "Decision" });
  const pause = h("button", { type: "button", "aria-pressed": "false", title: "Space", on: { click: () => hold(!paused) } }, "Pause");
  const table = h("table", { class: "lines live", role: "grid", "aria-label": "Decisions" },
    h("thead", null, h("tr", { role: "row" }, ["Time", "Answer", "Reason", "Principal", "By", "Request", "Route", "Latency"].map((t) => h("th", { scope: "col" }, t)))), body);

  show(root,
    h("section", { class: "strip" }, numbers, chart),
    h("div", { class: "tools" },
      h("input", { type: "search", placeholder: "Filter by path, principal, reason, id…", "aria-label": "Filter", on: { input: (e) => { text = e.target.value.trim().toLowerCase(); draw(true); } } }),
      choice("Which", [["all", "All"], ["allow", "Allows"], ["deny", "Denies"]], wanted, (value) => { wanted = value; begin(); }),
      pause, h("button", { type: "button", class: "quiet", on: { click: () => { lines = []; lost = 0; draw(true); } } }, "Clear"), status),
    h("div", { class: "split" }, h("div", { class: "scroll" }, table, empty), side));

  function hold(on) {
    paused = on;
    pause.setAttribute("aria-pressed", String(on));
    pause.textContent = on ? "Go on" : "Pause";
    if (!on) take(waiting.splice(0));
    draw(true);
  }

  // begin watches anew. The server leaves out what is not wanted; the text is looked for here.
  function begin() {
    follower?.abort();
    clearTimeout(retry);
    follower = new AbortController();
    lines = [];
    waiting = [];
    draw(true);
    follow(follower.signal, 200);
  }

  async function follow(signal, recent) {
    const filter = wanted === "all" ? {} : { allowed: wanted === "allow" };
    show(status, "connecting…");
    try {
      await api.stream("DecisionService/WatchDecisions", { filter, recent }, (message) => {
        if (signal.aborted) return;
        if (recent !== null) show(status, "live");
        recent = null;
        lost += Number(message.lost ?? 0);
        const news = message.decisions ?? [];
        for (const d of news) measure(d);
        if (paused) waiting = waiting.concat(news).slice(-kept);
        else take(news);
        draw();
      }, signal);
    } catch (err) {
      if (signal.aborted) return;
      const said = failed(err);
      if (said === null) return;
      show(status, err.message);
      if (err.code === "permission_denied") return;
    }
    if (signal.aborted || closed) return;
    show(status, "connection lost; trying again…");
    retry = setTimeout(() => follow(signal, 0), 1000);
  }

  function take(news) {
    for (const d of news) lines.push(d);
    if (lines.length > kept) lines = lines.slice(-kept);
  }

  // measure counts a decision in its second.
  function measure(d) {
    const at = Math.floor(Date.parse(d.time) / 1000);
    const slot = seen[((at % minute) + minute) % minute];
    if (slot.at > at) return;
    if (slot.at < at) Object.assign(slot, { at, allow: 0, deny: 0, times: [] });
    slot[d.decision?.allowed ? "allow" : "deny"]++;
    if (slot.times.length < 200) slot.times.push(seconds(d.latency));
  }

  function matches(d) {
    if (!text) return true;
    return [d.decision?.decisionId, reason(d.decision?.reason), who(d.principal), asked(d), d.route, d.detail, d.clientIp, d.caller]
      .some((part) => String(part ?? "").toLowerCase().includes(text));
  }

  // draw happens once a frame, however many messages came.
  function draw(all = false) {
    drawing ||= requestAnimationFrame(() => { drawing = 0; paint(); });
    if (all) strip();
  }

  function paint() {
    if (closed) return;
    const focused = document.activeElement?.closest?.("tr")?.dataset.id;
    const now = new Map([...body.children].map((tr) => [tr.dataset.id, tr]));
    const rows = lines.filter(matches).reverse().map((d) => now.get(d.decision.decisionId) ?? line(d));
    body.replaceChildren(...rows);
    rows.forEach((tr, i) => tr.setAttribute("tabindex", (focused ? tr.dataset.id === focused : i === 0) ? "0" : "-1"));
    if (focused && body.isConnected) body.querySelector('tr[tabindex="0"]')?.focus({ preventScroll: true });
    table.hidden = rows.length === 0;
    empty.hidden = rows.length > 0;
    if (lines.length > 0 && rows.length === 0) show(empty, "Nothing matches the filter.");
    strip();
  }

  function line(d) {
    const allowed = d.decision?.allowed === true;
    const id = d.decision?.decisionId ?? "";
    return h("tr", { role: "row", "data-id": id, class: allowed ? "allow" : "deny", on: { click: () => explain(id) } },
      h("td", { class: "time mono", title: moment(d.time) }, clock(d.time)),
      h("td", { class: "answer" }, h("span", { class: "verdict" }, allowed ? "allow" : "deny"), " ", h("span", { class: "mono" }, d.decision?.httpStatus ?? "")),
      h("td", { class: "why mono" }, reason(d.decision?.reason)),
      h("td", { class: "who mono" }, who(d.principal)),
      h("td", { class: "by muted" }, d.principal?.method ?? ""),
      h("td", { class: "asked mono", title: asked(d) }, h("b", null, d.method ?? ""), " ", (d.host ?? "") + (d.path ?? "")),
      h("td", { class: "route muted" }, d.route ?? ""),
      h("td", { class: "took mono", title: d.cached ? "from the decision cache" : null }, duration(seconds(d.latency)), d.cached && h("span", { class: "cached" }, " cached")));
  }

  arrows(table, body, explain);

  function onKey(event) {
    if (event.target.closest("input, textarea, select, button, dialog, a")) return;
    if (event.key === " ") {
      hold(!paused);
      event.preventDefault();
    } else if (event.key === "Escape" && !side.hidden) {
      closeSide();
    }
  }
  document.addEventListener("keydown", onKey);

  function strip() {
    const now = Math.floor(Date.now() / 1000);
    const recent = seen.filter((s) => s.at > now - minute && s.at <= now);
    const allow = sum(recent, "allow"), deny = sum(recent, "deny"), all = allow + deny;
    const times = recent.flatMap((s) => s.times).sort((a, b) => a - b);
    const at = (share) => (times.length ? duration(times[Math.min(times.length - 1, Math.floor(times.length * share))]) : "–");
    const number = (label, value, tone) => h("div", { class: "number" }, h("b", { class: tone }, value), h("span", null, label));
    show(numbers,
      number("decisions in a minute", all), number("denied", all ? `${((100 * deny) / all).toFixed(deny && deny / all < 0.1 ? 1 : 0)} %` : "–", deny ? "bad" : ""),
      number("p50", at(0.5)), number("p99", at(0.99)),
      paused && number("waiting", waiting.length), lost > 0 && number("too fast to show", lost, "bad"));
    const top = Math.max(4, ...recent.map((s) => s.allow + s.deny));
    show(chart, recent.map((s) => {
      const x = 240 - (now - s.at + 1) * 4, up = (32 * s.allow) / top, down = (32 * s.deny) / top;
      return [up > 0 && h("rect", { class: "good", x, width: 3, y: 36 - up, height: up, rx: 0.5 }),
        down > 0 && h("rect", { class: "bad", x, width: 3, y: 36 - up - down - (up ? 0.5 : 0), height: down, rx: 0.5 })];
    }));
  }
  const ticking = setInterval(strip, 1000);

  async function explain(id) {
    shown = id;
    for (const tr of body.children) tr.classList.toggle("chosen", tr.dataset.id === id);
    side.hidden = false;
    try {
      const found = await api.call("DecisionService/GetDecision", { decisionId: id });
      if (shown !== id || closed) return;
      show(side, explanation(found, { close: closeSide, try: () => { question(id); go("playground"); } }));
      say(`Decision ${id}`);
      side.querySelector("button")?.focus({ preventScroll: true });
    } catch (err) {
      const said = failed(err);
      if (said) show(side, h("button", { type: "button", class: "quiet close", "aria-label": "Close", on: { click: closeSide } }, "✕"), said);
    }
  }

  function closeSide() {
    side.hidden = true;
    for (const tr of body.children) tr.classList.remove("chosen");
    [...body.children].find((tr) => tr.dataset.id === shown)?.focus();
    shown = null;
  }
  side.addEventListener("keydown", (event) => { if (event.key === "Escape") closeSide(); });

  begin();
  return () => {
    closed = true;
    follower.abort();
    clearTimeout(retry);
    clearInterval(ticking);
    document.removeEventListener("keydown", onKey);
  };
}

const sum = (slots, name) => slots.reduce((n, s) => n + s[name], 0);

function explanation({ record: r, steps = [] }, does) {
  const d = r.decision ?? {}, p = r.principal ?? {};
  return [
    h("button", { type: "button", class: "quiet close", "aria-label": "Close", on: { click: does.close } }, "✕"),
    h("h2", { class: d.allowed ? "allow" : "deny" }, h("span", { class: "verdict" }, d.allowed ? "allow" : "deny"), " ", d.httpStatus, " ", h("span", { class: "mono" }, reason(d.reason))),
    r.path && h("p", { class: "request mono" }, h("b", null, r.method ?? ""), " ", (r.host ?? "") + r.path),
    d.message && h("p", { class: "muted" }, d.message),
    phases(steps),
    grounds(r.grounds),
    facts([
      ["Principal", p.id && h("span", { class: "mono" }, who(p))], ["Kind", word(p.kind, "PRINCIPAL_KIND_").replace("unspecified", "")], ["Proved by", p.method],
      ["Credential", p.credentialId && h("span", { class: "mono" }, p.credentialId)], ["Roles", (p.roles ?? []).join(", ")], ["Scopes", (p.scopes ?? []).join(", ")], ["Issuer", p.issuer],
      ["Missing", [...(d.missingPermissions ?? []), ...(d.missingScopes ?? [])].join(", ")],
      ["Route", r.route], ["Client", r.clientIp], ["Asked by", [r.door, r.caller].filter(Boolean).join(" ")], ["Request id", r.requestId],
      ["Latency", duration(seconds(r.latency)) + (r.cached ? ", from the decision cache" : "")], ["Policy", d.policyRevision && h("span", { class: "mono" }, d.policyRevision)],
      ["Time", moment(r.time)], ["Decision", h("span", { class: "mono" }, d.decisionId)], ["Detail", r.detail],
    ]),
    r.path && ["decide", "spend", "record"].includes(r.phase) && h("p", null, h("button", { type: "button", on: { click: does.try } }, "Try a draft policy on it")),
  ];
}

export function phases(steps) {
  return h("ol", { class: "phases", "aria-label": "Phases" }, steps.map((s) => {
    const outcome = word(s.outcome, "STEP_OUTCOME_");
    return h("li", { class: outcome }, h("b", null, s.phase), h("span", { class: "outcome" }, outcome), s.message && h("p", { class: "mono" }, s.message));
  }));
}

// grounds are what a policy denied by: the rule, what failed in it, and what was read.
export function grounds(g) {
  if (!g) return null;
  const more = (n, what) => n > 0 && h("li", { class: "muted" }, `… and ${n} more ${what}`);
  return h("section", { class: "grounds" },
    g.rule && h("p", null, "Decided by ", h("code", null, g.rule), g.file && [" at ", h("code", { class: "place" }, `${g.file}:${g.line}`)]),
    g.failed?.length > 0 && [h("h3", null, "What failed"), h("ul", { class: "failed" }, g.failed.map((f) =>
      h("li", null, h("code", { class: "place" }, `${f.file}:${f.line}`), f.expression && h("code", null, f.expression), h("span", { class: "muted" }, f.rule))), more(g.moreFailed, "expressions"))],
    g.reads?.length > 0 && [h("h3", null, "What was read"), h("ul", { class: "reads" }, g.reads.map((read) =>
      h("li", null, h("code", null, read.path), h("code", { class: read.absent || read.masked ? "muted" : "value" }, read.absent ? "is not there" : read.masked ? "is not shown" : read.value))), more(g.moreReads, "places"))]);
}
