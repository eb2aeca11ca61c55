package main

import (
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/door/console"
)

// launchConsole runs a server with a console, and a service "shop" that may read.
func launchConsole(t *testing.T) *replica {
	t.Helper()
	w := preparePlane(t, sqliteStore)
	w.write(t, "postern.yaml", w.read(t, "postern.yaml")+"admin_api: { console: true }\n")
	w.bootstrap(t)
	p := launch(t, w)
	p.service(t, "shop", "reader")
	return p
}

func (b *browser) signIn(p *replica, key string) {
	b.Helper()
	b.visit("http://" + p.admin + "/")
	b.fill("#credential", key)
	b.click("button[type=submit]")
	b.shows("the frame", `document.querySelector("nav")`)
}

// view goes to a view of the console.
func (b *browser) view(name string) {
	b.Helper()
	b.click(`nav a[href="#` + name + `"]`)
	b.shows(name, `document.querySelector('nav a[aria-current][href="#`+name+`"]')`)
}

// row waits for a line of a list that holds texts, and opens it.
func (b *browser) row(texts ...string) {
	b.Helper()
	const find = `[...document.querySelectorAll("tbody tr")].find(r => arguments[0].every(t => r.textContent.includes(t)))`
	b.shows(strings.Join(texts, " "), find, texts)
	b.js("("+find+").click()", texts)
	b.shows("the pane at the side", `document.querySelector("aside.side:not([hidden]) h2")`)
}

