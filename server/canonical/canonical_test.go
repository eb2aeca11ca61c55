package canonical_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/canonical"
)

// read returns the reading of a, which must be accepted.
func read(t *testing.T, r *canonical.Reader, a *policy.Attributes) policy.Request {
	t.Helper()
	var q policy.Request
	if err := r.Read(a, &q); err != nil {
		t.Fatalf("%s %q: %v", a.Method, a.Path, err)
	}
	return q
}

// refuse checks that a is refused with a detail that holds the text.
func refuse(t *testing.T, r *canonical.Reader, a *policy.Attributes, reason policy.Reason, text string) {
	t.Helper()
	q := policy.Request{Method: "LEFT", Path: "/left", Plaintext: true}
	err := r.Read(a, &q)
	if err == nil {
		t.Errorf("%+v: accepted as %+v", a, q)
		return
	}
	checkRefusal(t, err)
	if refusal := err.(*canonical.Refusal); refusal.Reason != reason || !strings.Contains(refusal.Detail, text) {
		t.Errorf("%+v: got %v %q, want %v %q", a, refusal.Reason, refusal.Detail, reason, text)
	}
	if q.Method != "" || q.Path != "" || q.Plaintext || len(q.Segments) > 0 {
		t.Errorf("%+v: refused, but filled: %+v", a, q)
	}
}

func TestOrdinaryPaths(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{})
	for target, want := range map[string]string{
		"/":                      "/",
		"/a":                     "/a",
		"/a/":                    "/a/",
		"/a//b":                  "/a/b",
		"/a//":                   "/a/",
		"/a;v=1/b;w":             "/a/b",
		"/a/;jsessionid=1":       "/a/",
		"/api/v1/users/42":       "/api/v1/users/42",
		"/@user/repo:tag":        "/@user/repo:tag",
		"/a,b+c~d=e!f$g&h'(i)*":  "/a,b+c~d=e!f$g&h'(i)*",
		"/a%20b/c%2Cd":           "/a b/c,d",
		"/a%3Bb":                 "/a;b",
		"/100%25":                "/100%",
		"/100%25%20sure":         "/100% sure",
		"/%7Euser":               "/~user",
		"/caf%C3%A9":             "/caf\u00e9",
		"/cafe%CC%81":            "/cafe\u0301",
		"/%E6%97%A5%E6%9C%AC":    "/\u65e5\u672c",
		"/%EF%BC%A1":             "/\uff21",
		"/%F0%9F%98%80":          "/\U0001f600",
		"/%E4%BD%95%EF%BC%9F":    "/\u4f55\uff1f",
		"/.well-known/jwks.json": "/.well-known/jwks.json",
		"/..hidden":              "/..hidden",
		"/v1.2/a..b":             "/v1.2/a..b",
		"/pkg.Service/Method":    "/pkg.Service/Method",
		"/items[0]/{x}|y^z\"<>`": "/items[0]/{x}|y^z\"<>`",
		"/a?b=/../c&d=%2e%2e%2f": "/a",
	} {
		var q policy.Request
		if err := r.Read(get(target), &q); err != nil || q.Path != want {
			t.Errorf("%q: got %q, %v, want %q", target, q.Path, err, want)
		}
		checkPath(t, r, target)
	}
	q := read(t, r, get("/a/b/?x=1?y=2"))
	if want := []string{"a", "b", ""}; !slices.Equal(q.Segments, want) || q.Query != "x=1?y=2" {
		t.Errorf("got %q ? %q", q.Segments, q.Query)
	}
}

