package appsession_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/appsession"
	"github.com/postern-auth/postern/server/authn/appsession/redistest"
	"github.com/postern-auth/postern/server/authn/authntest"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/strictyaml"
)

const id = "Zq8x_Kp2-Vt5mNb7RcW1yA" // of a session

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func path(t testing.TB, text string) jose.ClaimPath {
	t.Helper()
	p, err := jose.ParseClaimPath(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// config is one for the shop's sessions.
func config(t testing.TB, url string, change ...func(*appsession.Config)) appsession.Config {
	t.Helper()
	c := appsession.Config{Name: "shop", URL: url, Password: password(url), Timeout: 5 * time.Second}
	c.SetDefaults()
	c.Fields = appsession.Fields{
		ID: path(t, "user.id"), Tenant: path(t, "user.tenant"), Roles: path(t, "user.roles"), Scopes: path(t, "scope"), Permissions: path(t, "permissions"),
		Expires: path(t, "cookie.expires"), AuthTime: path(t, "auth_time"), AMR: path(t, "amr"),
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

// password is what the fake wants, and a real server wants none.
func password(url string) (s policy.Secret) {
	if strings.HasPrefix(url, "redis://") {
		s = policy.NewSecret("hunter2")
	}
	return s
}

func open(t testing.TB, c appsession.Config) *appsession.Authenticator {
	t.Helper()
	a, err := appsession.New(c, appsession.Deps{Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func cookie(value string, uses ...policy.Method) *authn.Credential {
	if len(uses) == 0 {
		uses = []policy.Method{policy.MethodAppSession}
	}
	return &authn.Credential{Uses: uses, Secret: policy.NewSecret(value), From: "cookie:sid", Cookie: "sid"}
}

func ask(t testing.TB, a authn.Authenticator, value string) (*authn.Proof, error) {
	t.Helper()
	return a.Authenticate(t.Context(), cookie(value))
}

func reason(err error) policy.Reason {
	var refusal *authn.Refusal
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	return policy.ReasonUnspecified
}

const full = `{"cookie":{"expires":"2026-11-21T20:00:00.000Z","httpOnly":true},"user":{"id":42,"tenant":"acme","roles":["reader","writer"]},
	"scope":"orders.read orders.write","permissions":"orders.refund","auth_time":1795261500,"amr":["pwd","otp"]}`

// S-07: a session that another application made, found by its cookie and read by the
// configured fields.
func TestJSON(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, db database) {
		a := open(t, config(t, db.url))
		db.text("sess:"+id, full, time.Hour)
		p, err := ask(t, a, id)
		if err != nil {
			t.Fatal(err)
		}
		ends := p.Principal.ExpiresAt
		if d := ends.Sub(noon); d > time.Hour || d < 59*time.Minute {
			t.Errorf("ends in %v: the key does in an hour", d)
		}
		public := p.Principal.CredentialID
		want := &policy.Principal{
			ID: "42", Kind: policy.KindUser, Tenant: "acme", Roles: []string{"reader", "writer"}, Scopes: []string{"orders.read", "orders.write"},
			Permissions: []string{"orders.refund"}, Method: policy.MethodAppSession, Assurance: 2, AMR: []string{"pwd", "otp"},
			AuthTime: time.Unix(1795261500, 0).UTC(), CredentialID: public, Issuer: "shop", ExpiresAt: ends,
		}
		if diff := cmp.Diff(want, p.Principal); diff != "" {
			t.Error(diff)
		}
		if p.State != policy.StateStore || p.Subject.SessionID != public || p.Subject.ID != "42" || p.Subject.Issuer != "shop" || p.Subject.Tenant != "acme" || !p.Subject.IssuedAt.Equal(want.AuthTime) {
			t.Errorf("%+v", p.Subject)
		}
		if len(public) != 16 || strings.Contains(id, public) || !p.NotAfter.Equal(noon.Add(5*time.Second)) {
			t.Errorf("%q until %v", public, p.NotAfter)
		}

		db.text("sess:"+id, full, time.Second)
		if p, err = ask(t, a, id); err != nil || p.NotAfter.After(noon.Add(time.Second)) {
			t.Errorf("%v, %v: the key is gone before", p, err)
		}
		db.text("sess:"+id, full, 0)
		if p, err = ask(t, a, id); err != nil || !p.Principal.ExpiresAt.Equal(noon.Add(8*time.Hour)) {
			t.Errorf("%v, %v", p, err)
		}
		db.drop("sess:" + id) // a logout
		if _, err = ask(t, a, id); reason(err) != policy.ReasonCredentialUnknown {
			t.Errorf("%v", err)
		}
		if s := a.Status(); s.Asked != 4 || s.Failed != 0 || s.Err != nil || !s.At.Equal(noon) {
			t.Errorf("%+v", s)
		}
	})
}

// S-07: the same from the fields of a hash.
func TestHash(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, db database) {
		a := open(t, config(t, db.url, func(c *appsession.Config) {
			c.Format, c.TimeUnit = appsession.Hash, appsession.Milliseconds
			c.Fields = appsession.Fields{
				ID: path(t, "uid"), Tenant: path(t, "org"), Roles: path(t, "roles"), Scopes: path(t, "scope"), Permissions: path(t, "perms"),
				Expires: path(t, "exp"), AuthTime: path(t, "login"), AMR: path(t, "roles"),
			}
		}))
		fields := map[string]string{
			"uid": "alice", "org": "acme", "roles": "reader, site admin,,writer", "scope": "a b", "perms": `["x,y","z"]`,
			"exp": fmt.Sprint(noon.Add(time.Minute).UnixMilli()), "login": noon.Format(time.RFC3339), "other": strings.Repeat("x", 1<<20),
		}
		db.hash("sess:"+id, fields, 0)
		p, err := ask(t, a, id)
		if err != nil {
			t.Fatal(err)
		}
		w := p.Principal
		if w.ID != "alice" || w.Tenant != "acme" || !slices.Equal(w.Roles, []string{"reader", "site admin", "writer"}) || !slices.Equal(w.Scopes, []string{"a", "b"}) ||
			!slices.Equal(w.Permissions, []string{"x,y", "z"}) || !w.AuthTime.Equal(noon) || !w.ExpiresAt.Equal(noon.Add(time.Minute)) {
			t.Errorf("%+v", w)
		}
		db.hash("sess:"+id, fields, 10*time.Second)
		if p, err = ask(t, a, id); err != nil || p.Principal.ExpiresAt.After(noon.Add(10*time.Second)) {
			t.Errorf("%v, %v", p, err)
		}
		fields["uid"] = strings.Repeat("x", 70_000)
		db.hash("sess:"+id, fields, 0)
		if _, err = ask(t, a, id); !errors.Is(err, appsession.ErrTooLarge) || reason(err) != 0 {
			t.Errorf("%v", err)
		}
		delete(fields, "uid")
		db.hash("sess:"+id, fields, 0)
		if _, err = ask(t, a, id); reason(err) != policy.ReasonCredentialUnknown {
			t.Errorf("%v", err)
		}
		db.drop("sess:" + id)
		if _, err = ask(t, a, id); reason(err) != policy.ReasonCredentialUnknown {
			t.Errorf("%v", err)
		}
		db.text("sess:"+id, "not a hash", 0)
		if _, err = ask(t, a, id); err == nil || reason(err) != 0 || errors.Is(err, authn.ErrUnreachable) || !strings.Contains(err.Error(), "WRONGTYPE") {
			t.Errorf("%v", err)
		}
	})
}

func TestConformance(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, db database) {
		db.text("sess:"+id, full, time.Hour)
		db.text("sess:nobody-is-here-yet", `{"cookie":{}}`, time.Hour)
		db.text("sess:of-no-tenant-at-all", `{"user":{"id":"alice"}}`, time.Hour)
		db.text("sess:over-since-a-moment", `{"user":{"id":"alice","tenant":"acme"},"cookie":{"expires":"2026-11-21T12:00:00Z"}}`, time.Hour)
		authntest.Suite{
			Authenticator: open(t, config(t, db.url)), Uses: []policy.Method{policy.MethodSession, policy.MethodAppSession},
			Good: map[string]string{id: "42"},
			Bad: map[string]policy.Reason{
				"there-is-none-like-this": policy.ReasonCredentialUnknown, "nobody-is-here-yet": policy.ReasonCredentialUnknown,
				"of-no-tenant-at-all": policy.ReasonCredentialUnknown, "over-since-a-moment": policy.ReasonExpired,
			},
			NotMine: []string{
				"short", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", "pst_ses_4fQzR8xW0bLm_" + strings.Repeat("A", 49), strings.Repeat("a", 257), "sess:admin:0123456789", "*123456789012345",
			},
		}.Run(t)
	})
}

// No cookie reaches a key of another pattern: what could is refused before Redis is
// asked.
func TestKeyInjection(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	a := open(t, config(t, f.url))
	for _, value := range []string{
		"0123456789:abcdef", "0123456789/abcdef", "0123456789*abcdef", "0123456789abcde\n", "0123456789abcde\r\nFLUSHALL", "0123456789abcde ", "..............................",
		"{id}0123456789abcdef", "0123456789abcde\x00", "0123456789abcdé", "%30123456789abcdef", "", "0123456789abcde",
	} {
		if _, err := ask(t, a, value); reason(err) != policy.ReasonCredentialMalformed {
			t.Errorf("%q: %v", value, err)
		}
	}
	if n := f.asked(); len(n) != 0 {
		t.Errorf("asked for %q", n)
	}
	_, _ = ask(t, a, id)
	hashed := open(t, config(t, f.url, func(c *appsession.Config) { c.HashID, c.Key = true, "2::{id}" }))
	_, _ = ask(t, hashed, id)
	sum := sha256.Sum256([]byte(id))
	var keys []string
	for _, c := range f.asked() {
		keys = append(keys, c[0]+" "+c[1])
	}
	want := []string{"pttl sess:" + id, "getrange sess:" + id, "pttl 2::" + hex.EncodeToString(sum[:]), "getrange 2::" + hex.EncodeToString(sum[:])}
	if !slices.Equal(keys, want) {
		t.Errorf("%q", keys)
	}
}

// sign does what Express does with an id.
func sign(id, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(id))
	return "s:" + id + "." + strings.TrimRight(base64.StdEncoding.EncodeToString(mac.Sum(nil)), "=")
}

