// The policy in force, and what one in the shadow would have said.
import * as api from "./api.js";
import { facts, h, problem, show } from "./dom.js";
import { ago, moment, reason } from "./words.js";

export function open(root, { failed }) {
  let closed = false;
  const policy = h("section", { class: "panel" }), parts = h("section", { class: "panel" }), shadow = h("section", { class: "panel wide" });
  show(root, h("div", { class: "panels" }, policy, parts, shadow));

  async function look() {
    await Promise.all([
      part(policy, "Policy in force", async () => inForce(await api.call("PolicyService/GetPolicy"))),
      part(parts, "Parts of this replica", async () => conditions(await api.readiness())),
      part(shadow, "Shadow", async () => {
        try {
          return differences(await api.call("DecisionService/ListShadowDifferences"));
        } catch (err) {
          if (err.code !== "failed_precondition") throw err;
          return h("p", { class: "muted" }, "There is no policy in the shadow. With ", h("code", null, "policy.shadow"), " in the configuration, a second policy is asked aside, and what it would have decided otherwise is shown here.");
        }
      }),
    ]);
  }

  async function part(panel, title, content) {
    let children;
    try {
      children = await content();
    } catch (err) {
      children = failed(err);
    }
    if (!closed) show(panel, h("h2", null, title), children);
  }

  look();
  const timer = setInterval(look, 5000);
  return () => { closed = true; clearInterval(timer); };
}

function inForce(p) {
  const hits = Number(p.cacheHits ?? 0), all = hits + Number(p.cacheMisses ?? 0);
  return [
    !p.revision && problem("There is no policy: everything is denied."),
    p.error && [problem("The newest policy is not in force; this one stays."), h("pre", null, p.error)],
    p.revision && !p.ready && problem("The policy is too old to decide by."),
    facts([
      ["Revision", p.revision && h("span", { class: "mono big" }, p.revision)], ["In force since", p.activateTime && `${moment(p.activateTime)}, ${ago(p.activateTime)}`],
      ["Entrypoint", p.entrypoint && h("code", null, p.entrypoint)],
      ["Cache", all > 0 && `${((100 * hits) / all).toFixed(1)} % of ${all} decisions from memory, ${p.cacheEntries ?? 0} kept`],
    ]),
    p.warnings?.length > 0 && [h("h3", null, "Warnings"), h("ul", { class: "plain" }, p.warnings.map((w) => h("li", { class: "mono" }, w)))],
  ];
}

function conditions(ready) {
  return h("ul", { class: "conditions" }, (ready.conditions ?? []).map((c) =>
    h("li", null, h("i", { class: c.ready ? "dot good" : "dot bad" }), h("b", null, c.name), h("span", { class: "unseen" }, c.ready ? "ready" : "not ready"), h("span", { class: "muted" }, c.detail ?? ""))));
}

function differences(s) {
  const compared = Number(s.compared ?? 0), different = Number(s.different ?? 0);
  return [
    facts([
      ["In the shadow", h("span", { class: "mono" }, s.revision || "none yet")], ["In force", h("span", { class: "mono" }, s.enforcedRevision)],
      ["Compared", compared > 0 && `${compared} decisions since ${moment(s.sinceTime)}`], ["Different", compared > 0 && `${different} (${((100 * different) / compared).toFixed(2)} %)`],
      ["Not compared", Number(s.dropped ?? 0) > 0 && s.dropped],
    ]),
    s.counts?.length > 0 && lines("Differences by kind", ["How often", "Change", "Rule", "Route"], s.counts.map((c) => [c.count, change(c.change), code(c.rule), c.route])),
    s.differences?.length > 0 && lines("The last ones", ["Time", "Decision", "Change", "In force", "In the shadow"], s.differences.map((d) =>
      [moment(d.time), code(d.decisionId), change(d.change), outcome(d.enforced), outcome(d.shadow)])),
    compared > 0 && different === 0 && h("p", { class: "muted" }, "Both policies have agreed on everything."),
  ];
}

const code = (text) => h("code", null, text ?? "");
const change = (text) => h("span", { class: text?.endsWith("to allow") ? "badge bad" : "badge plain" }, text ?? "");

function outcome(o = {}) {
  return [h("b", null, o.outcome ?? ""), " ", reason(o.reason), o.file && h("code", { class: "place" }, ` ${o.file}:${o.line}`), o.error && h("span", { class: "muted" }, ` ${o.error}`)];
}

function lines(title, heads, rows) {
  return [h("h3", null, title), h("div", { class: "scroll" }, h("table", { class: "lines still" },
    h("thead", null, h("tr", null, heads.map((t) => h("th", { scope: "col" }, t)))), h("tbody", null, rows.map((r) => h("tr", null, r.map((cell) => h("td", null, cell)))))))];
}