func TestRefusedPaths(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{})
	for target, detail := range map[string]string{
		"":                  "missing",
		"*":                 "start",
		"a":                 "start",
		"http://h/a":        "start",
		"//h/a":             "another host",
		"/a#b":              "character",
		"/a b":              "character",
		"/a\\b":             "character",
		"/caf\u00e9":        "character",
		"/a\x00":            "character",
		"/%":                "malformed",
		"/%2":               "malformed",
		"/%zz":              "malformed",
		"/%u002e":           "malformed",
		"/%00":              "control",
		"/%7f":              "control",
		"/%c2%85":           "control",
		"/a%e2%80%a8b":      "control",
		"/%ef%bf%bd":        "control",
		"/%ef%bf%bf":        "control",
		"/a%e2%80%aeb":      "direction",
		"/%ff":              "UTF-8",
		"/%c0%ae":           "UTF-8",
		"/%ed%a0%80":        "UTF-8",
		"/a%2fb":            "encoded slash",
		"/a;x=%2f/b":        "encoded slash",
		"/a%5cb":            "backslash",
		"/a%3fb":            "delimiter",
		"/a%23b":            "delimiter",
		"/%2541":            "second layer",
		"/%25u0041":         "second layer",
		"/%ef%bc%8541":      "second layer",
		"/.":                "dot segment",
		"/..":               "dot segment",
		"/...":              "dot segment",
		"/a/../b":           "dot segment",
		"/a/%2e%2E/b":       "dot segment",
		"/a/..;x/b":         "dot segment",
		"/a/..%3bx/b":       "dot segment",
		"/a/..%20/b":        "dot segment",
		"/a/..+/b":          "dot segment",
		"/a/..:x/b":         "dot segment",
		"/a/%e2%80%a5/b":    "dot segment",
		"/a/.%e2%80%8b./b":  "dot segment",
		"/a/..%c2%a5b":      "dot segment",
		"/a/%ef%bc%8fb":     "disguise",
		"/a%e2%88%95b":      "slash",
		"/a.":               "ends with",
		"/a%20":             "ends with",
		"/%20a":             "starts with",
		"/a%c2%a0":          "ends with",
		"/a%e3%80%80/b":     "ends with",
		"/a.;x":             "ends with",
		"/a%20%3bx":         "ends with",
		"/;x/a":             "parameters only",
		"/%3bx":             "parameters only",
		"/%e2%80%8b":        "invisible",
		"/a?b c":            "query",
		"/a?\u00e9":         "query",
		"/a?b#c":            "query",
		"/a?_method=DELETE": "overridden",
	} {
		refuse(t, r, get(target), policy.ReasonRequestInvalid, detail)
	}
}

func TestRepairsThatAreOffRefuse(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{Paths: canonical.PathConfig{MergeSlashes: new(false), StripParameters: new(false)}})
	refuse(t, r, get("/a//b"), policy.ReasonRequestInvalid, "empty segment")
	refuse(t, r, get("/a//"), policy.ReasonRequestInvalid, "empty segment")
	refuse(t, r, get("/a;v=1"), policy.ReasonRequestInvalid, "parameters")
	if q := read(t, r, get("/a/b/")); q.Path != "/a/b/" {
		t.Errorf("got %q", q.Path)
	}
}

func TestEncodedSlash(t *testing.T) {
	t.Parallel()
	keep := newReader(t, canonical.Config{Paths: canonical.PathConfig{EncodedSlash: canonical.EncodedSlashKeep}})
	decode := newReader(t, canonical.Config{Paths: canonical.PathConfig{EncodedSlash: canonical.EncodedSlashDecode}})
	if q := read(t, keep, get("/a%2fb/c%20d")); q.Path != "/a%2Fb/c d" || !slices.Equal(q.Segments, []string{"a%2Fb", "c d"}) {
		t.Errorf("keep: got %q %q", q.Path, q.Segments)
	}
	if got := canonical.Fold("/Admin%2Fusers"); got != "/admin/users" {
		t.Errorf("fold of a kept slash: %q", got)
	}
	if q := read(t, decode, get("/a%2fb%2F/c")); q.Path != "/a/b/c" {
		t.Errorf("decode: got %q", q.Path)
	}
	for _, target := range []string{"/a/..%2fb", "/a%2f%2e%2e%2Fb", "/a%2f", "/%2fa", "/a%2f%2fb", "/a;x%2fb", "/a%252fb", "/a%2f..%3bx"} {
		refuse(t, keep, get(target), policy.ReasonRequestInvalid, "path: ")
	}
	for _, target := range []string{"/a/..%2fb", "/%2fa", "/a%252fb", "/a%2f..;x%2fb"} {
		refuse(t, decode, get(target), policy.ReasonRequestInvalid, "path: ")
	}
}

func TestEncodedDelimiters(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{Paths: canonical.PathConfig{EncodedDelimiters: canonical.EncodedDelimitersDecode}})
	if q := read(t, r, get("/tags/c%23/why%3F?x=1")); q.Path != "/tags/c#/why?" || q.Query != "x=1" {
		t.Errorf("got %q ? %q", q.Path, q.Query)
	}
	refuse(t, r, get("/a/..%23/b"), policy.ReasonRequestInvalid, "dot segment")
}