// A cookie that has to be signed is refused unless it is, without asking Redis. Secrets
// can be changed one after the other.
func TestSigned(t *testing.T) {
	t.Parallel()
	// What cookie-signature 1.2 makes of "hello" and "tobiiscool", by its own test.
	if got := sign("hello", "tobiiscool"); got != "s:hello.DGDUkGlIkCzPz+C0B064FNgHdEjox7ch8tOBGslZ5QI" {
		t.Fatal(got)
	}
	f := newFake(t)
	f.put("sess:"+id, entry{text: full})
	a := open(t, config(t, f.url, func(c *appsession.Config) {
		c.SigningSecrets = []policy.Secret{policy.NewSecret("the new one"), policy.NewSecret("the old one")}
	}))
	good := sign(id, "the new one")
	for _, value := range []string{good, url.QueryEscape(good), sign(id, "the old one"), url.PathEscape(good)} {
		if p, err := ask(t, a, value); err != nil || p.Principal.ID != "42" {
			t.Errorf("%s: %v", value, err)
		}
	}
	before := len(f.asked())
	for _, value := range []string{
		id, "s:" + id, good[2:], good + "=", good[:len(good)-1], sign(id, "another"), sign(id, ""), "s:" + id + ".", url.QueryEscape(url.QueryEscape(good)),
		"s:" + id + "x" + good[len("s:"+id):], "S" + good[1:], strings.Replace(good, ".", "%", 1), "s:." + good, good + "%",
	} {
		if _, err := ask(t, a, value); reason(err) != policy.ReasonSignatureInvalid {
			t.Errorf("%s: %v", value, err)
		}
	}
	if _, err := ask(t, a, sign("short", "the new one")); reason(err) != policy.ReasonCredentialMalformed {
		t.Errorf("%v", err)
	}
	if len(f.asked()) != before {
		t.Error("Redis was asked")
	}
}

