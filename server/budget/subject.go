package budget

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Subject is who has an account: those fields are set that its budget tells apart by.
type Subject struct {
	Tenant, Principal, Agent, Key, Token, Owner string
	// Issuer vouches for all of them but the tenant.
	Issuer string
}

// String is the subject as people read it: "tenant=acme agent=a1". The installation is
// "-".
func (s Subject) String() string {
	var b strings.Builder
	for _, f := range []struct{ name, value string }{
		{"tenant", s.Tenant}, {"principal", s.Principal}, {"agent", s.Agent}, {"key", s.Key}, {"token", s.Token}, {"owner", s.Owner},
		{"issuer", s.Issuer},
	} {
		if f.value == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(f.name + "=" + plain(f.value))
	}
	if b.Len() == 0 {
		return "-"
	}
	return b.String()
}

// plain quotes what could be taken for more than one word.
func plain(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '=' || r == '"' || r >= 0x7f }) {
		return strconv.QuoteToASCII(s)
	}
	return s
}

// subject returns who a request is charged to in a budget, or false if it has nothing of
// what the budget is for.
func (r *rule) subject(p *policy.Principal, owner func(*policy.Principal) string) (s Subject, ok bool) {
	for _, per := range r.Per {
		switch per {
		case PerTenant:
			s.Tenant = p.Tenant // those without one have one together
			continue
		case PerPrincipal:
			s.Principal = cmp.Or(p.ID, string(p.Kind)) // nobody in particular has one as well
		case PerAgent:
			s.Agent = agentOf(p)
		case PerKey:
			s.Key = credentialOf(p)
		case PerToken:
			if keptHere(p.Method) {
				return s, false
			}
			s.Token = credentialOf(p)
		case PerOwner:
			if owner == nil {
				return s, false
			}
			s.Owner = owner(p)
		}
		// An id means something within its tenant and issuer only.
		s.Issuer, s.Tenant = p.Issuer, p.Tenant
		if s.Principal == "" && s.Agent == "" && s.Key == "" && s.Token == "" && s.Owner == "" {
			return s, false
		}
	}
	return s, true
}

// agentOf is the agent that a principal is, or the one that acts for it now.
func agentOf(p *policy.Principal) string {
	if p.Kind == policy.KindAgent {
		return p.ID
	}
	if len(p.Actors) > 0 && p.Actors[0].Kind == policy.KindAgent {
		return p.Actors[0].ID
	}
	return ""
}

// keptHere reports whether credentials of a method are kept by Postern or are none.
func keptHere(m policy.Method) bool {
	switch m {
	case policy.MethodAPIKey, policy.MethodPAT, policy.MethodBasic, policy.MethodSession, policy.MethodMTLS, policy.MethodAnonymous:
		return true
	}
	return false
}

// credentialOf names a credential. One without an id is told from others of its
// principal by its times: tokens that were made in the same second share a budget,
// which is too little rather than too much.
func credentialOf(p *policy.Principal) string {
	if p.BudgetID != "" { // or exchanges would make many budgets of one
		return p.BudgetID
	}
	if p.CredentialID != "" {
		return p.CredentialID
	}
	return p.ID + "@" + unix(p.IssuedAt) + "-" + unix(p.ExpiresAt)
}

func unix(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.Unix(), 10)
}

// accountKey names an account: a digest over whatever makes it another one. Parts are
// hashed with their lengths, so that they cannot run into each other.
func (r *rule) accountKey(s Subject, begin time.Time) (key [16]byte) {
	parts := []string{"1", r.Name, string(r.Unit), r.Window.String(), unix(begin)}
	for _, per := range r.Per {
		parts = append(parts, string(per))
	}
	parts = append(parts, s.Tenant, s.Principal, s.Agent, s.Key, s.Token, s.Owner, s.Issuer)
	h := sha256.New()
	var length [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(length[:], uint64(len(p)))
		h.Write(length[:])
		h.Write([]byte(p))
	}
	h.Sum(length[:0])
	copy(key[:], h.Sum(nil))
	return key
}