func TestFold(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/admin":                     "/admin",
		"/Admin/USERS":               "/admin/users",
		"/\uff21dmin":                "/admin",
		"/adm\u0131n":                "/admin",
		"/adm\u00adin":               "/admin",
		"/\u212aey":                  "/key",
		"/u\u017fers":                "/users",
		"/admin;x/users":             "/admin/users",
		"/admin#/users":              "/admin/users",
		"/admin\uff1bx":              "/admin",
		"/caf\u00e9":                 "/caf\u00e9",
		"/cafe\u0301":                "/caf\u00e9",
		"/stra\u00dfe/\u1e9e":        "/stra\u00dfe/\u00df",
		"/\u03a3\u03c3\u03c2/\u0345": "/\u03c3\u03c3\u03c3/\u03b9",
		"/":                          "/",
		"":                           "",
	} {
		if got := canonical.Fold(path); got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{})
	for _, m := range []string{"GET", "get", "PROPFIND", "M-SEARCH", "FOO", "UPDATEREDIRECTREF"} {
		a := get("/")
		a.Method = m
		if q := read(t, r, a); q.Method != m {
			t.Errorf("%q became %q", m, q.Method)
		}
	}
	for _, m := range []string{"", "*", "PRI", "CONNECT", "connect", "GET ", " GET", "GET\x00", "GET\r\n", "G\u0395T", "GET/", "(GET)", strings.Repeat("A", 41)} {
		a := get("/")
		a.Method = m
		refuse(t, r, a, policy.ReasonRequestInvalid, "method: ")
	}
}

func TestMethodOverride(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{})
	post := func(query string, headers ...policy.Header) *policy.Attributes {
		return &policy.Attributes{Method: "POST", Scheme: "https", Host: "api.test", Path: "/a" + query, Headers: headers}
	}
	for _, a := range []*policy.Attributes{
		post("", policy.Header{Name: "x-http-method-override", Value: "POST"}),
		post("", policy.Header{Name: "x-http-method", Value: "post"}),
		post("?_method=post"), post("?a_method=DELETE"), post("?_methods=DELETE"), post("?x=_method"), post("?_method=%50OST"),
	} {
		read(t, r, a)
	}
	for _, a := range []*policy.Attributes{
		post("", policy.Header{Name: "x-http-method-override", Value: "DELETE"}),
		post("", policy.Header{Name: "x-http-method", Value: "DELETE"}),
		post("", policy.Header{Name: "x-method-override", Value: "DELETE"}),
		post("", policy.Header{Name: "x_http_method_override", Value: "DELETE"}),
		post("", policy.Header{Name: "x-method-override", Value: "POST, DELETE"}),
		post("", policy.Header{Name: "x-method-override", Value: "POST"}, policy.Header{Name: "x-http-method", Value: "DELETE"}),
		post("?_method=DELETE"), post("?a=1&_method=DELETE"), post("?a=1;_method=DELETE"), post("?%5Fmethod=DELETE"), post("?_METHOD=DELETE"),
		post("?_method[]=DELETE"), post("?_method%5b%5d=DELETE"), post("?.method=DELETE"), post("?+_method=DELETE"), post("?%20_method=DELETE"), post("?_method"), post("?_method=POST&_method=PUT"),
		post("?_method%00=DELETE"),
	} {
		refuse(t, r, a, policy.ReasonRequestInvalid, "overrid")
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{})
	type reading struct {
		host string
		port uint16
	}
	for text, want := range map[string]reading{
		"api.test":                           {"api.test", 0},
		"API.Test.":                          {"api.test", 0},
		"api.test:443":                       {"api.test", 0},
		"api.test:80":                        {"api.test", 80},
		"api.test.:8443":                     {"api.test", 8443},
		"my_service":                         {"my_service", 0},
		"xn--caf-dma.test":                   {"xn--caf-dma.test", 0},
		"10.0.0.1:65535":                     {"10.0.0.1", 65535},
		"1.2.3.test":                         {"1.2.3.test", 0},
		"[::1]":                              {"[::1]", 0},
		"[0:0::0001]:8443":                   {"[::1]", 8443},
		"[2001:DB8::1]":                      {"[2001:db8::1]", 0},
		strings.Repeat("a", 63) + ".test":    {strings.Repeat("a", 63) + ".test", 0},
		strings.Repeat("a.", 126) + "a":      {strings.Repeat("a.", 126) + "a", 0},
		strings.Repeat("a.", 126) + "a.:443": {strings.Repeat("a.", 126) + "a", 0},
	} {
		a := get("/")
		a.Host = text
		if q := read(t, r, a); q.Host != want.host || q.Port != want.port {
			t.Errorf("%q: got %q %d, want %v", text, q.Host, q.Port, want)
		}
		checkHost(t, r, text)
	}
	for _, text := range []string{
		"", ".", "..", "a..b", ".a", "a..", "a:", "a:0", "a:080", "a:65536", "a:+80", "a:1:2", "a@b", "a,b", "a b", "a\t", "a/b", `a\b`, "a?b", "a#b", "a%41", "\u00e9.test", "\uff41.test",
		"127.1", "0x7f.1", "2130706433", "0177.0.0.1", "256.1.1.1", "1.2.3.4.5", "a.0x", "[", "[]", "[::1", "::1", "[::1]a", "[::1]:", "[1.2.3.4]", "[fe80::1%25eth0]", "[v1.a]",
		strings.Repeat("a", 64) + ".test", strings.Repeat("a.", 127) + "a", strings.Repeat("a", 10000),
	} {
		a := get("/")
		a.Host = text
		refuse(t, r, a, policy.ReasonRequestInvalid, "host: ")
	}
}