// Whatever is wrong with Redis is "could not find out", in time; nothing of the cookie,
// the record, the URL or the server's answer is in the error.
func TestFaults(t *testing.T) {
	t.Parallel()
	broken := func(change func(f *fake)) *fake {
		f := newFake(t)
		f.put("sess:"+id, entry{text: full})
		change(f)
		return f
	}
	answers := func(reply string) *fake {
		return broken(func(f *fake) {
			f.answer = func(command []string, _ string) string {
				if command[0] == "getrange" {
					return reply
				}
				return ""
			}
		})
	}
	for name, c := range map[string]struct {
		fake        *fake
		unreachable bool
		says        string
	}{
		"slow":            {broken(func(f *fake) { f.hang = true }), true, ""},
		"cut off":         {answers("$900\r\nabc" + cutOff), true, ""},
		"gone":            {answers(cutOff), true, ""},
		"loading":         {answers("-LOADING sess:" + id + " is loading\r\n"), true, "LOADING"},
		"denies":          {answers("-NOPERM no permission for sess:" + id + "\r\n"), false, "NOPERM"},
		"wrong password":  {broken(func(f *fake) { f.password = "hunter4" }), false, "ERR"},
		"100 MB":          {answers("$104857600\r\n" + strings.Repeat("x", 1<<20)), false, "larger"},
		"a lie":           {answers("$9223372036854775807\r\n"), false, "larger"},
		"many values":     {answers("*1000000000\r\n"), false, "larger"},
		"an endless line": {answers("+" + strings.Repeat("x", 1<<20)), false, "larger"},
		"another server":  {answers("HTTP/1.1 400 Bad Request\r\n\r\n"), true, ""},
		"another type":    {answers(":7\r\n"), false, "cannot be read"},
		"nothing at all":  {answers("$-1\r\n"), true, ""},
		"too large":       {broken(func(f *fake) { f.put("sess:"+id, entry{text: strings.Repeat(" ", 70_000)}) }), false, "larger"},
		"no JSON":         {broken(func(f *fake) { f.put("sess:"+id, entry{text: "O:8:hunter2"}) }), false, "cannot be read"},
		"twice":           {broken(func(f *fake) { f.put("sess:"+id, entry{text: `{"user":{"id":"hunter2","id":"b"}}`}) }), false, "cannot be read"},
		"odd":             {broken(func(f *fake) { f.put("sess:"+id, entry{text: `{"user":{"id":["hunter2"]}}`}) }), false, "cannot be read"},
		"a hash":          {broken(func(f *fake) { f.put("sess:"+id, entry{fields: map[string]string{"user": "hunter2"}}) }), false, "WRONGTYPE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := open(t, config(t, c.fake.url, func(cfg *appsession.Config) { cfg.Timeout = 250 * time.Millisecond }))
			p, err := ask(t, a, id)
			if p != nil || err == nil || reason(err) != 0 || errors.Is(err, authn.ErrUnreachable) != c.unreachable || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v", err)
			}
			for _, secret := range []string{id, id[8:], "hunter", "sess:"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%v shows %s", err, secret)
				}
			}
			if s := a.Status(); s.Failed != 1 || s.Err == nil {
				t.Errorf("%+v", s)
			}
		})
	}
	t.Run("down", func(t *testing.T) {
		t.Parallel()
		a := open(t, config(t, "redis://127.0.0.1:1/0", func(cfg *appsession.Config) { cfg.Timeout = 250 * time.Millisecond }))
		if p, err := ask(t, a, id); p != nil || !errors.Is(err, authn.ErrUnreachable) || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%v", err)
		}
	})
}

