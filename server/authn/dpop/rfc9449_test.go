package dpop_test

import (
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/dpop"
)

// The examples of RFC 9449: the proof of section 4.1 for a token endpoint, that of
// section 7.1 for a resource with the token beside it, and the thumbprint of section 6.1.
const (
	rfcTokenProof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19." +
		"eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ." +
		"2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
	rfcResourceProof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19." +
		"eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9." +
		"2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
	rfcToken      = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
	rfcThumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
)

// G-13: RFC 9449, section 4.3, the checks of a receiver one by one on the RFC's own
// examples.
func TestRFC9449(t *testing.T) {
	t.Parallel()
	issued := time.Unix(1562262618, 0)
	request := func(change func(*authn.Possession)) *authn.Possession {
		p := &authn.Possession{
			Proof: rfcResourceProof, Method: "GET", Scheme: "https", Host: "resource.example.org", Path: "/protectedresource",
			Token: policy.NewSecret(rfcToken), Key: rfcThumbprint,
		}
		change(p)
		return p
	}
	for name, tt := range map[string]struct {
		p     *authn.Possession
		later time.Duration
		want  policy.Reason
	}{
		"section 7.1, the example":   {request(func(*authn.Possession) {}), 0, policy.ReasonAllowed},
		"a little later":             {request(func(*authn.Possession) {}), 30 * time.Second, policy.ReasonAllowed},
		"check 1, two fields in one": {request(func(p *authn.Possession) { p.Proof += ", " + p.Proof }), 0, policy.ReasonCredentialMalformed},
		"check 2, no JWT":            {request(func(p *authn.Possession) { p.Proof = p.Proof[:len(p.Proof)-1] }), 0, policy.ReasonCredentialMalformed},
		"check 3 and 12, the proof of section 4.1 has no ath": {request(func(p *authn.Possession) {
			p.Proof, p.Method, p.Host, p.Path = rfcTokenProof, "POST", "server.example.com", "/token"
		}), 0, policy.ReasonBinding},
		"check 6, the signature of another proof":        {request(func(p *authn.Possession) { p.Proof = p.Proof[:len(p.Proof)-86] + rfcTokenProof[len(rfcTokenProof)-86:] }), 0, policy.ReasonSignatureInvalid},
		"check 8, another method":                        {request(func(p *authn.Possession) { p.Method = "POST" }), 0, policy.ReasonBinding},
		"check 9, another path":                          {request(func(p *authn.Possession) { p.Path = "/other" }), 0, policy.ReasonBinding},
		"check 9, another host":                          {request(func(p *authn.Possession) { p.Host = "resource.example.com" }), 0, policy.ReasonBinding},
		"check 9, another scheme":                        {request(func(p *authn.Possession) { p.Scheme = "http" }), 0, policy.ReasonBinding},
		"check 9, another port":                          {request(func(p *authn.Possession) { p.Port = 8443 }), 0, policy.ReasonBinding},
		"check 11, an hour later":                        {request(func(*authn.Possession) {}), time.Hour, policy.ReasonBinding},
		"check 11, an hour before":                       {request(func(*authn.Possession) {}), -time.Hour, policy.ReasonBinding},
		"check 12, another token":                        {request(func(p *authn.Possession) { p.Token = policy.NewSecret(rfcToken + "x") }), 0, policy.ReasonBinding},
		"check 12, a token that is bound to another key": {request(func(p *authn.Possession) { p.Key = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4J" }), 0, policy.ReasonBinding},
	} {
		v := verifier(t, &clock{issued.Add(tt.later)}, nil)
		if err := v.Verify(tt.p); reason(err) != tt.want {
			t.Errorf("%s: got %s, want %s (%v)", name, reason(err), tt.want, err)
		}
	}
	// Check 10: where nonces are in use, the example has none.
	v := verifier(t, &clock{issued}, func(c *dpop.Config) { c.Nonce = true })
	if err := v.Verify(request(func(*authn.Possession) {})); reason(err) != policy.ReasonBinding {
		t.Error(err)
	}
}
