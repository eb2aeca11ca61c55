package authn

import (
	"context"

	"github.com/postern-auth/postern/policy"
)

// Enrol turns the proof of a workload into that of the agent that it is registered as.
// Who is not registered stays who it is, unless that is an agent: an agent that nobody
// knows, or that has ended, is a Refusal. What a proof holds of rights is the registry's
// word then, and no more what the configuration says of the workload; its constraints
// stay. The proof may be shared and is not changed. For one that was seen before, and an
// agent that has not changed since, nothing is allocated.
func Enrol(agents Agents, p *Proof) (*Proof, error) {
	a, err := enrolled(agents, p)
	switch {
	case err != nil:
		return nil, err
	case a == nil && p.Principal.Kind == policy.KindAgent:
		return nil, Refuse(policy.ReasonCredentialUnknown, "no registered agent is the workload "+p.Subject.ID)
	case a == nil:
		return p, nil
	case a.Ended != policy.ReasonAllowed:
		return nil, Refuse(a.Ended, "the workload is proven, but the agent "+a.Principal.ID+" that it is has ended")
	case p.Principal.Tenant != "" && p.Principal.Tenant != a.Principal.Tenant:
		return nil, Refuse(policy.ReasonCredentialAmbiguous,
			"the configuration has the workload "+p.Subject.ID+" in the tenant "+p.Principal.Tenant+", and the registry has its agent in "+a.Principal.Tenant)
	}
	if known := p.enrolment.Load(); known != nil && known.agent == a {
		return known.proof, nil
	}
	fresh := &enrolment{a, a.prove(p)}
	p.enrolment.Store(fresh)
	return fresh.proof, nil
}

// enrolment is the proof that came of another one, and of which agent.
type enrolment struct {
	agent *Agent
	proof *Proof
}

// enrolled finds the agent by all the names that the workload has shown. They must not be
// of two.
func enrolled(agents Agents, p *Proof) (*Agent, error) {
	byName, byPaper := agents.AgentBySPIFFE(p.Subject.ID), agents.AgentByCertificate(p.Subject.Fingerprint)
	switch {
	case byName == nil:
		return byPaper, nil
	case byPaper != nil && byPaper != byName:
		return nil, Refuse(policy.ReasonCredentialAmbiguous, "the certificate is of one agent, and the SPIFFE id in it of another")
	}
	return byName, nil
}

// prove is a proof of the agent by a workload's.
func (a *Agent) prove(p *Proof) *Proof {
	who := *a.Principal
	who.Method, who.Assurance, who.CredentialID, who.Issuer = p.Principal.Method, p.Principal.Assurance, p.Principal.CredentialID, p.Principal.Issuer
	who.IssuedAt, who.ExpiresAt = p.Principal.IssuedAt, p.Principal.ExpiresAt
	subject := p.Subject
	subject.Agent, subject.Tenant = who.ID, who.Tenant
	return &Proof{
		Principal: &who, Constraints: p.Constraints, NotAfter: p.NotAfter, Subject: subject, Origins: p.Origins,
		Confirm: p.Confirm, Audiences: p.Audiences, Peer: p.Peer, State: p.State.Max(policy.StateMirror),
	}
}

// Enrolled is an Authenticator of workloads that knows agents.
type Enrolled struct {
	Authenticator
	Agents Agents
}

// Authenticate implements Authenticator.
func (e Enrolled) Authenticate(ctx context.Context, c *Credential) (*Proof, error) {
	p, err := e.Authenticator.Authenticate(ctx, c)
	if err != nil {
		return nil, err
	}
	return Enrol(e.Agents, p)
}
