package authn_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// registry of agents, by SPIFFE id and by certificate.
type registry map[string]*authn.Agent

func (r registry) Agent(string, string) *authn.Agent            { return nil }
func (r registry) AgentBySPIFFE(id string) *authn.Agent         { return r[id] }
func (r registry) AgentByCertificate(print string) *authn.Agent { return r[print] }

const spiffe = "spiffe://example.org/agents/researcher"

func workload(change func(*authn.Proof)) *authn.Proof {
	paper := strings.Repeat("ab", 32)
	p := &authn.Proof{
		Principal: &policy.Principal{
			ID: spiffe, Kind: policy.KindService, Roles: []string{"configured"}, Method: policy.MethodMTLS, Assurance: 4,
			CredentialID: paper, Issuer: "spiffe://example.org", IssuedAt: noon, ExpiresAt: noon.Add(1),
		},
		Constraints: &policy.Constraints{RequireTLS: true}, NotAfter: noon.Add(1), Peer: &policy.Peer{ID: spiffe},
		Subject: authn.Subject{ID: spiffe, Fingerprint: paper, Issuer: "spiffe://example.org", TokenID: "1f", IssuedAt: noon},
		Confirm: authn.Confirmation{Key: "k"},
	}
	if change != nil {
		change(p)
	}
	return p
}

func agent(id string, ended policy.Reason) *authn.Agent {
	return &authn.Agent{
		Principal: &policy.Principal{
			ID: id, Kind: policy.KindAgent, Tenant: "acme", Roles: []string{"registered"}, Issuer: "postern",
			Claims: map[string]any{"model": "m"}, Metadata: map[string]any{"a": "b"},
		},
		Ended: ended,
	}
}

// a workload that is registered is its agent, with what the registry says.
func TestEnrol(t *testing.T) {
	t.Parallel()
	of := workload(nil)
	before := *of.Principal
	got, err := authn.Enrol(registry{spiffe: agent("researcher", policy.ReasonAllowed)}, of)
	if err != nil {
		t.Fatal(err)
	}
	want := workload(func(p *authn.Proof) {
		p.State = policy.StateMirror
		p.Subject.Agent, p.Subject.Tenant = "researcher", "acme"
		p.Principal = &policy.Principal{
			ID: "researcher", Kind: policy.KindAgent, Tenant: "acme", Roles: []string{"registered"},
			Claims: map[string]any{"model": "m"}, Metadata: map[string]any{"a": "b"},
			Method: policy.MethodMTLS, Assurance: 4, CredentialID: of.Principal.CredentialID, Issuer: "spiffe://example.org",
			IssuedAt: noon, ExpiresAt: noon.Add(1),
		}
	})
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(authn.Proof{}, "Rendered", "enrolment"), cmpopts.EquateComparable()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&before, of.Principal); diff != "" {
		t.Error("the proof itself was changed: " + diff)
	}
}

// an agent that nobody knows, or that has ended, is refused, whatever name of it is
// known; others stay who they are.
func TestEnrolRefuses(t *testing.T) {
	t.Parallel()
	good, other := agent("researcher", policy.ReasonAllowed), agent("other", policy.ReasonAllowed)
	paper := workload(nil).Subject.Fingerprint
	isAgent := func(p *authn.Proof) { p.Principal.Kind = policy.KindAgent }
	for name, tt := range map[string]struct {
		agents registry
		proof  *authn.Proof
		want   policy.Reason
	}{
		"registered by SPIFFE id":   {registry{spiffe: good}, workload(nil), policy.ReasonAllowed},
		"registered by certificate": {registry{paper: good}, workload(nil), policy.ReasonAllowed},
		"by both":                   {registry{paper: good, spiffe: good}, workload(isAgent), policy.ReasonAllowed},
		"of its tenant":             {registry{spiffe: good}, workload(func(p *authn.Proof) { p.Principal.Tenant = "acme" }), policy.ReasonAllowed},
		"no agent":                  {registry{}, workload(nil), policy.ReasonAllowed},
		"not registered":            {registry{}, workload(isAgent), policy.ReasonCredentialUnknown},
		"two agents":                {registry{paper: good, spiffe: other}, workload(nil), policy.ReasonCredentialAmbiguous},
		"disabled":                  {registry{spiffe: agent("x", policy.ReasonDisabled)}, workload(nil), policy.ReasonDisabled},
		"ended":                     {registry{paper: agent("x", policy.ReasonRevoked)}, workload(nil), policy.ReasonRevoked},
		"unspecified":               {registry{paper: agent("x", policy.ReasonUnspecified)}, workload(nil), policy.ReasonUnspecified},
		"of another tenant":         {registry{spiffe: good}, workload(func(p *authn.Proof) { p.Principal.Tenant = "umbrella" }), policy.ReasonCredentialAmbiguous},
	} {
		got, err := authn.Enrol(tt.agents, tt.proof)
		var refusal *authn.Refusal
		switch {
		case tt.want == policy.ReasonAllowed && (err != nil || got == nil):
			t.Errorf("%s: %v", name, err)
		case tt.want == policy.ReasonAllowed && len(tt.agents) == 0 && got != tt.proof:
			t.Errorf("%s: it is somebody else", name)
		case tt.want != policy.ReasonAllowed && (got != nil || !errors.As(err, &refusal) || refusal.Reason != tt.want):
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// What was made once is used again until the agent changes, and costs nothing.
func TestEnrolIsCheap(t *testing.T) {
	of, agents := workload(nil), registry{spiffe: agent("researcher", policy.ReasonAllowed)}
	first, err := authn.Enrol(agents, of)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if again, err := authn.Enrol(agents, of); err != nil || again != first {
			t.Fatal(again, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	agents[spiffe] = agent("successor", policy.ReasonAllowed)
	if next, err := authn.Enrol(agents, of); err != nil || next == first || next.Principal.ID != "successor" {
		t.Errorf("%+v, %v", next, err)
	}
}

// What an authenticator refuses, or could not find out, stays so.
func TestEnrolled(t *testing.T) {
	t.Parallel()
	agents := registry{spiffe: agent("researcher", policy.ReasonAllowed)}
	if p, err := (authn.Enrolled{fixed{workload(nil), nil}, agents}).Authenticate(t.Context(), &authn.Credential{}); err != nil || p.Principal.ID != "researcher" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, want := range []error{authn.ErrNotMine, errors.New("down")} {
		if p, err := (authn.Enrolled{fixed{nil, want}, agents}).Authenticate(t.Context(), &authn.Credential{}); p != nil || !errors.Is(err, want) {
			t.Errorf("%+v, %v", p, err)
		}
	}
}
