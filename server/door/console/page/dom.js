// Every element of the page is made here. Texts become text nodes, and nothing else: what
// a client has chosen (a path, a name) cannot become an element, and the page has no
// innerHTML. What would be invisible, or turn a line around, is written out.

const unseen = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

// plain writes out the characters that are not plainly visible. Tabs and ends of lines stay.
export function plain(text) {
  return String(text).replace(unseen, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
}

const svgNames = new Set(["svg", "path", "rect", "circle", "line", "g"]);

// h makes an element: h("p", {class: "note", on: {click: f}}, "text", child, [children]).
// Properties are attributes, but for: on (listeners), value, checked and disabled, which
// are set as what they are; false and null are left out.
export function h(name, properties, ...children) {
  const e = svgNames.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") {
      for (const [event, listener] of Object.entries(value)) e.addEventListener(event, listener);
    } else if (key === "value" || key === "checked" || key === "disabled") {
      e[key] = value;
    } else {
      e.setAttribute(key, value === true ? "" : plain(value));
    }
  }
  fill(e, ...children);
  return e;
}

// fill puts children into an element, after what is there.
export function fill(e, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    e.append(child instanceof Node ? child : document.createTextNode(plain(child)));
  }
  return e;
}

// show puts children into an element, in the place of what is there.
export function show(e, ...children) {
  e.replaceChildren();
  return fill(e, ...children);
}

// say tells those who listen to the page instead of looking at it.
export function say(text) {
  document.getElementById("said").textContent = plain(text);
}

// facts makes a list of names and values; those without a value are left out.
export function facts(list) {
  return h("dl", { class: "facts" }, list
    .filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false)
    .map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
}

// field is a labelled control.
export function field(label, control, hint) {
  return h("label", { class: "field" }, h("span", { class: "label" }, label), control, hint && h("span", { class: "hint" }, hint));
}

// choice is a group of buttons of which one is on.
export function choice(label, options, current, chosen) {
  const buttons = options.map(([value, text]) => h("button", {
    type: "button", "aria-pressed": String(value === current),
    on: { click: (event) => {
      for (const b of buttons) b.setAttribute("aria-pressed", String(b === event.currentTarget));
      chosen(value);
    } },
  }, text));
  return h("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}

// select is a control with values, and texts for them.
export function select(properties, list) {
  return h("select", properties, list.map(([value, text]) => h("option", { value }, text)));
}

// arrows lets the rows of a table be gone through with the arrows; Enter opens one.
export function arrows(table, body, open) {
  table.addEventListener("keydown", (event) => {
    const tr = event.target.closest("tbody tr");
    if (!tr) return;
    const to = { ArrowDown: tr.nextElementSibling, ArrowUp: tr.previousElementSibling, Home: body.firstElementChild, End: body.lastElementChild }[event.key];
    if (to) {
      tr.setAttribute("tabindex", "-1");
      to.setAttribute("tabindex", "0");
      to.focus();
      event.preventDefault();
    } else if (event.key === "Enter") {
      open(tr.dataset.id);
    }
  });
}

// dialog asks something in front of the page. It is gone when it is closed, with all that
// stood in it.
export function dialog(title, ...children) {
  const d = h("dialog", { "aria-label": title, on: { close: () => d.remove() } }, h("h2", null, title), children);
  document.body.append(d);
  d.showModal();
  return d;
}

// problem is an error in words.
export function problem(text) {
  return h("p", { class: "problem", role: "alert" }, text);
}
