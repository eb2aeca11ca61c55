// The admin API as JSON over HTTP (Connect's protocol), on the origin that the page came
// from. The credential lives in one variable of this module, and goes nowhere but into the
// header Authorization.

let credential = "";

export function signIn(text) { credential = text; }
export function signOut() { credential = ""; }
export function isSignedIn() { return credential !== ""; }

// publicID is the part of a key of Postern's that is no secret: pst_key_<id>_<secret>.
export function publicID() {
  const found = /^[a-z][a-z0-9]*_[a-z]+(?:_[a-z0-9]+)?_([0-9A-Za-z]{12})_[0-9A-Za-z]+$/.exec(credential);
  return found ? found[1] : "";
}

// Refusal is an answer of the API that is a no: code is Connect's ("permission_denied").
export class Refusal extends Error {
  constructor(code, message) {
    super(message || code.replaceAll("_", " "));
    this.code = code;
  }
}

function send(method, type, body, signal) {
  return fetch("/postern.admin.v1." + method, {
    method: "POST", body, signal,
    headers: { "Content-Type": type, "Connect-Protocol-Version": "1", Authorization: "Bearer " + credential },
    mode: "same-origin", credentials: "same-origin", cache: "no-store", redirect: "error", referrerPolicy: "no-referrer",
  }).catch((err) => {
    if (err.name === "AbortError") throw err;
    throw new Refusal("unavailable", "The server does not answer.");
  });
}

async function refusal(res) {
  try {
    const said = await res.json();
    return new Refusal(String(said.code ?? "unknown"), String(said.message ?? ""));
  } catch {
    return new Refusal("unknown", `The server answered ${res.status}.`);
  }
}

// call makes one call: call("CredentialService/GetCredential", {id}).
export async function call(method, request = {}, signal) {
  const res = await send(method, "application/json", JSON.stringify(request), signal);
  if (!res.ok) throw await refusal(res);
  return res.json();
}

// stream calls a method that answers with a stream, and hands on each message.
export async function stream(method, request, take, signal) {
  const question = new TextEncoder().encode(JSON.stringify(request));
  const envelope = new Uint8Array(5 + question.length);
  new DataView(envelope.buffer).setUint32(1, question.length);
  envelope.set(question, 5);
  const res = await send(method, "application/connect+json", envelope, signal);
  if (!res.ok || !res.body) throw await refusal(res);
  const reader = res.body.getReader();
  const decoder = new TextDecoder();
  let rest = new Uint8Array(0);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return; // cut off; an ended stream says so
    rest = joined(rest, value);
    while (rest.length >= 5) {
      const size = new DataView(rest.buffer, rest.byteOffset).getUint32(1);
      if (rest.length < 5 + size) break;
      const message = JSON.parse(decoder.decode(rest.subarray(5, 5 + size)));
      if (rest[0] & 2) {
        if (message.error) throw new Refusal(String(message.error.code), String(message.error.message ?? ""));
        return;
      }
      rest = rest.slice(5 + size);
      take(message);
    }
  }
}

function joined(a, b) {
  if (a.length === 0) return b;
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

// readiness is what /readyz says.
export async function readiness() {
  const res = await fetch("/readyz", { cache: "no-store", redirect: "error", mode: "same-origin" });
  return res.json();
}
