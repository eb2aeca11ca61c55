// A draft of a policy, asked about one request. It decides nothing.
import * as api from "./api.js";
import { choice, facts, field, h, problem, say, show } from "./dom.js";
import { asked, duration, reason, seconds, who } from "./words.js";
import { grounds } from "./live.js";

// What is being written outlives the view, not the tab.
const draft = {
  files: null, current: 0, entrypoint: "", kind: "written", decision: "",
  request: JSON.stringify({ request: { method: "GET", path: "/orders/7" }, principal: { id: "ann", roles: ["reader"] } }, null, 2),
};

const sample = (entrypoint) => {
  const path = entrypoint.replace(/^data\./, "").split(".");
  const rule = path.pop();
  return `package ${path.join(".") || "app"}

default ${rule} := {"allow": false}

${rule} := {"allow": true} if {
	input.request.method == "GET"
	"reader" in input.principal.roles
}
`;
};

// question is called by other views: the decision that the draft is asked about.
export function question(id) {
  draft.kind = "recorded";
  draft.decision = id;
}

export function open(root, { failed }) {
  let closed = false, running = null;
  const tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Files" });
  const name = h("input", { type: "text", class: "mono", "aria-label": "Name of the file", spellcheck: "false", autocomplete: "off", on: { input: () => { file().name = name.value.trim(); drawTabs(); } } });
  const text = h("textarea", { class: "mono", "aria-label": "Text of the file", spellcheck: "false", autocomplete: "off", rows: 20, on: { input: () => { file().text = text.value; } } });
  const entrypoint = h("input", { type: "text", class: "mono", spellcheck: "false", autocomplete: "off", on: { input: () => { draft.entrypoint = entrypoint.value.trim(); } } });
  const picker = h("input", { type: "file", multiple: true, accept: ".rego,.json,.yaml,.yml", class: "unseen", tabindex: "-1", "aria-hidden": "true", on: { change: pick } });
  const ask = h("div");
  const answer = h("section", { class: "panel answer", "aria-label": "Answer", "aria-live": "polite" }, h("p", { class: "muted" }, "The answer stands here. The draft decides nothing, and is forgotten."));
  const run = h("button", { type: "button", class: "primary", title: "Ctrl+Enter", on: { click: go } }, "Ask the draft");

  const file = () => draft.files[draft.current];

  function drawTabs() {
    show(tabs, draft.files.map((f, i) => h("button", { type: "button", role: "tab", "aria-selected": String(i === draft.current), on: { click: () => { draft.current = i; drawFile(); } } }, f.name || "unnamed")),
      h("button", { type: "button", class: "quiet", title: "Add a file", "aria-label": "Add a file", on: { click: () => { draft.files.push({ name: draft.files.some((f) => f.name === "data.json") ? `file${draft.files.length}.rego` : "data.json", text: "{}\n" }); draft.current = draft.files.length - 1; drawFile(); } } }, "+"),
      draft.files.length > 1 && h("button", { type: "button", class: "quiet", title: "Remove this file", "aria-label": "Remove this file", on: { click: () => { draft.files.splice(draft.current, 1); draft.current = 0; drawFile(); } } }, "−"));
  }

  function drawFile() {
    drawTabs();
    name.value = file().name;
    text.value = file().text;
  }

  function drawQuestion() {
    const decision = h("input", { type: "text", class: "mono", value: draft.decision, spellcheck: "false", autocomplete: "off", placeholder: "7d1k2m9qxw4e0000001", on: { input: (e) => { draft.decision = e.target.value.trim(); } } });
    const request = h("textarea", { class: "mono", rows: 12, value: draft.request, spellcheck: "false", autocomplete: "off", on: { input: (e) => { draft.request = e.target.value; } } });
    show(ask, draft.kind === "recorded"
      ? field("Decision", decision, "One that this replica remembers: its method, host, path, client, principal and route. Header fields, queries and bodies are not remembered.")
      : field("Request", request, "JSON or YAML, as the cases of a table of tests: request or action, principal, peer, route, context."));
  }

  async function pick() {
    const chosen = await Promise.all([...picker.files].slice(0, 16).map(async (f) => ({ name: f.name, text: await f.text() })));
    picker.value = "";
    if (chosen.length === 0) return;
    draft.files = chosen;
    draft.current = 0;
    drawFile();
  }

  async function go() {
    running?.abort();
    running = new AbortController();
    run.disabled = true;
    const request = { files: draft.files, entrypoint: draft.entrypoint };
    if (draft.kind === "recorded") request.decisionId = draft.decision;
    else request.request = draft.request;
    try {
      const res = await api.call("PolicyService/TryPolicy", request, running.signal);
      if (!closed) show(answer, verdict(res));
      say(res.problems ? "The draft has mistakes" : res.allowed ? "allow" : "deny");
    } catch (err) {
      const said = failed(err);
      if (said && !closed) show(answer, said);
    }
    run.disabled = false;
  }

  const onKey = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) go();
  };
  root.addEventListener("keydown", onKey);

  show(root, h("div", { class: "desk" },
    h("section", { class: "panel" },
      h("div", { class: "bar" }, h("h2", null, "Draft"), h("span", { class: "gap" }), h("button", { type: "button", on: { click: () => picker.click() } }, "Open files…"), picker),
      tabs, h("div", { class: "pair" }, field("File", name), field("Rule that decides", entrypoint)), text),
    h("div", { class: "stack" },
      h("section", { class: "panel" },
        h("div", { class: "bar" }, h("h2", null, "Question"), h("span", { class: "gap" }),
          choice("Question", [["recorded", "A decision"], ["written", "A request"]], draft.kind, (kind) => { draft.kind = kind; drawQuestion(); })),
        ask, h("div", { class: "actions" }, run)),
      answer)));

  async function begin() {
    if (draft.files === null) {
      try {
        draft.entrypoint = (await api.call("PolicyService/GetPolicy")).entrypoint ?? "";
      } catch { /* the server's default will do */ }
      draft.entrypoint ||= "data.postern.authz.decision";
      draft.files = [{ name: "authz.rego", text: sample(draft.entrypoint) }];
    }
    if (closed) return;
    entrypoint.value = draft.entrypoint;
    drawFile();
    drawQuestion();
    if (draft.kind === "recorded" && draft.decision) run.focus();
  }
  begin();
  return () => { closed = true; running?.abort(); root.removeEventListener("keydown", onKey); };
}