func TestPseudoHeadersAgree(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{})
	with := func(headers ...policy.Header) *policy.Attributes {
		a := get("/a?b")
		a.Headers = headers
		return a
	}
	whole := policy.Headers{{Name: ":method", Value: "GET"}, {Name: ":path", Value: "/a?b"}, {Name: ":authority", Value: "API.test:443"}, {Name: ":scheme", Value: "HTTPS"}, {Name: "host", Value: "api.test."}}
	alone := &policy.Attributes{Headers: whole}
	for _, a := range []*policy.Attributes{with(), with(whole...), alone} {
		if q := read(t, r, a); q.Method != "GET" || q.Scheme != "https" || q.Host != "api.test" || q.Port != 0 || q.Path != "/a" || q.Query != "b" {
			t.Errorf("got %+v", q)
		}
	}
	for _, h := range []policy.Header{
		{Name: ":method", Value: "get"}, {Name: ":path", Value: "/a"}, {Name: ":path", Value: ""}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "b.test"},
		{Name: ":authority", Value: "api.test:444"}, {Name: ":authority", Value: ""}, {Name: "host", Value: "b.test"}, {Name: "host", Value: ""}, {Name: ":status", Value: "200"}, {Name: ":", Value: ""},
		{Name: "host", Value: "api.test,b.test"},
	} {
		refuse(t, r, with(h), policy.ReasonRequestInvalid, "")
	}
	refuse(t, r, with(policy.Header{Name: ":path", Value: "/a?b"}, policy.Header{Name: ":path", Value: "/a?b"}), policy.ReasonRequestInvalid, "twice")
	refuse(t, r, with(policy.Header{Name: "host", Value: "api.test"}, policy.Header{Name: "host", Value: "api.test"}), policy.ReasonRequestInvalid, "twice")
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{CredentialHeaders: []string{"x-vault-token", "cookie", "authorization"}})
	with := func(pairs ...string) *policy.Attributes {
		a := get("/")
		for i := 0; i < len(pairs); i += 2 {
			a.Headers = append(a.Headers, policy.Header{Name: pairs[i], Value: pairs[i+1]})
		}
		return a
	}
	for _, a := range []*policy.Attributes{
		with("x-a", "tab\tand caf\u00e9 and \xff"), with("x-a", "1", "x-a", "2"), with("cookie", "a=1", "cookie", "b=2"), with("x-auth-roles", "a", "x-auth-roles", "b"),
		with("connection", "close, Upgrade"), with("connection", "te, keep-alive"), with("te", "trailers;q=1"), with("x_api_key", "alone"), with("x-empty", ""),
		with("content-length", "5"), with("transfer-encoding", "chunked"),
	} {
		read(t, r, a)
	}
	for _, a := range []*policy.Attributes{
		with("", "x"), with("X-A", "1"), with("x a", "1"), with("x-a ", "1"), with("x-a:", "1"), with("x-\u00e9", "1"), with("x-a\x00", "1"), with("x-auth-principal\u200b", "1"),
		with("x-a", "a\r\nb: c"), with("x-a", "\x00"), with("x-a", "a\x7f"), with("x-a", "12345678\n"), with("x-a", "\t\x1b"),
		with("authorization", "Bearer a", "authorization", "Bearer a"), with("authorization", "Bearer\ta"), with("authorization", "Bearer \xc3\xa9"),
		with("x-api-key", "a", "x_api_key", "b"), with("x_api_key", "a", "x.api.key", "b"), with("x-vault-token", "a", "x-vault-token", "a"),
		with("content-type", "a/b", "content-type", "a/b"), with("x-forwarded-proto", "https", "x-forwarded-proto", "http"), with("content-length", "5", "content-length", "5"),
		with("content-length", "5", "transfer-encoding", "chunked"),
		with("connection", "x-auth-principal"), with("connection", "close, X-Auth-Roles"), with("connection", "authorization"), with("connection", "x_auth_roles"), with("connection", "cookie"),
		with("connection", "x-forwarded-for"), with("connection", " host "), with("proxy-connection", "x-vault-token"), with("te", "x-auth-principal"), with("trailer", "authorization"),
	} {
		refuse(t, r, a, policy.ReasonRequestInvalid, "header: ")
	}
}

