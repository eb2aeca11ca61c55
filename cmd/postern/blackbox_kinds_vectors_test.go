package main

import (
	"context"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/postern-auth/postern/server/vectortest"
)

// B-02, G-13 (RFC 7617), BASIC-001 to BASIC-042: every vector of http/basic.jsonl, through both doors, with the users
// that they assume.
func TestVectorsBasic(t *testing.T) {
	t.Parallel()
	w := prepare(t, "vectors", "@COOKIE@", "", "@SESSIONS@", "")
	newPKI(t, w.path("ca"))
	var users strings.Builder
	passwords := map[string]string{"Aladdin": "open sesame", "test": "123£", "alice": "pa:ss:word", "bob": strings.Repeat("p", 72), "carol": strings.Repeat("q", 72)}
	for user, password := range passwords {
		users.WriteString(user + ":" + quickHash(password) + "\n")
	}
	w.write(t, "users", users.String())
	b := start(t, w)
	results := tally{}
	for _, v := range vectortest.Lines[struct {
		ID, Authorization, Expect, Why string
		User                           *string
	}](t, "http/basic.jsonl") {
		a := b.ask(t, get("/", "authorization", v.Authorization))
		passed := !a.allowed() && (a.status == 401 || a.status == 400)
		if a.allowed() {
			passed = v.Expect != "deny" && v.User != nil && a.principal == *v.User && a.method == "basic"
		} else if v.Expect == "allow" {
			passed = false
		}
		if results.count(v.Expect, passed); !passed {
			t.Errorf("%s (%s): %v, want %s", v.ID, v.Why, a, v.Expect)
		}
	}
	results.print(t)
}

// C-01, C-02, XFCC-001 to XFCC-043: every vector of http/xfcc.jsonl, where the gateway is
// believed without a certificate, which the vectors do not have.
func TestVectorsXFCC(t *testing.T) {
	t.Parallel()
	w := prepare(t, "vectors", "@COOKIE@", "", "@SESSIONS@", "")
	newPKI(t, w.path("ca"))
	w.write(t, "users", "")
	b := start(t, w)
	results := tally{}
	for _, v := range vectortest.Lines[struct {
		ID, XFCC, Expect, Why string
		Principal             *string
	}](t, "http/xfcc.jsonl") {
		a := b.ask(t, get("/", "x-forwarded-client-cert", v.XFCC))
		var passed bool
		switch {
		case v.Expect == "not-admin":
			passed = !a.allowed() || !strings.Contains(a.principal, "admin")
		case v.Principal == nil:
			passed = !a.allowed()
		default:
			passed = a.allowed() && a.principal == *v.Principal && a.method == "mtls"
		}
		if a.status >= 500 {
			passed = false
		}
		if results.count(v.Expect, passed); !passed {
			t.Errorf("%s (%s): %v", v.ID, v.Why, a)
		}
	}
	results.print(t)
}

// S-05, S-07, COOKIE-001 to COOKIE-032: every vector of http/cookies.jsonl: the session
// is found where there is one reading of the field, and nowhere else.
func TestVectorsCookies(t *testing.T) {
	t.Parallel()
	db := startRedis(t)
	const value = "S3cr3tSessionValue"
	if err := db.Set(context.Background(), "sess:"+value, `{"user":"ann"}`, 0).Err(); err != nil {
		t.Fatal(err)
	}
	w := prepare(t, "vectors", "@COOKIE@", `- { from: "cookie:sid", use: app_session }`, "@SESSIONS@",
		`app_sessions: [{ name: app, url: "`+db.URL+`", username: postern, password: "${file:redis.password}", timeout: 5s, fields: { id: user } }]`)
	newPKI(t, w.path("ca"))
	w.write(t, "users", "")
	w.write(t, "redis.password", redisPassword)
	b := start(t, w)
	b.hide(value, redisPassword)
	results := tally{}
	for _, v := range vectortest.Lines[struct{ ID, Cookie, Expect, Why string }](t, "http/cookies.jsonl") {
		if !utf8.ValidString(v.Cookie) {
			t.Fatal(v.ID)
		}
		a := b.ask(t, get("/", "cookie", v.Cookie))
		passed := !a.allowed() && a.status < 500
		switch {
		case v.Expect == "value":
			passed = a.allowed() && a.principal == "ann"
		case v.Expect == "no-session-or-first" && strings.HasPrefix(v.Cookie, "sid="+value):
			passed = a.status < 500
		}
		if results.count(v.Expect, passed); !passed {
			t.Errorf("%s (%s): %v, want %s", v.ID, v.Why, a, v.Expect)
		}
	}
	results.print(t)
}
