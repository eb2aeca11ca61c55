// The frame of the page: signing in, the views, and what holds for all of them.
import * as api from "./api.js";
import { fill, h, problem, say, show } from "./dom.js";
import * as live from "./live.js";
import * as credentials from "./credentials.js";
import * as policy from "./policy.js";
import * as playground from "./playground.js";

const views = [["live", "Live", live], ["credentials", "Credentials", credentials], ["policy", "Policy", policy], ["playground", "Playground", playground]];

const app = document.getElementById("app");
let leave = () => {}; // ends the view that is shown
let watchState = 0;

const mark = () => h("svg", { class: "mark", viewBox: "0 0 24 24", "aria-hidden": "true" },
  h("path", { class: "wall", d: "M3 22V11a9 9 0 0 1 18 0v11z" }),
  h("path", { class: "door", d: "M7.5 22v-9a4.5 4.5 0 0 1 9 0v9z" }),
  h("circle", { class: "wall", cx: "14.2", cy: "16.5", r: "1.1" }));

// A credential must not cross a network in the clear. The server would refuse it, but
// only after it was sent. (Pages of this machine are secure without HTTPS.)
const secure = window.isSecureContext;

function signInPage(said) {
  leave();
  leave = () => {};
  clearInterval(watchState);
  const input = h("input", {
    type: "password", id: "credential", autocomplete: "off", autocapitalize: "off", spellcheck: "false", required: true,
    placeholder: "pst_key_…", "aria-describedby": "kept", disabled: !secure,
  });
  const error = h("div");
  const button = h("button", { class: "primary", type: "submit", disabled: !secure }, "Sign in");
  const form = h("form", { class: "card", on: { submit: async (event) => {
    event.preventDefault();
    const text = input.value.trim();
    show(error);
    if (!/^[!-~]+$/.test(text)) return void show(error, problem("That is no key or token: it is empty, or holds spaces."));
    button.disabled = true;
    api.signIn(text);
    try {
      await api.call("PolicyService/GetPolicy");
    } catch (err) {
      if (err.code !== "permission_denied") { // that one is known, and may other things
        api.signOut();
        button.disabled = false;
        show(error, problem(why(err)));
        input.select();
        return;
      }
    }
    input.value = "";
    frame();
  } } },
  h("label", { for: "credential" }, "Admin credential"), input,
  h("p", { id: "kept", class: "hint" }, "Kept in the memory of this tab alone. Close or reload it, and you are signed out."),
  error, button);
  show(app, h("main", { class: "sign-in" },
    h("div", { class: "brand" }, mark(), h("h1", null, "Postern")),
    h("p", { class: "lead" }, "Who is calling, and may they? ", h("span", { class: "muted" }, location.host)),
    said && problem(said),
    !secure && problem("This page came over a network in the clear, where others could read a credential. Use HTTPS or a tunnel to this machine."),
    form,
    h("p", { class: "hint" }, "The first key is made by ", h("code", null, "postern store bootstrap"), ".")));
  input.focus();
}

const why = (err) => (err.code === "unauthenticated" ? `The credential is not accepted: ${err.message}` : err.message);

// failed is called by views with errors that they cannot deal with. A credential that no
// longer counts ends everything.
function failed(err) {
  if (err.name === "AbortError") return null;
  if (err.code === "unauthenticated") {
    end("You were signed out: " + err.message);
    return null;
  }
  return problem(err.message);
}

function end(said) {
  api.signOut();
  document.querySelectorAll("dialog").forEach((d) => d.close());
  signInPage(said);
}

function frame() {
  const state = h("span", { class: "state" });
  const name = h("span", { class: "who", title: "You are signed in with this credential" }, api.publicID() || "signed in");
  const nav = h("nav", { "aria-label": "Views" }, views.map(([id, text]) => h("a", { href: "#" + id }, text)));
  const main = h("main", { id: "main", tabindex: "-1" });
  show(app,
    h("header", null, h("a", { class: "brand", href: "#live", "aria-label": "Postern" }, mark(), h("strong", null, "Postern")), nav,
      h("div", { class: "session" }, state, name,
        h("button", { type: "button", class: "quiet", on: { click: () => end() } }, "Sign out"))),
    main);
  const look = async () => {
    let ready = null;
    try {
      ready = await api.readiness();
    } catch { /* shown as it is */ }
    const text = ready === null ? "no answer" : ready.ready ? "ready" : "not ready";
    const wrong = (ready?.conditions ?? []).filter((c) => !c.ready).map((c) => c.name).join(", ");
    show(state, h("i", { class: ready?.ready ? "dot good" : "dot bad" }), text, wrong && `: ${wrong}`);
  };
  look();
  watchState = setInterval(look, 5000);
  nameOf(name);
  const go = () => {
    const id = location.hash.slice(1);
    const [found, text, view] = views.find(([known]) => known === id) ?? views[0];
    for (const a of nav.children) {
      if (a.getAttribute("href") === "#" + found) a.setAttribute("aria-current", "page");
      else a.removeAttribute("aria-current");
    }
    leave();
    document.title = `${text} · Postern`;
    show(main);
    say(text);
    leave = view.open(main, { failed, go: (to) => { location.hash = to; } }) ?? (() => {});
  };
  onhashchange = () => api.isSignedIn() && go();
  go();
}

// nameOf says whose the credential is, where the store knows it.
async function nameOf(e) {
  const id = api.publicID();
  if (!id) return;
  try {
    const { credential } = await api.call("CredentialService/GetCredential", { id });
    show(e, `${credential.tenant ? credential.tenant + "/" : ""}${credential.principalId}`);
  } catch { /* a key of the keys file is in no store */ }
}

addEventListener("pagehide", () => api.signOut()); // also where the browser keeps pages alive
addEventListener("pageshow", (event) => { if (event.persisted) end(); });
fill(app);
signInPage();
