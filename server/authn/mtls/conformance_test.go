package mtls_test

import (
	"context"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/authntest"
	"github.com/postern-auth/postern/server/authn/mtls"
)

// asCredential puts a credential's text where a gateway puts a certificate.
type asCredential struct{ *mtls.Authenticator }

func (a asCredential) Authenticate(_ context.Context, c *authn.Credential) (*authn.Proof, error) {
	return a.Peer(withHeaders("client-cert", c.Secret.Reveal()), mtls.Trust{ClientCert: true})
}

func TestConformance(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	w := open(t, config(), map[string]string{"prod.pem": certPEM(root.cert)})
	text := func(id string, by *ca) string { return viaClientCert(by.issue(leaf(uris(id)))).Headers[1].Value }
	authntest.Suite{
		Authenticator: asCredential{w.Authenticator},
		Uses:          []policy.Method{policy.MethodMTLS},
		Good:          map[string]string{text(shopID, root): shopID},
		Bad: map[string]policy.Reason{
			text(shopID, newCA("other", nil, nil)):    policy.ReasonIssuerUntrusted,
			text("spiffe://other.test/web", root):     policy.ReasonIssuerUntrusted,
			text("spiffe://prod.test/%77eb", root):    policy.ReasonCredentialMalformed,
			viaClientCert(root.cert).Headers[1].Value: policy.ReasonCredentialUnknown,
		},
	}.Run(t)
}

// raceEnabled is set where the race detector counts allocations of its own.
var raceEnabled bool

// A certificate that was seen before costs no allocation, wherever it comes from.
func TestWarmPeerDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	root := newCA("root", nil, nil)
	between := newCA("between", root, nil)
	w := open(t, config(), map[string]string{"prod.pem": certPEM(root.cert)})
	shop := root.issue(leaf(uris(shopID)))
	chain := between.issue(leaf(uris(shopID)))
	for name, a := range map[string]*policy.Attributes{
		"XFCC": viaXFCC(chain, between.cert), "Client-Cert": viaClientCert(shop), "source": viaSource(shop), "connection": viaConnection(shop),
		"none": withHeaders("x-api-key", "k"),
	} {
		if n := testing.AllocsPerRun(100, func() { _, _ = w.Peer(a, everything) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	other := viaXFCC(newCA("other", nil, nil).issue(leaf(uris(shopID))))
	if n := testing.AllocsPerRun(100, func() { _, _ = w.Peer(other, everything) }); n > 0 {
		t.Errorf("refused: %v allocations", n)
	}
}

func BenchmarkPeer(b *testing.B) {
	root := newCA("root", nil, nil)
	between := newCA("between", root, nil)
	chain := between.issue(leaf(uris(shopID)))
	w := open(b, config(), map[string]string{"prod.pem": certPEM(root.cert)})
	for _, c := range []struct {
		name string
		show *policy.Attributes
	}{
		{"none", withHeaders("x-api-key", "k")}, {"connection", viaConnection(chain, between.cert)},
		{"Client-Cert", viaClientCert(chain, between.cert)}, {"XFCC", viaXFCC(chain, between.cert)},
	} {
		b.Run(c.name+"/warm", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = w.Peer(c.show, everything)
			}
		})
	}
	b.Run("XFCC/cold", func(b *testing.B) {
		b.ReportAllocs()
		a := viaXFCC(chain, between.cert)
		for b.Loop() {
			w.Forget()
			if _, err := w.Peer(a, everything); err != nil {
				b.Fatal(err)
			}
		}
	})
}
