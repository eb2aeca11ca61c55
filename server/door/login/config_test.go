package login_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door/login"
)

// S-04: the whole Set-Cookie field, as golden lines. By default it has every
// protection that browsers know; each is lowered by a setting that says insecure, and
// that warns.
func TestSetCookie(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cfg      login.Config
		want     string
		warnings int
	}{
		{login.Config{}, "__Host-session=v; Path=/; Secure; HttpOnly; SameSite=Lax", 0},
		{login.Config{SameSite: login.SameSiteStrict}, "__Host-session=v; Path=/; Secure; HttpOnly; SameSite=Strict", 0},
		{login.Config{Cookie: "__Host-sid"}, "__Host-sid=v; Path=/; Secure; HttpOnly; SameSite=Lax", 0},
		{login.Config{InsecureHTTP: true}, "session=v; Path=/; HttpOnly; SameSite=Lax", 1},
		{login.Config{InsecureScript: true}, "__Host-session=v; Path=/; Secure; SameSite=Lax", 1},
		{login.Config{InsecureSameSiteNone: true}, "__Host-session=v; Path=/; Secure; HttpOnly; SameSite=None", 1},
		{login.Config{InsecureDomain: "example.com"}, "__Secure-session=v; Path=/; Domain=example.com; Secure; HttpOnly; SameSite=Lax", 1},
		{login.Config{InsecureName: true, Cookie: "sid"}, "sid=v; Path=/; Secure; HttpOnly; SameSite=Lax", 1},
		{login.Config{InsecureSameSiteRequests: true}, "__Host-session=v; Path=/; Secure; HttpOnly; SameSite=Lax", 1},
	} {
		tt.cfg.Check(func(path, message, _ string) { t.Errorf("%+v: %s %s", tt.cfg, path, message) })
		set := tt.cfg.SetCookie(policy.NewSecret("v"))
		if set.Reveal() != tt.want {
			t.Errorf("got  %s\nwant %s", set.Reveal(), tt.want)
		}
		if strings.Contains(fmt.Sprint(set), "v;") {
			t.Error("the cookie is printed")
		}
		if w := tt.cfg.Warnings(); len(w) != tt.warnings || tt.warnings > 0 && !strings.Contains(w[0], "sessions.insecure_") {
			t.Errorf("%+v: %q", tt.cfg, w)
		}
		cleared := strings.Replace(strings.Replace(tt.want, "=v;", "=;", 1), "Path=/", "Path=/; Max-Age=0", 1)
		if got := tt.cfg.ClearCookie(); got != cleared {
			t.Errorf("cleared by %s, want %s", got, cleared)
		}
	}
}

// S-04: what would lower a protection without a word, or what no browser would take,
// is an error.
func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cfg  login.Config
		want string
	}{
		{login.Config{Cookie: "sid"}, "cookie does not begin with __Host-"},
		{login.Config{Cookie: "__Secure-sid"}, "cookie does not begin with __Host-"},
		{login.Config{Cookie: "__host-sid"}, "cookie browsers write the prefix in another case"},
		{login.Config{Cookie: "__host-sid", InsecureName: true}, "cookie browsers write"},
		{login.Config{Cookie: "a b", InsecureName: true}, "cookie is not a name"},
		{login.Config{Cookie: "sid;x", InsecureName: true}, "cookie is not a name"},
		{login.Config{Cookie: "__Host-" + strings.Repeat("x", 60)}, "cookie is not a name"},
		{login.Config{Cookie: "__Host-sid", InsecureHTTP: true}, "cookie browsers take a name with this prefix over TLS only"},
		{login.Config{Cookie: "__Secure-sid", InsecureHTTP: true}, "cookie browsers take"},
		{login.Config{Cookie: "__Host-sid", InsecureDomain: "example.com"}, "cookie browsers take a name with __Host- for one host only"},
		{login.Config{Cookie: "sid", InsecureDomain: "example.com"}, "cookie does not begin with __Secure-"},
		{login.Config{SameSite: "none"}, "same_site is not lax or strict"},
		{login.Config{InsecureSameSiteNone: true, InsecureHTTP: true}, "insecure_same_site_none browsers take SameSite=None over TLS only"},
		{login.Config{InsecureDomain: "com"}, "insecure_domain is not a domain"},
		{login.Config{InsecureDomain: ".example.com"}, "insecure_domain is not a domain"},
		{login.Config{InsecureDomain: "example.com; Path=/x"}, "insecure_domain is not a domain"},
		{login.Config{InsecureDomain: "Example.com"}, "insecure_domain is not a domain"},
		{login.Config{Idle: time.Second}, "idle is less than 1m0s"},
		{login.Config{Idle: -time.Hour}, "idle is less"},
		{login.Config{Idle: 2 * time.Hour, Max: time.Hour}, "max is not from idle, 2h0m0s, to 720h0m0s"},
		{login.Config{Max: 721 * time.Hour}, "max is not from"},
		{login.Config{LoginTries: -1}, "login_tries is not"},
		{login.Config{LoginWindow: time.Millisecond}, "login_window is not"},
	} {
		var all []string
		tt.cfg.Check(func(path, message, _ string) { all = append(all, path+" "+message) })
		if len(all) != 1 || !strings.HasPrefix(all[0], tt.want) {
			t.Errorf("%+v: %q, want %q", tt.cfg, all, tt.want)
		}
	}
}

// S-06: 30 minutes without use and 8 hours in all, unless the configuration says
// otherwise; one of the two moves the other's default, where it must.
func TestDefaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ idle, max, wantIdle, wantMax time.Duration }{
		{0, 0, 30 * time.Minute, 8 * time.Hour},
		{time.Hour, 0, time.Hour, 8 * time.Hour},
		{10 * time.Hour, 0, 10 * time.Hour, 10 * time.Hour},
		{0, 10 * time.Minute, 10 * time.Minute, 10 * time.Minute},
		{0, 24 * time.Hour, 30 * time.Minute, 24 * time.Hour},
	} {
		c := login.Config{Idle: tt.idle, Max: tt.max}.WithDefaults()
		if c.Idle != tt.wantIdle || c.Max != tt.wantMax {
			t.Errorf("%v and %v give %v and %v", tt.idle, tt.max, c.Idle, c.Max)
		}
	}
	if v := login.SameSite("").Values(); !slices.Equal(v, []string{"lax", "strict"}) {
		t.Error(v)
	}
}
