package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/door/connect"
)

// overHTTP serves the API as JSON, and a console of one word.
func overHTTP(c *admin.Config) {
	c.JSON = func(unary grpc.UnaryServerInterceptor, stream grpc.StreamServerInterceptor) admin.Calls {
		return connect.New(unary, 1<<20, nil, connect.JSONOnly(), connect.WithStreams(stream))
	}
	c.Console = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "console "+r.URL.Path) })
	c.Local, c.Hosts = true, []string{"postern.internal"}
}

const listCredentials = "/postern.admin.v1.CredentialService/ListCredentials"

// asking sends JSON as somebody. Fields are names and values; Host is one of them.
func (d *desk) asking(method, path, caller, body string, fields ...string) (int, map[string]any) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if caller != "" {
		req.Header.Set("X-Api-Key", caller)
	}
	for i := 0; i < len(fields); i += 2 {
		if fields[i] == "Host" {
			req.Host = fields[i+1]
		} else {
			req.Header.Set(fields[i], fields[i+1])
		}
	}
	res, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	for name := range res.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			d.t.Errorf("%s tells other origins something: %s", path, name)
		}
	}
	var answer map[string]any
	text, _ := io.ReadAll(res.Body)
	_ = json.Unmarshal(text, &answer)
	return res.StatusCode, answer
}

// JSON goes through the gate that gRPC goes through: who calls, what they may, what is
// noted of what they may not.
func TestJSONHasTheSameGate(t *testing.T) {
	t.Parallel()
	d := open(t, overHTTP)
	if status, answer := d.asking("POST", listCredentials, "", "{}"); status != 401 || answer["code"] != "unauthenticated" {
		t.Error("nobody:", status, answer)
	}
	if status, answer := d.asking("POST", listCredentials, "nonsense", "{}"); status != 401 || answer["code"] != "unauthenticated" {
		t.Error("a stranger:", status, answer)
	}
	if status, answer := d.asking("POST", listCredentials, "nobody", "{}"); status != 403 || answer["code"] != "permission_denied" || answer["details"] == nil {
		t.Error("somebody without a role:", status, answer)
	}
	if status, answer := d.asking("POST", listCredentials, "root", "{}"); status != 200 {
		t.Error("the administrator:", status, answer)
	}
	if status, answer := d.asking("POST", "/postern.admin.v1.TenantService/CreateTenant", "root", `{"tenant":{"id":"made"},"requestId":"not a uuid \u0000"}`); status != 400 {
		t.Error("a bad request id:", status, answer)
	}
	if status, answer := d.asking("POST", "/postern.admin.v1.Nothing/Here", "root", "{}"); status != 404 {
		t.Error("no such service:", status, answer)
	}
	_, trail := d.asking("POST", "/postern.admin.v1.AuditService/ListAuditEntries", "root", "{}")
	if text, _ := json.Marshal(trail); !strings.Contains(string(text), "credential.list") {
		t.Errorf("what was refused is not noted: %s", text)
	}
	// A credential that a browser adds by itself is none.
	d.asking("POST", listCredentials, "root", "{}", "Cookie", "session=1")
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.asked {
		if _, n := d.asked[i].Headers.Get("cookie"); n > 0 {
			t.Error("a cookie gets to the authenticators")
		}
	}
}

// ADMIN-05: what is not exactly one message of the method is refused, without much memory.
func TestJSONIsStrict(t *testing.T) {
	t.Parallel()
	d := open(t, overHTTP)
	for name, body := range map[string]string{
		"unknown field":      `{"pageSize":1,"page_sise":2}`,
		"duplicate field":    `{"pageSize":1,"pageSize":1}`,
		"both spellings":     `{"pageSize":1,"page_size":1}`,
		"trailing data":      `{"pageSize":1} x`,
		"two messages":       `{}{}`,
		"depth 100,000":      strings.Repeat(`{"a":`, 100_000),
		"deep lists":         strings.Repeat(`[`, 100_000),
		"deep, well-formed":  `{"states":` + strings.Repeat(`[`, 100_000) + strings.Repeat(`]`, 100_000) + `}`,
		"another type":       `{"pageSize":"many"}`,
		"out of range":       `{"pageSize":1e30}`,
		"no JSON":            `pageSize=1`,
		"invalid UTF-8":      "{\"pageToken\":\"\xff\"}",
		"a lone surrogate":   `{"pageToken":"\ud800"}`,
		"an unknown state":   `{"states":["CREDENTIAL_STATE_NONSENSE"]}`,
		"nothing":            ``,
		"a BOM":              "\ufeff{}",
		"a comment":          `{/**/}`,
		"a trailing comma":   `{"pageSize":1,}`,
		"duplicate in a map": `{"credential":{"metadata":{"a":1,"a":2}}}`,
	} {
		path := listCredentials
		if strings.Contains(body, "metadata") {
			path = "/postern.admin.v1.CredentialService/IssueCredential"
		}
		if status, answer := d.asking("POST", path, "root", body); status != 400 || answer["code"] != "invalid_argument" {
			t.Errorf("%s: %d %v", name, status, answer)
		}
	}
	if status, answer := d.asking("POST", listCredentials, "root", `{"pageToken":"`+strings.Repeat("x", 2<<20)+`"}`); status != 429 || answer["code"] != "resource_exhausted" {
		t.Error("too long:", status, answer)
	}
}

