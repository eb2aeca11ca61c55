package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/postern-auth/postern/server"
	"github.com/postern-auth/postern/server/outbound"
)

// lookAtIssuers asks each for its keys, as the server does, and for the time.
func (x *examination) lookAtIssuers(ctx context.Context) {
	if x.Config == nil {
		return
	}
	for i := range x.Config.Issuers {
		issuer := &x.Config.Issuers[i]
		at := cmp.Or(issuer.JWKS, issuer.Keys.URL)
		if at == "" && issuer.JWKSFile == "" && issuer.Keys.File == "" && !issuer.UsesSecret() {
			at = strings.TrimSuffix(issuer.URL, "/") + "/.well-known/openid-configuration"
		}
		if at != "" {
			x.lookAtIssuer(ctx, issuer, at)
		}
	}
}

func (x *examination) lookAtIssuer(ctx context.Context, issuer *server.Issuer, at string) {
	fail := func(err error) {
		x.warn("issuer", fmt.Sprintf("%s does not answer here: %v", issuer.URL, err), "its tokens are refused once the keys in memory are too old; can this machine reach it?")
	}
	asks := outbound.Config{
		Timeout: x.Server.Timeout, CAFile: issuer.Keys.CAFile,
		InsecureAllowHTTP: issuer.Keys.InsecureAllowHTTP, InsecureAllowPrivateAddresses: issuer.Keys.InsecureAllowPrivateAddresses,
	}
	to, err := outbound.ParseURL(at, &asks)
	if err != nil {
		fail(err)
		return
	}
	client, err := outbound.NewClient(asks)
	if err != nil {
		fail(err)
		return
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, x.Server.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		fail(err)
		return
	}
	asked := x.Now()
	res, err := outbound.Do(client, req)
	if err != nil {
		fail(err)
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		fail(outbound.StatusError(res.StatusCode))
		return
	}
	x.lookAtClock("issuer", issuer.URL, res.Header, asked)
	x.ok("issuer", "%s answers", issuer.URL)
}