func TestSmuggled(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{IdentityHeaders: []string{"x-auth-*", "x-user"}, CredentialHeaders: []string{"x-vault-token"}})
	sent := policy.Headers{}
	for _, name := range []string{
		":authority", "accept", "authorization", "x-api-key", "x-vault-token", "x-authority", "cookie", "x-userx", "content-type", "x-forwarded-for", "x-api--key",
		"x-auth-roles", "x_auth_roles", "x.auth.roles", "x-auth_roles", "x-auth-roles", "x-user", "x_user", "X-User", "x-user ", "x-user\u200b", "x_api_key", "x_vault_token", "x_forwarded_for",
		"content_type", "x-original-url", "x-rewrite-url", "x_auth_" + strings.Repeat("a", 100),
	} {
		sent = append(sent, policy.Header{Name: name})
	}
	got := r.Smuggled(sent, []string{"kept"})
	want := []string{
		"kept", "x-auth-roles", "x_auth_roles", "x.auth.roles", "x-auth_roles", "x-user", "x_user", "X-User", "x-user ", "x-user\u200b", "x_api_key", "x_vault_token", "x_forwarded_for",
		"content_type", "x-original-url", "x-rewrite-url", "x_auth_" + strings.Repeat("a", 100),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// G-08: what the client's own connection was.
func TestPlaintext(t *testing.T) {
	t.Parallel()
	direct := newReader(t, canonical.Config{})
	behind := newReader(t, canonical.Config{Client: canonical.ClientConfig{TrustForwardedProto: true}})
	for _, c := range []struct {
		reader            *canonical.Reader
		scheme, forwarded string
		want              string
		plaintext         bool
	}{
		{direct, "https", "", "https", false},
		{direct, "HTTPS", "", "https", false},
		{direct, "wss", "", "https", false},
		{direct, "http", "", "http", true},
		{direct, "ws", "", "http", true},
		{direct, "", "", "", false},
		{direct, "http", "https", "http", true},
		{direct, "https", "http", "https", false},
		{behind, "http", "https", "https", false},
		{behind, "https", "http", "http", true},
		{behind, "", "http", "http", true},
		{behind, "http", "", "http", true},
	} {
		a := get("/")
		a.Scheme = c.scheme
		if c.forwarded != "" {
			a.Headers = policy.Headers{{Name: "x-forwarded-proto", Value: c.forwarded}}
		}
		if q := read(t, c.reader, a); q.Scheme != c.want || q.Plaintext != c.plaintext {
			t.Errorf("%+v: got %q, %t", c, q.Scheme, q.Plaintext)
		}
	}
	for _, forwarded := range []string{"https,http", "ftp", "https ", "on"} {
		a := get("/")
		a.Headers = policy.Headers{{Name: "x-forwarded-proto", Value: forwarded}}
		read(t, direct, a)
		refuse(t, behind, a, policy.ReasonRequestInvalid, "scheme: ")
	}
	a := get("/")
	a.Scheme = "ftp"
	refuse(t, direct, a, policy.ReasonRequestInvalid, "scheme: ")
}

// G-07: a client cannot choose its own address.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	peer := netip.MustParseAddrPort("[::ffff:192.0.2.5]:1")
	for _, c := range []struct {
		hops      int
		useRemote bool
		forwarded []string
		want      string
	}{
		{0, true, []string{"127.0.0.1"}, "192.0.2.5"},
		{1, true, nil, "192.0.2.5"},
		{1, true, []string{"127.0.0.1, 203.0.113.9"}, "203.0.113.9"},
		{1, true, []string{"127.0.0.1", "203.0.113.9"}, "203.0.113.9"},
		{2, true, []string{"127.0.0.1, 203.0.113.9", "10.0.0.1"}, "203.0.113.9"},
		{1, false, []string{"203.0.113.9, 10.0.0.1"}, "203.0.113.9"},
		{0, false, []string{"203.0.113.9:8080"}, "203.0.113.9"},
		{0, false, []string{"[2001:db8::1]:8080"}, "2001:db8::1"},
		{0, false, []string{"[2001:db8::1]"}, "2001:db8::1"},
		{0, false, []string{"fe80::1%eth0"}, "fe80::1"},
		{0, false, []string{"::ffff:10.0.0.1"}, "10.0.0.1"},
		{0, false, []string{"10.0.0.1\t"}, "10.0.0.1"},
		// Garbage at the trusted place is nobody, not our own proxy.
		{0, false, []string{""}, "invalid IP"},
		{0, false, []string{"10.0.0.1,"}, "invalid IP"},
		{0, false, []string{"unknown"}, "invalid IP"},
		{0, false, []string{`"10.0.0.1"`}, "invalid IP"},
		{0, false, []string{"010.0.0.1"}, "invalid IP"},
		{0, false, []string{"10.1"}, "invalid IP"},
		{0, false, []string{"[10.0.0.1]:80"}, "invalid IP"},
		{0, false, []string{"10.0.0.1:"}, "invalid IP"},
		{0, false, []string{"10.0.0.1:99999"}, "invalid IP"},
		{0, false, []string{"[::1]x"}, "invalid IP"},
		{0, false, []string{"[::1"}, "invalid IP"},
		{2, true, []string{"203.0.113.9"}, "invalid IP"},
		{1, true, []string{strings.Repeat("9", 10000)}, "invalid IP"},
	} {
		r := newReader(t, canonical.Config{Client: canonical.ClientConfig{TrustedHops: c.hops, UseRemoteAddress: &c.useRemote}})
		a := get("/")
		a.Source.Address = peer
		for _, f := range c.forwarded {
			a.Headers = append(a.Headers, policy.Header{Name: "x-forwarded-for", Value: f})
		}
		if q := read(t, r, a); q.ClientIP.String() != c.want {
			t.Errorf("%+v: got %v", c, q.ClientIP)
		}
	}
	r := newReader(t, canonical.Config{Client: canonical.ClientConfig{TrustedHops: 1, ForwardedFor: "cf-connecting-ip"}})
	a := get("/")
	a.Headers = policy.Headers{{Name: "x-forwarded-for", Value: "127.0.0.1"}, {Name: "cf-connecting-ip", Value: "203.0.113.9"}}
	if q := read(t, r, a); q.ClientIP.String() != "203.0.113.9" {
		t.Errorf("got %v", q.ClientIP)
	}
	if q := read(t, r, get("/")); q.ClientIP.IsValid() {
		t.Errorf("a client out of nowhere: %v", q.ClientIP)
	}
}