// What is too deep is found before anything is made of it.
func TestJSONDepthTakesNoMemory(t *testing.T) {
	m := connect.New(nil, 1<<20, nil, connect.JSONOnly())
	(&admin.Config{}).RegisterDecisions(m)
	body := []byte(strings.Repeat(`{"a":`, 100_000))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := httptest.NewRequest(http.MethodPost, "/postern.admin.v1.DecisionService/ListDecisions", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; w.Code != 400 || grown > 6*uint64(len(body)) { // the body itself, as io.ReadAll makes room for it
		t.Errorf("%d %s: %d bytes", w.Code, w.Body, grown)
	}
}

// ADMIN-07: what pages of others can make a browser send is refused.
func TestOtherOriginsAreRefused(t *testing.T) {
	t.Parallel()
	d := open(t, overHTTP)
	here := d.url
	for name, c := range map[string]struct {
		method string
		fields []string
		want   int
	}{
		"curl":                                 {"POST", nil, 200},
		"a page of its own":                    {"POST", []string{"Origin", "http://" + here, "Sec-Fetch-Site", "same-origin"}, 200},
		"under its name":                       {"POST", []string{"Host", "postern.internal:9192", "Origin", "http://postern.internal:9192"}, 200},
		"by localhost":                         {"POST", []string{"Host", "localhost:9192"}, 200},
		"by IPv6":                              {"POST", []string{"Host", "[::1]:9192"}, 200},
		"another origin":                       {"POST", []string{"Origin", "http://evil.test"}, 403},
		"another origin, plain text":           {"POST", []string{"Origin", "http://evil.test", "Content-Type", "text/plain"}, 403},
		"no origin, plain text":                {"POST", []string{"Content-Type", "text/plain"}, 415},
		"a form":                               {"POST", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415},
		"protobuf":                             {"POST", []string{"Content-Type", "application/proto"}, 415},
		"another port":                         {"POST", []string{"Origin", "http://127.0.0.1:1"}, 403},
		"another scheme":                       {"POST", []string{"Origin", "https://" + here}, 403},
		"a sandboxed frame":                    {"POST", []string{"Origin", "null"}, 403},
		"cross-site":                           {"POST", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"same-site":                            {"POST", []string{"Sec-Fetch-Site", "same-site"}, 403},
		"cross-site that claims to be a visit": {"POST", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 403},
		"rebound":                              {"POST", []string{"Host", "evil.test"}, 421},
		"rebound, same origin":                 {"POST", []string{"Host", "evil.test:9192", "Origin", "http://evil.test:9192", "Sec-Fetch-Site", "same-origin"}, 421},
		"rebound below localhost":              {"POST", []string{"Host", "localhost.evil.test"}, 421},
		"rebound with the name in front":       {"POST", []string{"Host", "postern.internal.evil.test"}, 421},
		"another machine's address":            {"POST", []string{"Host", "192.0.2.1"}, 421},
		"an address that looks like a name":    {"POST", []string{"Host", "127.0.0.1.nip.io"}, 421},
		"GET":                                  {"GET", nil, 405},
		"GET with a query":                     {"GET", []string{"Connect-Protocol-Version", "1"}, 405},
		"HEAD":                                 {"HEAD", nil, 405},
		"PUT":                                  {"PUT", nil, 405},
		"a preflight":                          {"OPTIONS", []string{"Origin", "http://evil.test", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type"}, 403},
		"a method in a header":                 {"GET", []string{"X-Http-Method-Override", "POST"}, 405},
	} {
		if status, answer := d.asking(c.method, listCredentials, "root", "{}", c.fields...); status != c.want {
			t.Errorf("%s: %d %v, want %d", name, status, answer, c.want)
		}
	}
	// The console may be visited by a link, and used by nobody else's page.
	for name, c := range map[string]struct {
		path   string
		fields []string
		want   int
	}{
		"a visit":         {"/console/", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 200},
		"typed":           {"/console/", []string{"Sec-Fetch-Site", "none"}, 200},
		"its own script":  {"/console/app.js", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		"the root":        {"/", nil, 302},
		"a frame":         {"/console/", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, 403},
		"others' scripts": {"/console/app.js", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "script"}, 403},
		"rebound":         {"/console/", []string{"Host", "evil.test"}, 421},
	} {
		if status, _ := d.asking("GET", c.path, "", "", c.fields...); status != c.want {
			t.Errorf("%s: %d, want %d", name, status, c.want)
		}
	}
}

// A listener that others reach answers to its addresses and to the names that it is given.
func TestHostsOfAPublicListener(t *testing.T) {
	t.Parallel()
	d := open(t, overHTTP, func(c *admin.Config) { c.Local = false })
	for host, want := range map[string]int{"192.0.2.1:9192": 200, "POSTERN.internal.": 200, "localhost": 200, "evil.test": 421, "": 200} {
		if status, answer := d.asking("POST", listCredentials, "root", "{}", "Host", host); status != want { // "" is the address that was dialled
			t.Errorf("%q: %d %v", host, status, answer)
		}
	}
}
