package authn

import "github.com/postern-auth/postern/policy"

// Agents is the index of registered agents (server/mirror). It reads RAM only.
type Agents interface {
	// Agent returns what is registered of an agent, or nil. What it returns is shared
	// and must not change.
	Agent(tenant, id string) *Agent
	// AgentBySPIFFE and AgentByCertificate find an agent by the workload that it is: its
	// SPIFFE id, or the SHA-256 of its certificate in lower-case hex. nil for none.
	AgentBySPIFFE(id string) *Agent
	AgentByCertificate(fingerprint string) *Agent
}

// Agent is a registered agent.
type Agent struct {
	// Principal is the agent with its rights now. Its method is empty, and its owner and
	// parents are those of Lineage.
	Principal *policy.Principal
	// Ended is ReasonAllowed while the agent, its owners and its tenant are in force,
	// and otherwise why not: ReasonDisabled or ReasonRevoked.
	Ended policy.Reason
	// Keys is the JWK set with which it signs; nil for none.
	Keys []byte
	// Lineage are the ids of its owners, nearest first.
	Lineage []string
	// Roles are those of which it may get tokens, Tools the tools that it may call: a
	// name, one that ends in ".*", or "*". Empty permits none.
	Roles, Tools []string
	// Version changes whenever any of this does.
	Version int64
}

// Parents tells what became of credentials from which others came (server/mirror). It
// reads RAM only.
type Parents interface {
	// Ended returns ReasonAllowed for a credential or session that is kept and was not
	// turned off, and otherwise why not: ReasonDisabled or ReasonRevoked. One that has
	// expired or was rotated was not turned off.
	Ended(id string) policy.Reason
}