// G-05: gRPC through a gateway, and a gRPC client that asks without one.
func TestGRPC(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{})
	call := func(method, path, host, contentType string) *policy.Attributes {
		a := &policy.Attributes{Door: "extauthz", Method: method, Scheme: "https", Host: host, Path: path}
		if contentType != "" {
			a.Headers = policy.Headers{{Name: "content-type", Value: contentType}}
		}
		return a
	}
	proxyless := call("POST", "/pkg.Service/Method", "", "")
	proxyless.Scheme, proxyless.Proxyless = "", true
	gateway := call("POST", "/pkg.Service/Method", "", "")
	gateway.Scheme = ""
	for _, a := range []*policy.Attributes{
		call("POST", "/pkg.Service/Method", "api.test", "application/grpc"),
		call("POST", "/pkg.Service/Method", "api.test", "application/grpc+proto"),
		call("POST", "/pkg.Service/Method", "api.test", "Application/GRPC-Web; x=y"),
		call("POST", "/pkg.Service/Method", "", "application/grpc"),
		proxyless,
	} {
		if q := read(t, r, a); q.Service != "pkg.Service" || q.RPC != "Method" {
			t.Errorf("%+v: got %q %q", a, q.Service, q.RPC)
		}
	}
	for _, a := range []*policy.Attributes{
		call("POST", "/pkg.Service/Method", "api.test", "application/json"),
		call("POST", "/pkg.Service/Method", "api.test", "application/grpcx"),
		call("POST", "/pkg.Service/Method", "api.test", ""),
		call("GET", "/pkg.Service/Method", "api.test", "application/grpc"),
		call("POST", "/pkg.Service", "api.test", "application/grpc"),
		call("POST", "/pkg.Service/", "api.test", "application/grpc"),
		call("POST", "/pkg.Service/Method/x", "api.test", "application/grpc"),
	} {
		if q := read(t, r, a); q.Service != "" || q.RPC != "" {
			t.Errorf("%+v: got %q %q", a, q.Service, q.RPC)
		}
	}
	for _, a := range []*policy.Attributes{
		call("POST", "/pkg.Service/Method", "", "application/json"),
		call("POST", "/pkg.Service/Method", "", ""), // a scheme, so there was a gateway
		gateway, // the door says so
		call("GET", "/pkg.Service/Method", "", "application/grpc"),
		call("POST", "/", "", "application/grpc"),
	} {
		refuse(t, r, a, policy.ReasonRequestInvalid, "host: missing")
	}
}