function verdict(res) {
  const times = h("p", { class: "muted" }, `compiled in ${duration(seconds(res.compileTime))}`, res.decideTime && seconds(res.decideTime) > 0 && `, decided in ${duration(seconds(res.decideTime))}`);
  if (res.problems?.length) {
    return [h("h2", { class: "deny" }, "The draft has mistakes"), h("ul", { class: "problems" }, res.problems.map((p) =>
      h("li", null, p.file && h("code", { class: "place" }, [p.file, p.line, p.column].filter(Boolean).join(":")), h("span", null, p.text))))];
  }
  const then = res.recorded;
  return [
    res.fault ? [h("h2", { class: "deny" }, h("span", { class: "verdict" }, "fault"), " 503"), problem(`The draft gave no answer: ${res.fault}`)]
      : h("h2", { class: res.allowed ? "allow" : "deny" }, h("span", { class: "verdict" }, res.allowed ? "allow" : "deny"), " ", res.status ?? "", " ", h("span", { class: "mono" }, reason(res.reason))),
    res.message && !res.allowed && h("p", null, res.message),
    then && h("p", null, "In force: ", h("b", { class: then.decision?.allowed ? "allow" : "deny" }, then.decision?.allowed ? "allow" : "deny"), " ", reason(then.decision?.reason),
      then.decision?.allowed === (res.allowed === true) ? ", the same." : h("b", null, ", this would change.")),
    then && h("p", { class: "request mono" }, asked(then), " by ", who(then.principal)),
    res.notRecorded?.length > 0 && h("div", { class: "caution" }, h("p", null, "The draft can read what was not recorded. With it, the answer could be another:"), h("p", { class: "mono" }, res.notRecorded.join(", "))),
    facts([["Missing", [...(res.missingPermissions ?? []), ...(res.missingScopes ?? [])].join(", ")]]),
    grounds(res.grounds),
    res.warnings?.length > 0 && [h("h3", null, "Warnings"), h("ul", { class: "plain" }, res.warnings.map((w) => h("li", { class: "mono" }, w)))],
    times,
  ];
}
