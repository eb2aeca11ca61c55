package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/authn/appsession/redistest"
)

const redisPassword = "rd9-Kqmzw-plover-4471"

// startRedis starts a server with a user that may do no more than the documentation
// says.
func startRedis(t testing.TB) *redistest.Server {
	t.Helper()
	return redistest.Start(t, "--user", "default", "on", "nopass", "~*", "+@all",
		"--user", "postern", "on", ">"+redisPassword, "~sess:*", "~legacy:*", "+pttl", "+getrange", "+hstrlen", "+hmget")
}

const sessionSecret = "qm8-Vxt41-Lpa07-of-express"

// express signs a session id as Express does (cookie-signature).
func express(id, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(id))
	return url.QueryEscape("s:" + id + "." + base64.RawStdEncoding.EncodeToString(mac.Sum(nil)))
}

// S-07: sessions that another application keeps, in a real Redis.
func TestKindsAppSessions(t *testing.T) {
	t.Parallel()
	db := startRedis(t)
	w := prepare(t, "appsessions", "@REDIS@", db.URL, "@USER@", "postern")
	w.write(t, "redis.password", redisPassword)
	w.write(t, "session.secret", sessionSecret)
	b := start(t, w)
	b.hide(redisPassword, sessionSecret)
	ctx := context.Background()
	put := func(key, value string) {
		t.Helper()
		if err := db.Set(ctx, key, value, time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
	}
	login := func(session string) string {
		id := rand.Text()
		b.hide(id)
		put("sess:"+id, session)
		return id
	}
	const ann = `{"cookie":{"expires":"2100-01-01T00:00:00.000Z"},"passport":{"user":{"id":7,"tenant":"acme","roles":["clerk"],"amr":["pwd"]}},"secret":"hunter2-xyzzy-plugh"}`
	b.hide("hunter2-xyzzy-plugh")
	with := func(path, id string) request {
		return get(path, "cookie", "theme=dark; connect.sid="+express(id, sessionSecret))
	}

	id := login(ann)
	a := b.expect(t, with("/", id), 200, "allowed")
	if s := a.seen(t); a.principal != "7" || a.issuer != "shop" || a.method != "app_session" || s.Kind != "user" || s.Tenant != "acme" || s.Assurance != 2 || !slices.Equal(s.Roles, []string{"clerk"}) {
		t.Errorf("%v %+v", a, s)
	}
	if a.upstream("cookie") != "theme=dark" {
		t.Errorf("the upstream gets the cookies %q", a.upstream("cookie"))
	}
	// S-05: as with every cookie.
	b.expect(t, with("/x", id).with("POST"), 403, "csrf")
	same := with("/x", id).with("POST")
	same.headers = append(same.headers, get("", "sec-fetch-site", "same-origin").headers...)
	b.expect(t, same, 200, "allowed")

	for name, c := range map[string]struct {
		cookie string
		status int
		reason string
	}{
		"no such session":          {express(rand.Text(), sessionSecret), 401, "credential_unknown"},
		"signed by somebody else":  {express(id, "another"), 401, "signature_invalid"},
		"not signed":               {id, 401, "signature_invalid"},
		"another key by its id":    {express("../legacy:x", sessionSecret), 401, "credential_malformed"},
		"of nobody":                {express(login(`{"cookie":{}}`), sessionSecret), 401, "credential_unknown"},
		"of no tenant":             {express(login(`{"passport":{"user":{"id":"x"}}}`), sessionSecret), 401, ""},
		"over, by its own account": {express(login(strings.Replace(ann, "2100", "2001", 1)), sessionSecret), 401, "expired"},
		"not JSON":                 {express(login(`O:8:"stdClass":0:{}`), sessionSecret), 503, "dependency_unavailable"},
		"too large":                {express(login(`{"x":"`+strings.Repeat("x", 65<<10)+`"}`), sessionSecret), 503, "dependency_unavailable"},
		"two ids":                  {express(login(`{"passport":{"user":{"id":["a","b"],"tenant":"acme"}}}`), sessionSecret), 503, "dependency_unavailable"},
	} {
		got := b.ask(t, get("/", "cookie", "connect.sid="+c.cookie))
		if got.status != c.status || c.reason != "" && got.reason != c.reason {
			t.Errorf("%s: %v, want %d %s", name, got, c.status, c.reason)
		}
	}

	// The other application: a hash, read each time, so that a logout counts at once.
	old := rand.Text()
	if err := db.HSet(ctx, "legacy:"+old, "user", "bob", "roles", "clerk,admin").Err(); err != nil {
		t.Fatal(err)
	}
	legacy := get("/", "cookie", "legacy="+old)
	if a := b.expect(t, legacy, 200, "allowed"); a.principal != "bob" || a.method != "legacy_session" || !slices.Equal(a.seen(t).Roles, []string{"clerk", "admin"}) {
		t.Errorf("%v %+v", a, a.seen(t))
	}
	db.Del(ctx, "legacy:"+old)
	b.expect(t, legacy, 401, "credential_unknown")

	// S-02, CACHE-12: a logout in the application counts after max_ttl at the latest.
	out := login(ann)
	b.expect(t, with("/", out), 200, "allowed")
	db.Del(ctx, "sess:"+out)
	b.denied(t, with("/", out), time.Now().Add(1200*time.Millisecond))

	// Redis down: who is known goes on for stale_for, everybody else gets 503.
	b.expect(t, with("/", id), 200, "allowed")
	db.Kill()
	b.expect(t, with("/", rand.Text()), 503, "dependency_unavailable")
	b.expect(t, with("/", id), 200, "allowed")
	b.expect(t, legacy, 503, "dependency_unavailable")
	db.Restart()
	eventually(t, "Redis is used again", func() bool {
		return b.askEnvoy(t, with("/", rand.Text())).reason == "credential_unknown"
	})
}