// The console in a real browser: decisions appear as they are made and can be explained; a
// key is made, rotated and revoked, and the doors know; a draft is asked.
func TestConsole(t *testing.T) {
	chromium(t)
	p := launchConsole(t)
	b := newBrowser(t)
	root := strings.TrimSpace(p.world.read(t, "admin.key"))

	// 1. Signing in. The page is for everybody, and what it shows is not.
	b.visit("http://" + p.admin + "/")
	wrong := root[:len(root)-8] + "AAAAAAAA"
	b.fill("#credential", wrong)
	b.click("button[type=submit]")
	b.says("The credential is not accepted")
	b.fill("#credential", root)
	b.press("#credential", "\ue007") // Enter
	b.shows("the live view", `document.querySelector(".live")`)

	// 2. A key, shown once.
	b.view("credentials")
	b.click(".tools button.primary")
	b.fill("dialog [name=name]", "the till")
	b.fill("dialog [name=principal]", "shop")
	b.click("dialog button[type=submit]")
	b.says("Keep the secret now")
	first := b.js(`return document.querySelector(".secret input").value`).(string)
	p.hide(first)
	b.click("dialog button.primary")
	b.shows("that the secret is gone", `!document.documentElement.outerHTML.includes(arguments[0])`, first[len(first)-20:])
	b.says("the till")

	// 3. Decisions appear, allows and denies, and a deny says why.
	b.view("live")
	p.expect(t, get("/items/1", "x-api-key", first), 200, "allowed")
	p.expect(t, get("/items/2", "x-api-key", first).with("DELETE"), 403, "permission_missing")
	const find = `[...document.querySelectorAll("tr.%")].some(r => r.textContent.includes(arguments[0]))`
	b.shows("the allow", strings.Replace(find, "%", "allow", 1), "api.test/items/1")
	b.shows("the deny", strings.Replace(find, "%", "deny", 1), "api.test/items/2")
	b.row("DELETE", "/items/2")
	for _, text := range []string{"A permission is missing.", "items.delete", "postern.lib/rbac.rego:", "input.principal.roles", "credential in header:x-api-key"} {
		b.says(text)
	}
	b.fill(".tools input", "nothing of the kind")
	b.says("Nothing matches the filter.")
	b.press(".tools input", "\ue009a\ue000\ue017") // Ctrl+A, Delete
	b.click(`.choice button:nth-child(2)`)
	b.shows("allows alone", `document.querySelector("tr.allow") && !document.querySelector("tr.deny")`)
	b.click(`.choice button:nth-child(1)`)

	// 4. A draft is asked about that deny.
	b.row("DELETE", "/items/2")
	b.click("aside.side p button")
	b.shows("the playground", `document.querySelector(".desk .field input[placeholder]")?.value`)
	draft := func(text string) {
		b.Helper()
		b.js(`const e = document.querySelector(".desk textarea"); e.value = arguments[0]; e.dispatchEvent(new Event("input"))`, text)
		b.click(".desk .actions .primary")
	}
	draft("package postern.authz\n\ndecision := {\"allow\": \"reader\" in input.principal.roles}\n")
	b.says("this would change")
	draft("package postern.authz\n\ndecision := {\"allow\": http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1:1\"}).status_code == 200}\n")
	b.says("http.send")
	b.says("The draft has mistakes")
	p.expect(t, get("/items/2", "x-api-key", first).with("DELETE"), 403, "permission_missing") // no draft decides

	// 5. Rotated at once, the old secret ends; revoked, the new one does.
	b.view("credentials")
	b.row("the till", "active")
	b.click(".side .actions button:first-child")
	b.js(`document.querySelector("dialog [name=grace]").value = "0s"`)
	b.click("dialog button[type=submit]")
	b.says("Keep the secret now")
	second := b.js(`return document.querySelector(".secret input").value`).(string)
	p.hide(second)
	b.click("dialog button.primary")
	eventually(t, "the old secret is denied", func() bool { return p.ask(t, get("/items/1", "x-api-key", first)).status == 401 })
	eventually(t, "the new one is good", func() bool { return p.ask(t, get("/items/1", "x-api-key", second)).allowed() })
	b.row("the till", "active")
	b.click(".side .actions .danger")
	b.fill("dialog [name=reason]", "left in a taxi")
	b.fill("dialog [name=sure]", "revoke")
	b.click("dialog button[type=submit]")
	b.shows("that it is revoked", `[...document.querySelectorAll("tbody tr")].filter(r => r.textContent.includes("revoked")).length === 1`)
	eventually(t, "the new secret is denied", func() bool { return p.ask(t, get("/items/1", "x-api-key", second)).status == 401 })

	// 6. The policy in force.
	b.view("policy")
	b.says("data.postern.authz.decision")
	b.says("There is no policy in the shadow.")

	// 7. The credential is nowhere but in the page's memory, and goes with it.
	for _, place := range []string{
		"location.href", "document.cookie", "document.documentElement.outerHTML",
		"JSON.stringify({...localStorage})", "JSON.stringify({...sessionStorage})", "JSON.stringify(history.state)", "window.name",
	} {
		if text, _ := b.js("return String(" + place + ")").(string); strings.Contains(text, root[len(root)-20:]) {
			t.Errorf("%s holds the credential", place)
		}
	}
	if b.js("return localStorage.length + sessionStorage.length + document.cookie.length") != 0.0 {
		t.Error("the page stores something")
	}
	b.behaved("http://" + p.admin)
	b.call("POST", "/refresh", map[string]any{}, nil)
	b.shows("the page that asks for a credential", `document.querySelector("#credential") && !document.querySelector("nav")`)
}

// Whose credential was revoked sees nothing more.
func TestConsoleSignsOut(t *testing.T) {
	chromium(t)
	p := launchConsole(t)
	p.service(t, "helper", "platform-admin")
	id, key := p.key(t, "helper")
	b := newBrowser(t)
	b.signIn(p, key)
	b.view("policy") // which looks every few seconds
	b.says("data.postern.authz.decision")
	does(t, p.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id, Reason: "test"})
	b.says("You were signed out")
	b.shows("nothing else", `!document.querySelector("nav")`)
	b.behaved("http://" + p.admin)
}

// evil is what an attacker would like to see in a page.
const evil = `"><img src=x onerror="owned=1"><script>owned=1</script><svg onload=owned=1>{{7*7}}javascript:owned=1` + "\u202e\u0000"

