package server

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
)

// A reload brings callers to listeners that stay as they are: what guards them must
// not go, even if the new configuration would listen elsewhere. G-01
func TestGuardsOfRunningListeners(t *testing.T) {
	t.Parallel()
	at := func(grpc, admin string) Listen {
		var l Listen
		if err := l.GRPC.UnmarshalText([]byte(grpc)); err != nil {
			t.Fatal(err)
		}
		if err := l.Admin.UnmarshalText([]byte(admin)); err != nil {
			t.Fatal(err)
		}
		return l
	}
	var (
		local  = at("127.0.0.1:9191", "unix:///run/postern/admin.sock")
		open   = at("0.0.0.0:9191", "off")
		admin  = at("[::1]:9191", "10.0.0.1:9192")
		plain  = &TLS{Cert: "a", Key: "b"}
		mutual = &TLS{Cert: "a", Key: "b", ClientCA: "c"}
		mesh   = []Caller{{Name: "mesh", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
		token  = []Caller{{Name: "nginx", Token: policy.NewSecret(strings.Repeat("ab", 16))}}
	)
	for name, c := range map[string]struct {
		listen  Listen
		tls     *TLS
		callers []Caller
		want    string // part of the error, or empty
	}{
		"nobody else reaches it":          {local, nil, nil, ""},
		"nobody else reads the token":     {local, nil, token, ""},
		"strangers":                       {open, nil, nil, "listen.grpc"},
		"strangers who know us":           {open, plain, nil, "listen.grpc"},
		"strangers at admin":              {admin, nil, nil, "listen.admin"},
		"strangers at admin, who know us": {admin, plain, nil, "listen.admin"},
		"a certificate":                   {open, mutual, nil, ""},
		"a certificate at admin":          {admin, mutual, nil, ""},
		"a network":                       {open, nil, mesh, ""},
		"a token":                         {open, plain, token, ""},
		"a token in clear":                {open, nil, token, "callers[0].token"},
		"a token in clear to admin":       {admin, nil, token, "callers[0].token"},
	} {
		next := Default() // listens on loopback itself
		next.Callers = c.callers
		err := next.guards(c.listen, c.tls)
		if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