// A server that is restarted is found again, though all connections to it are dead.
func TestRestart(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.put("sess:"+id, entry{text: full})
	var mu sync.Mutex
	ending := false
	f.answer = func([]string, string) string {
		mu.Lock()
		defer mu.Unlock()
		if ending {
			ending = false
			return cutOff
		}
		return ""
	}
	a := open(t, config(t, f.url))
	for range 3 {
		if _, err := ask(t, a, id); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		ending = true
		mu.Unlock()
	}
}

// User and password are given, and a wrong one is a fault (real Redis).
func TestPassword(t *testing.T) {
	t.Parallel()
	socket := redistest.Start(t, "--user", "default", "on", "nopass", "~*", "+@all", "--user", "postern", "on", ">hunter2", "~sess:*", "+pttl", "+getrange", "+hello", "+select", "+ping").URL
	for password, want := range map[string]bool{"hunter2": true, "hunter3": false} {
		a := open(t, config(t, socket, func(c *appsession.Config) { c.Username, c.Password = "postern", policy.NewSecret(password) }))
		_, err := ask(t, a, id)
		if got := reason(err) == policy.ReasonCredentialUnknown; got != want || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %v", password, err)
		}
	}
}

// Over TLS, only a server whose certificate the configured authority vouches for is
// asked.
func TestTLS(t *testing.T) {
	t.Parallel()
	web := httptest.NewTLSServer(nil) // for its certificate, which is of 127.0.0.1
	defer web.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: web.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	f := serveFake(t, l)
	f.put("sess:"+id, entry{text: full})
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{authority: true, "": false} {
		a := open(t, config(t, strings.Replace(f.url, "redis://", "rediss://", 1), func(c *appsession.Config) {
			c.CAFile, c.Password = strictyaml.Path(file), policy.NewSecret("hunter2")
		}))
		if p, err := ask(t, a, id); (p != nil) != want || !want && !errors.Is(err, authn.ErrUnreachable) {
			t.Errorf("%q: %v", file, err)
		}
	}
	if n := len(f.asked()); n != 2 {
		t.Errorf("%d commands", n)
	}
}