// Whatever the server says is text: here each text of each answer is markup, and none of
// it becomes an element.
func TestConsoleEscapes(t *testing.T) {
	chromium(t)
	mux := http.NewServeMux()
	mux.Handle("GET /console/", http.StripPrefix("/console", console.Handler()))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"ready":false,"conditions":[{"name":"<img src=x onerror=owned=1>","ready":false,"detail":"<img src=x onerror=owned=1>"}]}`)
	})
	answer := func(m proto.Message) string {
		poison(m.ProtoReflect(), 0)
		text, err := protojson.Marshal(m)
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	for method, m := range map[string]proto.Message{
		"DecisionService/GetDecision": &adminv1.GetDecisionResponse{}, "DecisionService/ListShadowDifferences": &adminv1.ListShadowDifferencesResponse{},
		"PolicyService/GetPolicy": &adminv1.GetPolicyResponse{}, "PolicyService/TryPolicy": &adminv1.TryPolicyResponse{},
		"CredentialService/ListCredentials": &adminv1.ListCredentialsResponse{}, "CredentialService/GetCredential": &adminv1.GetCredentialResponse{},
		"CredentialService/RotateCredential": &adminv1.RotateCredentialResponse{},
	} {
		text := answer(m)
		mux.HandleFunc("POST /postern.admin.v1."+method, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
	}
	mux.HandleFunc("POST /postern.admin.v1.CredentialService/RevokeCredential", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"code":"<img src=x onerror=owned=1>","message":"no: <img src=x onerror=owned=1>"}`)
	})
	mux.HandleFunc("POST /postern.admin.v1.DecisionService/WatchDecisions", func(w http.ResponseWriter, r *http.Request) {
		text := answer(&adminv1.WatchDecisionsResponse{})
		_, _ = w.Write(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text))))
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	s := httptest.NewServer(mux)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() }) // when the browser has gone
	b := newBrowser(t)
	b.visit(s.URL + "/console/")
	b.fill("#credential", "a-key")
	b.click("button[type=submit]")
	const literal = `"><img src=x onerror="owned=1">`
	clean := func(where string) {
		b.Helper()
		b.shows(where+": the text as it is", "document.body.innerText.includes(arguments[0])", literal)
		if n := b.js(`return document.querySelectorAll("img, iframe, object, body script, [onerror], [onload], a:not(header a), svg svg").length`); n != 0.0 {
			t.Errorf("%s: %v elements were made of texts", where, n)
		}
		if owned := b.js("return String(window.owned)"); owned != "undefined" {
			t.Errorf("%s: what a text says was run", where)
		}
		if b.js(`return /[\u202e\u0000]/.test(document.body.innerText)`) != false {
			t.Errorf("%s: a text turns its line around", where)
		}
	}
	clean("live")
	b.row(literal)
	clean("explanation")
	b.view("credentials")
	clean("credentials")
	b.row(literal)
	clean("credential")
	b.click(".side .actions .danger")
	b.fill("dialog [name=reason]", "x")
	b.fill("dialog [name=sure]", "revoke")
	b.click("dialog button[type=submit]")
	b.says("no: <img src=x onerror=owned=1>")
	clean("refusal")
	b.click("dialog .quiet")
	b.click(".side .actions button:first-child")
	b.click("dialog button[type=submit]")
	b.says("Keep the secret now")
	clean("secret")
	b.click("dialog button.primary")
	b.view("policy")
	clean("policy")
	b.view("playground")
	b.click(".desk .actions .primary")
	clean("draft")
	b.behaved(s.URL)
}

// poison fills every field of a message, and every text with what is evil.
func poison(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case depth > 5 || fd.IsMap() || fd.ContainingOneof() != nil && fd.ContainingOneof().Fields().Len() > 1 && fd.ContainingOneof().Fields().Get(0) != fd:
		case fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Struct":
		case fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Timestamp":
			if !fd.IsList() {
				m.Set(fd, protoreflect.ValueOfMessage(timestamppb.Now().ProtoReflect()))
			}
		case fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Duration":
			m.Set(fd, protoreflect.ValueOfMessage(durationpb.New(1e6).ProtoReflect()))
		case fd.Message() != nil && fd.IsList():
			item := m.Mutable(fd).List().AppendMutable()
			poison(item.Message(), depth+1)
		case fd.Message() != nil:
			poison(m.Mutable(fd).Message(), depth+1)
		case fd.IsList():
			if v := evilValue(fd); v.IsValid() {
				m.Mutable(fd).List().Append(v)
			}
		default:
			if v := evilValue(fd); v.IsValid() {
				m.Set(fd, v)
			}
		}
	}
}

func evilValue(fd protoreflect.FieldDescriptor) (v protoreflect.Value) {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(evil)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.BoolKind:
		return v // so that everything is shown
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(7)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(7)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(7)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(7)
	}
	return v
}
