package signer_test

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/signer"
)

func agentToken() signer.Agent {
	return signer.Agent{
		ID: "8XqIDm7K2vWf0aYcPz1RtA", Subject: "researcher", Tenant: "acme", Audience: []string{"api"},
		Roles: []string{"writer"}, Scopes: []string{"data:read", "data:write"}, TokenBudget: 10_000,
		IssuedAt: noon.Add(700 * time.Millisecond), ExpiresAt: noon.Add(15 * time.Minute),
	}
}

// the golden claims of agent tokens.
func TestAgent(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	plain := map[string]any{
		"iss": issuer, "sub": "researcher", "aud": "api", "iat": float64(noon.Unix()), "exp": float64(noon.Unix() + 900),
		"jti": "8XqIDm7K2vWf0aYcPz1RtA", "tenant": "acme", "type": "agent", "roles": []any{"writer"},
		"scopes": []any{"data:read", "data:write"}, "scope": "data:read data:write", "token_budget": 10_000.0,
	}
	bound := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("\xab", 32)))
	for name, tt := range map[string]struct {
		change func(*signer.Agent)
		claims map[string]any
	}{
		"plain":         {func(*signer.Agent) {}, nil},
		"two audiences": {func(a *signer.Agent) { a.Audience = []string{"api", "tools"} }, map[string]any{"aud": []any{"api", "tools"}}},
		"bound": {func(a *signer.Agent) { a.Certificate, a.Key = strings.Repeat("ab", 32), "thumbprint" },
			map[string]any{"cnf": map[string]any{"x5t#S256": bound, "jkt": "thumbprint"}}},
		"from others": {func(a *signer.Agent) {
			a.Via, a.Root = []string{"AAAAAAAAAAAA"}, "j-1"
			a.Origins = []signer.Origin{
				{Issuer: "postern", ID: "root", TokenID: "AAAAAAAAAAAA", IssuedAt: noon.Add(-time.Hour + 700*time.Millisecond)},
				{
					Issuer: "https://idp.example.com", ID: "ann \"x\"", Agent: "bot", Tenant: "acme", TokenID: "j-1", SessionID: "s-1", Client: "web", KeyID: "k-9",
					Fingerprint: strings.Repeat("ab", 32),
				},
			}
		}, map[string]any{"via": []any{"AAAAAAAAAAAA"}, "root": "j-1", "origins": []any{
			map[string]any{"iss": "postern", "sub": "root", "jti": "AAAAAAAAAAAA", "iat": float64(noon.Unix() - 3600)},
			map[string]any{
				"iss": "https://idp.example.com", "sub": "ann \"x\"", "agent": "bot", "tenant": "acme", "jti": "j-1", "sid": "s-1", "client_id": "web", "kid": "k-9",
				"fingerprint": strings.Repeat("ab", 32),
			},
		}}},
		"for a user": {func(a *signer.Agent) {
			a.Subject, a.Kind, a.Origin = "ann", policy.KindUser, "https://idp.example.com"
			a.Actors = []policy.Actor{{ID: "coder", Kind: policy.KindAgent}, {ID: "researcher", Kind: policy.KindAgent}}
		}, map[string]any{"sub": "ann", "kind": "user", "origin": "https://idp.example.com", "act": map[string]any{
			"sub": "coder", "kind": "agent", "act": map[string]any{"sub": "researcher", "kind": "agent"},
		}}},
	} {
		said := agentToken()
		tt.change(&said)
		text, err := s.Agent(&said)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		token := verified(t, s, text.Reveal())
		if typ, _ := token.Header().Get("typ").Text(); typ != "agent+jwt" || token.Algorithm() != "EdDSA" || token.KeyID() != "k1" {
			t.Errorf("%s: typ %s", name, typ)
		}
		want := map[string]any{}
		for _, m := range []map[string]any{plain, tt.claims} {
			for k, v := range m {
				want[k] = v
			}
		}
		if diff := cmp.Diff(want, payload(t, text.Reveal())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if !strings.HasPrefix(text.Reveal(), s.Heads(signer.TypeAgent)[0]) || strings.HasPrefix(text.Reveal(), s.Heads(signer.TypePAT)[0]) {
			t.Errorf("%s begins as something else", name)
		}
	}
}

// Who is nobody, or a token for everywhere or never, gets none.
func TestNoAgent(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	for name, tt := range map[string]struct {
		change func(*signer.Agent)
		want   error
	}{
		"no subject":  {func(a *signer.Agent) { a.Subject = "" }, signer.ErrNobody},
		"no id":       {func(a *signer.Agent) { a.ID = "" }, signer.ErrNobody},
		"no audience": {func(a *signer.Agent) { a.Audience = nil }, signer.ErrNoAudience},
		"no life":     {func(a *signer.Agent) { a.ExpiresAt = a.IssuedAt }, signer.ErrEnded},
		"many actors": {func(a *signer.Agent) { a.Actors = make([]policy.Actor, 15) }, signer.ErrTooLarge},
		"many origins": {func(a *signer.Agent) {
			a.Origins = slices.Repeat([]signer.Origin{{Issuer: "postern", ID: "x"}}, signer.MaxOrigins+1)
		}, signer.ErrTooLarge},
		"many scopes": {func(a *signer.Agent) { a.Scopes = strings.Fields(strings.Repeat("data:read ", 1000)) }, signer.ErrTooLarge},
	} {
		said := agentToken()
		tt.change(&said)
		if text, err := s.Agent(&said); !text.IsZero() || !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	said := agentToken()
	said.Certificate = "no hex"
	if text, err := s.Agent(&said); !text.IsZero() || err == nil {
		t.Error("bound to nothing")
	}
	var nobody *signer.Signer
	if text, err := nobody.Agent(&said); !text.IsZero() || !errors.Is(err, signer.ErrNotConfigured) {
		t.Error(err)
	}
	if id, err := nobody.NewID(); id != "" || !errors.Is(err, signer.ErrNotConfigured) {
		t.Error(err)
	}
	for range 1000 {
		if id, err := s.NewID(); err != nil || len(id) != 22 || id[0] == '-' {
			t.Fatalf("%q %v", id, err)
		}
	}
}