// With a context that is over, nobody is asked.
func TestWithoutTime(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	a := open(t, config(t, f.url))
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Authenticate(over, cookie(id)); err == nil || reason(err) != 0 {
		t.Errorf("%v", err)
	}
	if len(f.asked()) != 0 {
		t.Error("Redis was asked")
	}
}

// CACHE-12: behind the cache that the configuration describes, a session is asked for
// once in max_ttl, and a logout counts after that; with 0s it is asked for each time.
func TestCached(t *testing.T) {
	t.Parallel()
	for ttl, lookups := range map[time.Duration]int{5 * time.Second: 2, 0: 4} {
		f := newFake(t)
		f.put("sess:"+id, entry{text: full})
		now := noon
		a := cached(t, config(t, f.url, func(c *appsession.Config) { c.MaxTTL = ttl }), func() time.Time { return now })
		for range 2 {
			now = now.Add(time.Second)
			if _, err := ask(t, a, id); err != nil {
				t.Fatal(err)
			}
		}
		now = noon.Add(6*time.Second - 1)
		f.put("sess:"+id, entry{})
		if _, err := ask(t, a, id); (err == nil) != (ttl > 0) {
			t.Errorf("%v: %v", ttl, err)
		}
		now = noon.Add(6 * time.Second)
		if _, err := ask(t, a, id); reason(err) != policy.ReasonCredentialUnknown {
			t.Errorf("%v: %v", ttl, err)
		}
		if n := len(f.asked()); n != 2*lookups {
			t.Errorf("%v: %d commands", ttl, n)
		}
	}
}

// While Redis does not answer, a session is believed for stale_for longer, and no other
// one; with the default, not at all.
func TestStale(t *testing.T) {
	t.Parallel()
	for staleFor, want := range map[time.Duration]bool{time.Minute: true, 0: false} {
		f := newFake(t)
		f.put("sess:"+id, entry{text: full})
		now := noon
		var down atomic.Bool
		f.answer = func([]string, string) string {
			if down.Load() {
				return "-LOADING\r\n"
			}
			return ""
		}
		a := cached(t, config(t, f.url, func(c *appsession.Config) { c.StaleFor = staleFor }), func() time.Time { return now })
		if _, err := ask(t, a, id); err != nil {
			t.Fatal(err)
		}
		down.Store(true)
		now = noon.Add(time.Minute)
		p, err := ask(t, a, id)
		if (err == nil) != want || want && p.State != policy.StateStale {
			t.Errorf("%v: %v", staleFor, err)
		}
		if _, err := ask(t, a, "another-session-0"); !errors.Is(err, authn.ErrUnreachable) {
			t.Errorf("%v: %v", staleFor, err)
		}
		now = noon.Add(time.Minute + 5*time.Second)
		if _, err := ask(t, a, id); err == nil {
			t.Errorf("%v: still believed", staleFor)
		}
	}
}

