package apikey_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

const ourIssuer = "https://auth.example.com"

func signingKey(id string) signer.KeyConfig {
	seed := []byte(strings.Repeat(id+"/", ed25519.SeedSize))[:ed25519.SeedSize]
	return signer.KeyConfig{ID: id, Key: policy.NewSecret(hex.EncodeToString(seed))}
}

func newSigner(t testing.TB, ids ...string) *signer.Signer {
	t.Helper()
	cfg := signer.Config{Issuer: ourIssuer}
	for _, id := range ids {
		cfg.Keys = append(cfg.Keys, signingKey(id))
	}
	s, err := signer.New(cfg, signer.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// plane is a store with a registry and a mirror over it, and an authenticator that
// knows the tokens of the signer.
type plane struct {
	*fixture
	registry *registry.Registry
	mirror   *mirror.Mirror
	signer   *signer.Signer
	peppers  *seal.Peppers
}

func newPlane(t testing.TB) *plane {
	t.Helper()
	peppers, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret(pepperText)}})
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{fixture: &fixture{t: t, now: noon, file: "keys: []\n"}, signer: newSigner(t, "k1"), peppers: peppers}
	clock := func() time.Time { return p.now }
	st := memory.New(clock)
	p.mirror = mirror.New(mirror.Config{}, st, mirror.Deps{Now: clock, Peppers: peppers})
	p.registry = registry.New(registry.Config{}, st, registry.Deps{
		Now: clock, Peppers: peppers, Signer: func() *signer.Signer { return p.signer },
		Seen: func(ctx context.Context, _ int64) error { return p.mirror.Load(ctx) },
	})
	p.sign(p.signer)
	for _, id := range []string{"ann", "bob"} {
		_, _, err = p.registry.CreatePrincipal(t.Context(), boss, registry.CreatePrincipalRequest{PrincipalSpec: registry.PrincipalSpec{
			ID: id, Kind: policy.KindUser, Rights: registry.Rights{Scopes: []string{"orders.read", "orders.write"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

var boss = registry.Call{Actor: registry.Actor{ID: "root", Unlimited: true, Rights: registry.Rights{Roles: []string{registry.PlatformAdmin}}}}

// sign makes the authenticator of other signing keys.
func (p *plane) sign(s *signer.Signer) {
	p.t.Helper()
	a, err := apikey.New(apikey.Config{Pepper: policy.NewSecret(pepperText), File: "keys.yaml"}, apikey.Deps{
		Now: func() time.Time { return p.now }, ReadFile: func(string) ([]byte, error) { return []byte(p.file), nil },
		Indexes: []authn.Index{p.mirror.Credentials()}, Signer: s,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.signer, p.Authenticator = s, a
}

// token issues a personal access token of a user that is a JWT.
func (p *plane) token(user string) *registry.Issued {
	p.t.Helper()
	issued, _, err := p.registry.IssueCredential(context.Background(), boss, registry.IssueRequest{CredentialSpec: registry.CredentialSpec{
		Type: store.PAT, Principal: user, Name: "laptop", Format: store.JWT, Rights: registry.Rights{Scopes: []string{"orders.read"}}, TTL: time.Hour,
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	return issued
}

var tokenUses = []policy.Method{policy.MethodAPIKey, policy.MethodPAT, policy.MethodJWT}

// P-13: a token that is a JWT proves its user, with the rights that its record has.
func TestSignedToken(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	issued := p.token("ann")
	for range 3 { // the second time it is remembered
		proof := p.prove(tokenUses, issued.Secret.Reveal())
		who := proof.Principal
		if who.ID != "ann" || who.Method != policy.MethodPAT || who.CredentialID != issued.ID || who.Issuer != seal.Issuer ||
			fmt.Sprint(who.Scopes) != "[orders.read]" || proof.Subject.TokenID != issued.ID || !proof.NotAfter.Equal(noon.Add(time.Hour)) {
			t.Fatalf("%+v", who)
		}
	}
	p.prove([]policy.Method{policy.MethodPAT}, issued.Secret.Reveal())
	p.now = noon.Add(time.Hour)
	p.refused(tokenUses, issued.Secret.Reveal(), policy.ReasonExpired)
}

// P-13: it ends by its record: revoked, disabled, rotated, with its user, or by a line of
// the denylist that names its jti.
func TestSignedTokenEnds(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, tt := range map[string]struct {
		end  func(p *plane, id string) error
		want policy.Reason
	}{
		"revoked": {func(p *plane, id string) error {
			_, _, _, err := p.registry.RevokeCredential(ctx, boss, registry.EndRequest{ID: id})
			return err
		}, policy.ReasonRevoked},
		"disabled": {func(p *plane, id string) error {
			_, _, err := p.registry.DisableCredential(ctx, boss, registry.EndRequest{ID: id})
			return err
		}, policy.ReasonDisabled},
		"rotated": {func(p *plane, id string) error {
			next, _, err := p.registry.RotateCredential(ctx, boss, registry.RotateRequest{ID: id})
			if err == nil {
				p.prove(tokenUses, next.Secret.Reveal())
			}
			return err
		}, policy.ReasonRotated},
		"its user": {func(p *plane, _ string) error {
			_, _, err := p.registry.UpdatePrincipal(ctx, boss, registry.UpdatePrincipalRequest{Fields: []string{"disabled"}, Spec: registry.PrincipalSpec{ID: "ann", Disabled: true}})
			return err
		}, policy.ReasonDisabled},
		"shorter": {func(p *plane, id string) error {
			_, _, err := p.registry.UpdateCredential(ctx, boss, registry.UpdateCredentialRequest{ID: id, Fields: []string{"ttl"}, Spec: registry.CredentialSpec{TTL: time.Minute}})
			p.now = p.now.Add(time.Minute)
			return err
		}, policy.ReasonExpired},
		"deleted": {func(p *plane, _ string) error {
			_, _, err := p.registry.DeletePrincipal(ctx, boss, registry.DeletePrincipalRequest{ID: "ann"})
			return err
		}, policy.ReasonCredentialUnknown},
		"quarantine": {func(p *plane, id string) error { p.Quarantine(id); return nil }, policy.ReasonDisabled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlane(t)
			issued, other := p.token("ann"), p.token("bob")
			p.prove(tokenUses, issued.Secret.Reveal())
			if err := tt.end(p, issued.ID); err != nil {
				t.Fatal(err)
			}
			p.refused(tokenUses, issued.Secret.Reveal(), tt.want)
			p.prove(tokenUses, other.Secret.Reveal())
		})
	}
}

// P-13, J-09: a line of a denylist revokes it by its jti, in the store and in the keys
// file, whether the line names no issuer, Postern, or the iss of its tokens.
func TestSignedTokenOnADenylist(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	for _, issuer := range []string{"", seal.Issuer, ourIssuer} {
		issued, other := p.token("ann"), p.token("ann")
		proof, safe := p.prove(tokenUses, issued.Secret.Reveal()), p.prove(tokenUses, other.Secret.Reveal())
		if _, _, err := p.registry.AddDenial(context.Background(), boss, store.Denial{JTI: issued.ID, Issuer: issuer}); err != nil {
			t.Fatal(err)
		}
		_, revoked := p.mirror.Revoked(&proof.Subject)
		if _, others := p.mirror.Revoked(&safe.Subject); !revoked || others {
			t.Errorf("issuer %q: revoked %v, another one %v", issuer, revoked, others)
		}
		listed := p.token("ann")
		proof = p.prove(tokenUses, listed.Secret.Reveal())
		p.reload(fmt.Sprintf("revocations: [{jti: %s, issuer: %q}]\n", listed.ID, issuer))
		_, revoked = p.Revoked(&proof.Subject)
		if _, others := p.Revoked(&safe.Subject); !revoked || others {
			t.Errorf("issuer %q in the keys file: revoked %v, another one %v", issuer, revoked, others)
		}
	}
	for _, issuer := range []string{seal.Issuer, ourIssuer} {
		p.file = fmt.Sprintf("revocations: [{kid: k1, issuer: %q}]\n", issuer)
		if err := p.Reload(context.Background()); err == nil || !strings.Contains(err.Error(), "signing.keys") {
			t.Errorf("a line that revokes nothing is taken: %v", err)
		}
	}
}

// P-13: keys rotate with overlap, and what a key has signed ends with it.
func TestSignedTokenAndItsKey(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	old := p.token("ann").Secret.Reveal()
	p.sign(newSigner(t, "k1", "k2"))
	p.prove(tokenUses, old)
	p.sign(newSigner(t, "k2", "k1"))
	young := p.token("ann").Secret.Reveal()
	p.prove(tokenUses, old)
	p.prove(tokenUses, young)
	p.sign(newSigner(t, "k2"))
	p.notMine(tokenUses, old)
	p.prove(tokenUses, young)
	p.sign(nil)
	p.notMine(tokenUses, young)

	// The same kid for another key: the record is there, and the signature is not good.
	impostor := signingKey("k9")
	impostor.ID = "k2"
	s, err := signer.New(signer.Config{Issuer: ourIssuer, Keys: []signer.KeyConfig{impostor}}, signer.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	p.sign(s)
	p.refused(tokenUses, young, policy.ReasonSignatureInvalid)
	other, err := signer.New(signer.Config{Issuer: "https://other.example.com", Keys: []signer.KeyConfig{signingKey("k2")}}, signer.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	p.sign(other)
	p.refused(tokenUses, young, policy.ReasonCredentialUnknown)
}

// P-13: what was not issued proves nothing, whoever signed it, and none of two tokens
// with one jti but the one that was issued.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	issued := p.token("ann")
	text := issued.Secret.Reveal()
	parts := strings.Split(text, ".")
	resign := func(claims string) string { return p.signer.Sign(signer.TypePAT, []byte(claims)) }
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	same := string(claims)
	if resign(same) != text {
		t.Fatal("the same claims make another token")
	}
	head := parts[0] + "."
	for name, tt := range map[string]struct {
		text string
		want policy.Reason
	}{
		"signed, no record":      {resign(strings.Replace(same, issued.ID, "AAAAAAAAAAAA", 1)), policy.ReasonCredentialUnknown},
		"signed, another user":   {resign(strings.Replace(same, `"sub":"ann"`, `"sub":"bob"`, 1)), policy.ReasonCredentialUnknown},
		"signed, lives longer":   {resign(strings.Replace(same, `"exp":1`, `"exp":2`, 1)), policy.ReasonCredentialUnknown},
		"signed, one space more": {resign(strings.Replace(same, `,"aud"`, `, "aud"`, 1)), policy.ReasonCredentialUnknown},
		"signed, another iss":    {resign(strings.Replace(same, `"iss":"`+ourIssuer, `"iss":"https://evil.example`, 1)), policy.ReasonCredentialUnknown},
		"signed, for another":    {resign(strings.Replace(same, `"aud":"`+ourIssuer, `"aud":"https://orders.example`, 1)), policy.ReasonCredentialUnknown},
		"signed, no jti":         {resign(strings.Replace(same, `"jti"`, `"jtx"`, 1)), policy.ReasonCredentialMalformed},
		"signed, odd jti":        {resign(strings.Replace(same, issued.ID, "../../../etc", 1)), policy.ReasonCredentialMalformed},
		"signed, no exp":         {resign(strings.Replace(same, `"exp"`, `"exq"`, 1)), policy.ReasonCredentialMalformed},
		"signed, exp a text":     {resign(`{"jti":"` + issued.ID + `","exp":"9"}`), policy.ReasonCredentialMalformed},
		"signed, jti twice":      {resign(strings.Replace(same, `{`, `{"jti":"x",`, 1)), policy.ReasonCredentialMalformed},
		"signed, nested":         {resign(`{"a":[[1]]}`), policy.ReasonCredentialMalformed},
		"signed, no object":      {resign(`[]`), policy.ReasonCredentialMalformed},
		"another signature":      {head + parts[1] + "." + strings.Repeat("A", 86), policy.ReasonCredentialUnknown},
		"no signature":           {head + parts[1] + ".", policy.ReasonCredentialMalformed},
		"two parts":              {head + parts[1], policy.ReasonCredentialMalformed},
		"four parts":             {text + ".AAAA", policy.ReasonCredentialMalformed},
		"only the head":          {head, policy.ReasonCredentialMalformed},
		"a line break":           {text + "\n", policy.ReasonCredentialMalformed},
		"padded":                 {text + "==", policy.ReasonCredentialMalformed},
		"loose bits":             {text[:len(text)-1] + "B", policy.ReasonCredentialMalformed},
		"too long":               {head + strings.Repeat("A", seal.MaxSignedLen) + ".AAAA", policy.ReasonTokenTooLarge},
	} {
		t.Run(name, func(*testing.T) { p.refused(tokenUses, tt.text, tt.want) })
	}
	for name, text := range map[string]string{
		"another type":    p.signer.Sign(signer.TypeIdentity, claims),
		"no type":         base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA","kid":"k1"}`)) + "." + parts[1] + "." + parts[2],
		"another kid":     newSigner(t, "k7").Sign(signer.TypePAT, claims),
		"alg none":        base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"k1","typ":"pat+jwt"}`)) + "." + parts[1] + ".",
		"another spelled": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA", "kid":"k1","typ":"pat+jwt"}`)) + "." + parts[1] + "." + parts[2],
		"somebody else's": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln",
	} {
		t.Run(name, func(*testing.T) { p.notMine(tokenUses, text) })
	}
	p.prove(tokenUses, text)
}

// K-04: a jti that nobody has and a token that is not the record's cost the same digests,
// and neither costs a look at a signature.
func TestForgedTokensCostTheSame(t *testing.T) {
	p := newPlane(t) // not parallel: it counts all digests
	issued := p.token("ann")
	claims, _ := base64.RawURLEncoding.DecodeString(strings.Split(issued.Secret.Reveal(), ".")[1])
	count := func(claims string) (n int) {
		text := p.signer.Sign(signer.TypePAT, []byte(claims))
		defer seal.Observe(func() { n++ })()
		p.refused(tokenUses, text, policy.ReasonCredentialUnknown)
		return n
	}
	unknown := count(strings.Replace(string(claims), issued.ID, "AAAAAAAAAAAA", 1))
	wrong := count(strings.Replace(string(claims), `"sub":"ann"`, `"sub":"bob"`, 1))
	if unknown != wrong || unknown != 1 {
		t.Errorf("%d digests for an unknown jti, %d for a wrong token", unknown, wrong)
	}
}

// Whatever begins as a token of ours does is answered without a panic and proves nothing.
func FuzzSigned(f *testing.F) {
	p := newPlane(f)
	good := p.token("ann").Secret.Reveal()
	head := p.signer.Heads(signer.TypePAT)[0]
	f.Add(strings.TrimPrefix(good, head))
	f.Add("")
	f.Add("e30.AAAA")
	f.Fuzz(func(t *testing.T, rest string) {
		text := head + rest
		proof, err := p.ask(tokenUses, text)
		if (proof != nil) != (text == good) || (proof == nil) == (err == nil) {
			t.Fatalf("%q: %v, %v", text, proof, err)
		}
	})
}

func BenchmarkSigned(b *testing.B) {
	p := newPlane(b)
	c := &authn.Credential{Uses: tokenUses, Secret: p.token("ann").Secret}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Authenticate(context.Background(), c); err != nil {
			b.Fatal(err)
		}
	}
}
