// Credentials in the store: what there is, and what may be done with one.
import * as api from "./api.js";
import { arrows, dialog, facts, field, h, problem, say, select, show } from "./dom.js";
import { ago, list, moment, word } from "./words.js";

const state = (c) => word(c.state, "CREDENTIAL_STATE_");
const sorts = { CREDENTIAL_TYPE_API_KEY: "API key", CREDENTIAL_TYPE_PERSONAL_ACCESS_TOKEN: "personal token", CREDENTIAL_TYPE_TOKEN: "agent token" };
const lasting = ["active", "pending", "rotating", "disabled"];
const days = (n) => `${n * 86400}s`;

export function open(root, { failed }) {
  let all = [], next = "", chosen = null, text = "", closed = false;

  const body = h("tbody");
  const more = h("button", { type: "button", hidden: true, on: { click: () => load(next) } }, "Show more");
  const note = h("div");
  const side = h("aside", { class: "side", hidden: true, "aria-label": "Credential" });
  const states = select({ "aria-label": "State", on: { change: () => load() } }, [
    ["", "Every state"], ["ACTIVE", "Active"], ["ROTATING", "Rotating"], ["PENDING", "Pending"], ["DISABLED", "Disabled"], ["ROTATED", "Rotated"], ["EXPIRED", "Expired"], ["REVOKED", "Revoked"]]);
  const table = h("table", { class: "lines credentials", role: "grid", "aria-label": "Credentials" },
    h("thead", null, h("tr", { role: "row" }, ["Name", "Principal", "Type", "State", "Last use", "Expires", "Roles"].map((t) => h("th", { scope: "col" }, t)))), body);
  const empty = h("p", { class: "empty", hidden: true }, "There are no credentials.");

  show(root,
    h("div", { class: "tools" },
      h("input", { type: "search", placeholder: "Filter by name, id, principal, role…", "aria-label": "Filter", on: { input: (e) => { text = e.target.value.trim().toLowerCase(); paint(); } } }),
      states, h("span", { class: "gap" }), h("button", { type: "button", class: "primary", on: { click: create } }, "New credential")),
    note, h("div", { class: "split" }, h("div", { class: "scroll" }, table, empty, more), side));

  async function load(token = "") {
    const request = { pageSize: 200, pageToken: token };
    if (states.value) request.states = ["CREDENTIAL_STATE_" + states.value];
    try {
      const res = await api.call("CredentialService/ListCredentials", request);
      if (closed) return;
      all = (token ? all : []).concat(res.credentials ?? []);
      next = res.nextPageToken ?? "";
      show(note);
    } catch (err) {
      show(note, failed(err));
    }
    paint();
  }

  function matches(c) {
    return !text || [c.id, c.displayName, c.principalId, c.tenant, state(c), ...(c.roles ?? []), ...(c.scopes ?? [])].some((part) => String(part ?? "").toLowerCase().includes(text));
  }

  function paint() {
    const rows = all.filter(matches).map(line);
    body.replaceChildren(...rows);
    rows.forEach((tr, i) => tr.setAttribute("tabindex", i === 0 ? "0" : "-1"));
    table.hidden = rows.length === 0;
    empty.hidden = rows.length > 0;
    more.hidden = next === "";
  }

  function line(c) {
    return h("tr", { role: "row", "data-id": c.id, class: lasting.includes(state(c)) ? (c.id === chosen ? "chosen" : null) : "over" + (c.id === chosen ? " chosen" : ""), on: { click: () => choose(c) } },
      h("td", { class: "name" }, h("span", null, c.displayName || "unnamed"), h("span", { class: "mono muted" }, c.id)),
      h("td", { class: "mono" }, (c.tenant ? c.tenant + "/" : "") + c.principalId),
      h("td", { class: "muted" }, sorts[c.type] ?? ""),
      h("td", null, badge(c)),
      h("td", { class: "muted", title: moment(c.lastUseTime) }, c.lastUseTime ? ago(c.lastUseTime) : "never"),
      h("td", { class: "muted", title: moment(c.expireTime) }, c.expireTime ? ago(c.expireTime) : "never"),
      h("td", { class: "muted roles" }, (c.roles ?? []).join(", ")));
  }

  arrows(table, body, (id) => choose(all.find((c) => c.id === id)));

  function choose(c) {
    chosen = c.id;
    paint();
    side.hidden = false;
    const bounds = c.constraints ?? {};
    const still = lasting.includes(state(c));
    show(side,
      h("button", { type: "button", class: "quiet close", "aria-label": "Close", on: { click: closeSide } }, "✕"),
      h("h2", null, c.displayName || "unnamed"),
      h("p", null, badge(c), " ", h("span", { class: "mono muted" }, c.id)),
      c.endedReason && h("p", { class: "muted" }, `Ended: ${c.endedReason}`),
      facts([
        ["Principal", h("span", { class: "mono" }, (c.tenant ? c.tenant + "/" : "") + c.principalId)], ["Type", sorts[c.type]], ["Environment", c.environment],
        ["Roles", (c.roles ?? []).join(", ")], ["Scopes", (c.scopes ?? []).join(", ")], ["Permissions", (c.permissions ?? []).join(", ")],
        ["Networks", (bounds.networks ?? []).join(", ")], ["Methods", (bounds.methods ?? []).join(", ")], ["Hosts", (bounds.hosts ?? []).join(", ")], ["Paths", (bounds.paths ?? []).join(", ")],
        ["Last use", c.lastUseTime ? `${moment(c.lastUseTime)}, ${ago(c.lastUseTime)}` : "never"], ["Issued", c.createTime && `${moment(c.createTime)} by ${(c.issuedBy || "nobody known").replace(/^\//, "")}`],
        ["Not before", moment(c.notBefore)], ["Expires", c.expireTime ? `${moment(c.expireTime)}, ${ago(c.expireTime)}` : "never"],
        ["Grace ends", moment(c.graceEndTime)], ["Successor", c.successorId && h("span", { class: "mono" }, c.successorId)],
      ]),
      still && h("div", { class: "actions" },
        h("button", { type: "button", on: { click: () => rotate(c) } }, "Rotate…"),
        h("button", { type: "button", class: "danger", on: { click: () => revoke(c) } }, "Revoke…")));
    say(`Credential ${c.displayName || c.id}`);
  }

  function closeSide() {
    side.hidden = true;
    chosen = null;
    paint();
  }
  side.addEventListener("keydown", (event) => { if (event.key === "Escape") closeSide(); });

  // ask is a dialog with a form that makes one call. The call has one request id, however
  // often it is tried.
  function ask(title, verb, tone, children, send, done) {
    const error = h("div");
    const requestId = crypto.randomUUID();
    const button = h("button", { type: "submit", class: tone }, verb);
    const d = dialog(title, h("form", { on: { submit: async (event) => {
      event.preventDefault();
      button.disabled = true;
      show(error);
      try {
        const res = await send(requestId);
        d.close();
        done(res);
        await load();
      } catch (err) {
        show(error, failed(err) ?? problem(err.message));
        button.disabled = false;
      }
    } } }, children, error, h("div", { class: "actions" },
      h("button", { type: "button", class: "quiet", on: { click: () => d.close() } }, "Cancel"), button)));
    return d;
  }

  function create() {
    const input = (properties) => h("input", { type: "text", autocomplete: "off", spellcheck: "false", ...properties });
    const name = input({ name: "name", maxlength: 128, placeholder: "CI of the shop" });
    const principal = input({ name: "principal", required: true, placeholder: "ann, or a service" });
    const tenant = input({ name: "tenant", placeholder: "none" });
    const type = select({ name: "type" }, [["CREDENTIAL_TYPE_API_KEY", "API key"], ["CREDENTIAL_TYPE_PERSONAL_ACCESS_TOKEN", "Personal access token"]]);
    const ttl = select({ name: "ttl" }, [[days(90), "in 90 days"], [days(1), "in a day"], [days(7), "in 7 days"], [days(30), "in 30 days"], [days(365), "in a year"]]);
    const roles = input({ name: "roles", placeholder: "reader, writer" }), scopes = input({ name: "scopes" });
    ask("New credential", "Issue", "primary", [
      field("Name", name, "What it is for. Anybody who may list credentials sees it."), field("Principal", principal, "Who it stands for. It must be there."),
      h("div", { class: "pair" }, field("Tenant", tenant), field("Type", type)), h("div", { class: "pair" }, field("Roles", roles), field("Scopes", scopes)), field("Expires", ttl),
    ], (requestId) => api.call("CredentialService/IssueCredential", { requestId, credential: {
      displayName: name.value.trim(), principalId: principal.value.trim(), tenant: tenant.value.trim(), type: type.value, ttl: ttl.value, roles: list(roles.value), scopes: list(scopes.value),
    } }), (res) => hand(res, "The credential"));
  }

  function rotate(c) {
    const grace = select({ name: "grace" }, [["0s", "at once"], ["3600s", "in an hour"], [days(1), "in a day"], [days(7), "in 7 days"]]);
    grace.value = "3600s";
    ask(`Rotate ${c.displayName || c.id}`, "Rotate", "primary", [
      h("p", null, "A successor is issued with the same rights. The old secret goes on for a while, so that whoever uses it can change over."),
      field("The old one ends", grace),
    ], (requestId) => api.call("CredentialService/RotateCredential", { requestId, id: c.id, gracePeriod: grace.value }), (res) => {
      closeSide();
      hand(res, "The successor");
    });
  }

  function revoke(c) {
    const reason = h("input", { type: "text", name: "reason", required: true, maxlength: 256, autocomplete: "off", placeholder: "leaked in a log" });
    const successors = h("input", { type: "checkbox", name: "successors" });
    const sure = h("input", { type: "text", name: "sure", required: true, autocomplete: "off", spellcheck: "false", pattern: "revoke", title: "revoke" });
    ask(`Revoke ${c.displayName || c.id}`, "Revoke", "danger", [
      h("p", null, "It ends on every replica within a second, with the tokens that were made from it, and cannot be brought back."),
      field("Reason", reason, "Stays in the audit log."), c.successorId && h("label", { class: "check" }, successors, "Its successor as well"),
      field("To confirm, write revoke", sure),
    ], (requestId) => api.call("CredentialService/RevokeCredential", { requestId, id: c.id, reason: reason.value.trim(), successors: successors.checked }), () => {
      closeSide();
      say("Revoked");
    });
  }

  load();
  return () => { closed = true; };
}

function badge(c) {
  const s = state(c);
  return h("span", { class: `badge ${s === "active" ? "good" : ["revoked", "expired"].includes(s) ? "bad" : "plain"}` }, s);
}

// hand shows a secret, once. It is gone from the page with the dialog.
function hand(res, what) {
  const secret = h("input", { type: "text", readonly: true, class: "mono", "aria-label": "Secret", value: res.secret ?? "", on: { focus: (e) => e.target.select() } });
  const copy = h("button", { type: "button", on: { click: async () => {
    try {
      await navigator.clipboard.writeText(secret.value);
      copy.textContent = "Copied";
      say("Copied");
    } catch {
      secret.select(); // the browser does not let pages copy: the operator can
    }
  } } }, "Copy");
  const d = dialog("Keep the secret now",
    h("p", null, `${what} of ${res.credential.principalId} was issued. Its secret is not stored, and cannot be shown again.`),
    h("div", { class: "secret" }, secret, copy),
    h("div", { class: "actions" }, h("button", { type: "button", class: "primary", on: { click: () => d.close() } }, "I have kept it")));
  d.addEventListener("cancel", (event) => event.preventDefault()); // Escape would lose it
  d.addEventListener("close", () => { secret.value = ""; });
}