func cached(t *testing.T, cfg appsession.Config, clock func() time.Time) authn.Authenticator {
	t.Helper()
	a, err := appsession.New(cfg, appsession.Deps{Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	cache := cfg.CacheConfig()
	cache.Now = clock
	return authn.NewCached(a, cache)
}

// Each mistake is named with its field, and no message holds the URL.
func TestConfig(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*appsession.Config){
		"":                       func(*appsession.Config) {},
		"name: ":                 func(c *appsession.Config) { c.Name = "" },
		"url: is not":            func(c *appsession.Config) { c.URL = "http://host" },
		"url: is not the":        func(c *appsession.Config) { c.URL = "redis://host:port/x" },
		"url: is not the URL":    func(c *appsession.Config) { c.URL = "redis:///0" },
		"url: is":                func(c *appsession.Config) { c.URL = "" },
		"url: holds":             func(c *appsession.Config) { c.URL = "redis://host?pool_size=9" },
		"url: holds a user":      func(c *appsession.Config) { c.URL = "redis://:hunter2@host" },
		"password: ":             func(c *appsession.Config) { c.Username, c.Password = "postern", policy.Secret{} },
		"ca_file: means nothing": func(c *appsession.Config) { c.CAFile = "/ca.pem" },
		"ca_file: open": func(c *appsession.Config) {
			c.CAFile, c.URL = "/nowhere/ca.pem", "rediss://host"
		},
		"timeout: ":            func(c *appsession.Config) { c.Timeout = time.Minute },
		"connections: ":        func(c *appsession.Config) { c.Connections = -1 },
		"key: does not":        func(c *appsession.Config) { c.Key = "sess:" },
		"key: does not hold":   func(c *appsession.Config) { c.Key = "{id}:{id}" },
		"key: would":           func(c *appsession.Config) { c.Key = "{id}" },
		"key: is not":          func(c *appsession.Config) { c.Key = "sess {id}" },
		"signing_secrets[0]: ": func(c *appsession.Config) { c.SigningSecrets = []policy.Secret{{}} },
		"format: ":             func(c *appsession.Config) { c.Format = "msgpack" },
		"max_size: ":           func(c *appsession.Config) { c.MaxSize = strictyaml.GiB },
		"fields.id: ":          func(c *appsession.Config) { c.Fields.ID = jose.ClaimPath{} },
		"time_unit: ":          func(c *appsession.Config) { c.TimeUnit = "h" },
		"max_ttl: ":            func(c *appsession.Config) { c.MaxTTL = time.Hour },
		"stale_for: is":        func(c *appsession.Config) { c.StaleFor = -1 },
		"stale_for: keeps":     func(c *appsession.Config) { c.MaxTTL, c.StaleFor = 0, time.Minute },
		"issuer: ":             func(c *appsession.Config) { c.Issuer = " " },
		"kind: ":               func(c *appsession.Config) { c.Kind = "anonymous" },
		"assurance: ":          func(c *appsession.Config) { c.Assurance = 5 },
	} {
		a, err := appsession.New(config(t, "redis://127.0.0.1:6379/1", change), appsession.Deps{})
		if a != nil {
			_ = a.Close()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), ": "+want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%q: %v", want, err)
		}
	}
	for address, want := range map[string]int{"redis://10.0.0.1": 1, "redis://localhost": 0, "rediss://10.0.0.1": 0, "unix:///run/redis": 0} {
		c := appsession.Config{Name: "shop", URL: address}
		if n := len(c.Warnings()); n != want {
			t.Errorf("%s: %d warnings", address, n)
		}
	}
}