func TestActions(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{})
	action := &policy.Action{Name: "orders.refund", ResourceType: "order", ResourceID: "urn:x:7"}
	q := read(t, r, &policy.Attributes{Action: action, Source: policy.Endpoint{Address: netip.MustParseAddrPort("10.0.0.1:1")}})
	if q.Path != "" || q.Method != "" || q.ClientIP.String() != "10.0.0.1" {
		t.Errorf("got %+v", q)
	}
	if q := read(t, r, &policy.Attributes{Action: action, Method: "GET", Scheme: "https", Host: "api.test", Path: "/a"}); q.Path != "/a" || q.Host != "api.test" {
		t.Errorf("got %+v", q)
	}
	if q := read(t, r, &policy.Attributes{Action: action, Host: "API.test"}); q.Host != "api.test" {
		t.Errorf("got %+v", q)
	}
	for _, a := range []*policy.Attributes{
		{Action: action, Method: "GET"},
		{Action: action, Path: "/a"},
		{Action: action, Host: "a b"},
		{Action: action, Headers: policy.Headers{{Name: "authorization", Value: "a"}, {Name: "authorization", Value: "b"}}},
		{Action: &policy.Action{Name: "a\nb"}},
		{Action: &policy.Action{Name: "\xff"}},
		{Action: &policy.Action{ResourceType: "doc:7"}},
		{},
	} {
		refuse(t, r, a, policy.ReasonRequestInvalid, "")
	}
	refuse(t, r, &policy.Attributes{Action: &policy.Action{ResourceID: strings.Repeat("x", 9000)}}, policy.ReasonRequestTooLarge, "action")
}

// Whom a caller names is held to the same as what it names: the name is a principal's id
// in logs, header fields and rates.
func TestAssertedSubjects(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{})
	named := func(id, tenant string) *policy.Attributes {
		return &policy.Attributes{
			Action:   &policy.Action{Name: "read", ResourceType: "order", ResourceID: "7"},
			Asserted: &policy.Asserted{ID: id, Kind: policy.KindUser, Tenant: tenant},
		}
	}
	read(t, r, named("jörg@shop.test", "acme"))
	for _, text := range []string{"a\x1b[2J", "a\x00", "a\r\nb", "\xff", "a\u202eb"} {
		refuse(t, r, named(text, "acme"), policy.ReasonRequestInvalid, "subject")
		refuse(t, r, named("ann", text), policy.ReasonRequestInvalid, "subject")
	}
	long := strings.Repeat("x", 9000)
	refuse(t, r, named(long, "acme"), policy.ReasonRequestTooLarge, "subject")
	refuse(t, r, named("ann", long), policy.ReasonRequestTooLarge, "subject")
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{Limits: canonical.LimitConfig{
		MaxPathBytes: 10, MaxQueryBytes: 10, MaxHeaders: 2, MaxHeaderValueBytes: 10, MaxHeaderBytes: 16, MaxBodyBytes: 10,
	}})
	with := func(path string, body int, headers ...policy.Header) *policy.Attributes {
		a := get(path)
		a.Body, a.Headers = make([]byte, body), headers
		return a
	}
	ten := "1234567890"
	read(t, r, with("/"+ten[1:]+"?"+ten, 10, policy.Header{Name: "a", Value: ten}, policy.Header{Name: "b", Value: "1234"}))
	for _, a := range []*policy.Attributes{
		with("/"+ten, 0),
		with("/?"+ten+"1", 0),
		with("/"+strings.Repeat("a", 1000), 0),
		with("/", 11),
		with("/", 0, policy.Header{Name: "a", Value: ten + "1"}),
		with("/", 0, policy.Header{Name: "a", Value: ten}, policy.Header{Name: "b", Value: "12345"}),
		with("/", 0, make([]policy.Header, 3)...),
	} {
		refuse(t, r, a, policy.ReasonRequestTooLarge, "too ")
	}
}

func TestBadConfigurationSaysEverything(t *testing.T) {
	t.Parallel()
	_, err := canonical.New(canonical.Config{
		Paths:             canonical.PathConfig{Decode: "twice", EncodedSlash: "allow", EncodedDelimiters: "keep"},
		Limits:            canonical.LimitConfig{MaxHeaders: -1, MaxBodyBytes: 1 << 31},
		Client:            canonical.ClientConfig{TrustedHops: 17, ForwardedFor: "forwarded"},
		IdentityHeaders:   []string{"X-User", "*", "auth*", "cookie", "x_user"},
		CredentialHeaders: []string{"x y"},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`paths.decode: "twice" is not allowed; use once`,
		`paths.encoded_slash: "allow" is not allowed; use reject, keep, decode`,
		"paths.encoded_delimiters: ", "limits.max_headers: ", "limits.max_body_bytes: ", "client.trusted_hops: ", "client.forwarded_for: ",
		"identity_headers[0]: ", "identity_headers[1]: ", "identity_headers[2]: ", "identity_headers[3]: ", "identity_headers[4]: ", "credential_headers[0]: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	for _, name := range []string{"authorization", "X-Forwarded-For", "host", "cookie", "connection"} {
		if _, err := canonical.New(canonical.Config{Client: canonical.ClientConfig{ForwardedFor: name}}); err == nil {
			t.Errorf("forwarded_for %q: accepted", name)
		}
	}
}

// ordinary is what Envoy sends about a call with a bearer token.
func ordinary() *policy.Attributes {
	return &policy.Attributes{
		Door: "extauthz", Method: "GET", Scheme: "https", Host: "api.example.com", Path: "/api/v1/things/7?expand=owner",
		Source: policy.Endpoint{Address: netip.MustParseAddrPort("192.0.2.5:40000")},
		Headers: policy.Headers{
			{Name: ":authority", Value: "api.example.com"}, {Name: ":method", Value: "GET"}, {Name: ":path", Value: "/api/v1/things/7?expand=owner"}, {Name: ":scheme", Value: "https"},
			{Name: "accept", Value: "application/json"}, {Name: "accept-encoding", Value: "gzip, deflate, br"}, {Name: "accept-language", Value: "en-US,en;q=0.9"},
			{Name: "authorization", Value: "Bearer " + strings.Repeat("eyJhbGciOiJSUzI1NiJ9.", 40)}, {Name: "content-type", Value: "application/json"},
			{Name: "user-agent", Value: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36"},
			{Name: "x-envoy-expected-rq-timeout-ms", Value: "15000"}, {Name: "x-forwarded-for", Value: "192.0.2.5"}, {Name: "x-forwarded-proto", Value: "https"},
			{Name: "x-request-id", Value: "7b6bd8a4-6c06-4a5e-9a53-2d6f0f6f3f10"},
		},
	}
}

func TestOrdinaryRequestDoesNotAllocate(t *testing.T) {
	r := newReader(t, canonical.Config{Client: canonical.ClientConfig{TrustedHops: 1}})
	a := ordinary()
	var q policy.Request
	smuggled := make([]string, 0, 4)
	if n := testing.AllocsPerRun(100, func() {
		if err := r.Read(a, &q); err != nil {
			t.Fatal(err)
		}
		smuggled = r.Smuggled(a.Headers, smuggled[:0])
		canonical.Fold(q.Path)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if q.Path != "/api/v1/things/7" || q.ClientIP.String() != "192.0.2.5" || len(smuggled) != 0 {
		t.Errorf("got %+v, %q", q, smuggled)
	}
}

func BenchmarkRead(b *testing.B) {
	r := newReader(b, canonical.Config{})
	escaped := ordinary()
	escaped.Path = "/api/v1/caf%C3%A9/a%20b?expand=owner"
	escaped.Headers[2].Value = escaped.Path
	for name, a := range map[string]*policy.Attributes{"ordinary": ordinary(), "escaped": escaped} {
		b.Run(name, func(b *testing.B) {
			var q policy.Request
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Read(a, &q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSmuggled(b *testing.B) {
	r, a := newReader(b, canonical.Config{}), ordinary()
	b.ReportAllocs()
	for b.Loop() {
		r.Smuggled(a.Headers, nil)
	}
}

// A limit that says which hosts or methods a credential is for is refused where it is
// written if no request that is read here fits it, and only then.
func TestLimitsThatFitARequest(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{})
	part := rapid.OneOf(
		rapid.StringMatching(`[a-zA-Z0-9_.-]{0,6}`), rapid.StringMatching(`[a-z ~%_]{0,3}`),
		rapid.SampledFrom([]string{"10.0.0.1", "127.1", "0x7f", "1", "[::1]", "[::", "0:1]", "[2001:DB8::1]", "[::ffff:1.2.3.4]", "%1]", "ü", ".", "test", strings.Repeat("a", 63), "GET", "*", "PRI", "CONNECT"}),
	)
	rapid.Check(t, func(t *rapid.T) {
		text := part.Draw(t, "first") + part.Draw(t, "second")
		faulty := func(c policy.Constraints) (found bool) {
			c.Faults(func(string, string, string) { found = true })
			return found
		}
		var q policy.Request
		a := get("/")
		a.Method = text
		fits := r.Read(a, &q) == nil && q.Method == text && text == strings.ToUpper(text)
		if faulty(policy.Constraints{Methods: []string{text}}) == fits {
			t.Fatalf("method %q fits: %v", text, fits)
		}
		for _, wild := range []string{"", "*."} {
			host, err := policy.ParseHostPattern(wild + text)
			if err != nil {
				continue
			}
			a, sample := get("/"), strings.Replace(host.String(), "*", "x", 1)
			a.Host = sample
			fits := r.Read(a, &q) == nil && q.Host == sample && host.Match(q.Host)
			if faulty(policy.Constraints{Hosts: []policy.HostPattern{host}}) == fits {
				t.Fatalf("host %q fits: %v", host, fits)
			}
		}
	})
}
