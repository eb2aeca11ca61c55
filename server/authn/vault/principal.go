package vault

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
)

// What is refused though Vault knows the token.
var (
	errRoot      = authn.Refuse(policy.ReasonWrongTokenType, "a root token: whoever may do everything in Vault should not be calling APIs")
	errBatch     = authn.Refuse(policy.ReasonWrongTokenType, "a batch token, which nobody can revoke (accept_batch)")
	errKind      = authn.Refuse(policy.ReasonWrongTokenType, "Vault says that it is of another type than its prefix does")
	errWrapping  = authn.Refuse(policy.ReasonWrongTokenType, "a wrapping or control group token: it stands for a secret, not for a caller")
	errLimited   = authn.Refuse(policy.ReasonWrongTokenType, "a token of limited uses (num_uses), which are meant for Vault (accept_limited_use)")
	errUsedUp    = authn.Refuse(policy.ReasonRevoked, "the token is used up or about to be revoked (num_uses below 0)")
	errExpired   = authn.Refuse(policy.ReasonExpired, "its ttl is over")
	errEntity    = authn.Refuse(policy.ReasonDisabled, "its entity was disabled or deleted in Vault")
	errNamespace = authn.Refuse(policy.ReasonCredentialUnknown, "it is of a namespace whose tokens are not accepted (namespaces)")
	errPath      = authn.Refuse(policy.ReasonMethodNotAccepted, "it was made in a way that is not accepted (paths)")
	errCIDRs     = authn.Refuse(policy.ReasonInvalidClaim, "its bound_cidrs cannot be read, so where it may be used is not known")
	errNowhere   = authn.Refuse(policy.ReasonInvalidClaim, "its bound_cidrs have no address in common with the configured networks")
)

// The policies that say what a token is rather than what it may do.
const policyRoot = "root"

var policiesOfWrapping = []string{"response-wrapping", "control-group"}

// permits refuses tokens that the configuration does not accept.
func (a *Authenticator) permits(found *answer, kind tokenKind) error {
	switch {
	case found.batch != (kind == batch):
		return errKind
	case found.numUses < 0:
		return errUsedUp
	case found.expires && found.ttl == 0:
		return errExpired
	case found.batch && !a.cfg.AcceptBatch:
		return errBatch
	case !a.cfg.InsecureAcceptRoot && (slices.Contains(found.policies, policyRoot) || slices.Contains(found.identity, policyRoot)):
		return errRoot
	case slices.ContainsFunc(policiesOfWrapping, func(p string) bool { return slices.Contains(found.policies, p) }):
		return errWrapping
	case found.limited() && a.login == nil:
		return errLimitedSelf
	case found.limited() && !a.cfg.AcceptLimitedUse:
		return errLimited
	case !a.acceptsNamespace(found.namespace):
		return errNamespace
	case len(a.cfg.Paths) > 0 && !matchesAny(a.cfg.Paths, found.path):
		return errPath
	case found.cidrsUnread:
		return errCIDRs
	}
	return nil
}

// acceptsNamespace holds a token's namespace against the configuration. Names of
// policies mean something within one namespace only: whoever administers another one
// may call a policy there by any name. So others are accepted only if they are listed,
// or if each of them is a tenant of its own.
func (a *Authenticator) acceptsNamespace(namespace string) bool {
	own := strings.Trim(a.cfg.Namespace, "/")
	switch {
	case len(a.cfg.Namespaces) > 0:
		return matchesAny(a.cfg.Namespaces, namespace)
	case a.cfg.Tenant == tenantNamespace:
		return own == "" || namespace == own || strings.HasPrefix(namespace, own+"/")
	}
	return namespace == own
}

// matchesAny reports whether a path is one of the patterns: the same, or below a pattern
// that ends in "/*". "*" alone is every path.
func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if below, ok := strings.CutSuffix(pattern, "*"); ok {
			return strings.HasPrefix(path, below)
		}
		return strings.Trim(pattern, "/") == path
	})
}

// proof makes the proof of a token that is accepted.
func (a *Authenticator) proof(found *answer, token string, asked time.Time) (*authn.Proof, error) {
	credential := found.accessor
	if credential == "" {
		credential = digest(token)
	}
	id, err := a.id(found, credential)
	if err != nil {
		return nil, err
	}
	tenant, err := a.tenant(found)
	if err != nil {
		return nil, err
	}
	constraints, err := a.constrain(found)
	if err != nil {
		return nil, err
	}
	var notAfter time.Time
	if found.expires {
		notAfter = asked.Add(found.ttl)
	}
	policies := a.policiesOf(found)
	p := &policy.Principal{
		ID:           id,
		Kind:         a.cfg.Kind,
		Tenant:       tenant,
		Roles:        mapped(a.cfg.Roles, policies),
		Scopes:       mapped(a.cfg.Scopes, policies),
		Claims:       claims(found, policies),
		Metadata:     a.keptMetadata(found.meta),
		Method:       a.cfg.Method,
		Assurance:    a.cfg.Assurance,
		CredentialID: credential,
		Issuer:       a.cfg.Address,
		IssuedAt:     found.created,
		ExpiresAt:    notAfter,
	}
	return &authn.Proof{
		Principal:   p,
		Constraints: constraints,
		NotAfter:    notAfter,
		State:       policy.StateStore,
		Subject: authn.Subject{
			TokenID:  credential,
			Issuer:   a.cfg.Address,
			ID:       id,
			Agent:    agentOf(p),
			Tenant:   tenant,
			IssuedAt: found.created,
		},
	}, nil
}

func agentOf(p *policy.Principal) string {
	if p.Kind == policy.KindAgent {
		return p.ID
	}
	return ""
}

// digest names a batch token, which has no accessor, in logs and denylists: the first
// half of its SHA-256. The token is encrypted with a key of Vault's, so nobody finds it
// by guessing.
func digest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return "sha256:" + hex.EncodeToString(sum[:sha256.Size/2])
}

// id returns who the caller is. Without a configured field that is the entity, or else
// the token by itself.
func (a *Authenticator) id(found *answer, credential string) (string, error) {
	switch a.cfg.ID {
	case "":
		if found.entityID != "" {
			return found.entityID, nil
		}
		if found.accessor == "" {
			return credential, nil
		}
		return identifier("accessor", "accessor:"+credential)
	case idAccessor:
		return identifier("accessor", credential)
	case idEntity:
		return identifier("entity_id", found.entityID)
	case idDisplayName:
		return identifier("display_name", found.displayName)
	}
	return identifier(string(a.cfg.ID), found.meta[a.cfg.ID.key()])
}

// tenant returns the tenant. Tokens of the root namespace have none; a token that lacks
// the metadata which names its tenant is refused.
func (a *Authenticator) tenant(found *answer) (string, error) {
	switch {
	case a.cfg.Tenant == "", a.cfg.Tenant == tenantNamespace && found.namespace == "":
		return "", nil
	case a.cfg.Tenant == tenantNamespace:
		return identifier("namespace_path", found.namespace)
	}
	return identifier(string(a.cfg.Tenant), found.meta[a.cfg.Tenant.key()])
}

// identifier returns the text if it can name somebody.
func identifier(what, text string) (string, error) {
	switch {
	case text == "":
		return "", authn.Refuse(policy.ReasonInvalidClaim, what+" is missing")
	case !jose.IsIdentifier(text):
		return "", authn.Refuse(policy.ReasonInvalidClaim, what+" is no name")
	}
	return text, nil
}

// policiesOf returns the token's policies in the order of the answer, each once.
func (a *Authenticator) policiesOf(found *answer) []string {
	all := slices.Clone(found.policies)
	if a.cfg.IdentityPolicies {
		all = append(all, found.identity...)
	}
	return unique(all)
}

// mapped returns what the policies stand for, each once.
func mapped(to map[string][]string, policies []string) []string {
	var all []string
	for _, p := range policies {
		all = append(all, to[p]...)
	}
	return unique(all)
}

// unique removes what is there twice, and keeps the order. Lists of policies are short.
func unique(all []string) []string {
	kept := all[:0:0]
	for _, s := range all {
		if !slices.Contains(kept, s) {
			kept = append(kept, s)
		}
	}
	return kept
}

// claims are what policies may see of the answer besides the metadata.
func claims(found *answer, policies []string) map[string]any {
	list := make([]any, len(policies))
	for i, p := range policies {
		list[i] = p
	}
	kind := "service"
	if found.batch {
		kind = "batch"
	}
	all := map[string]any{"policies": list, "type": kind}
	for name, text := range map[string]string{
		"path": found.path, "display_name": found.displayName, "entity_id": found.entityID, "namespace_path": found.namespace,
	} {
		if text != "" {
			all[name] = text
		}
	}
	return all
}

func (a *Authenticator) keptMetadata(meta map[string]string) map[string]any {
	var all map[string]any
	for key, value := range meta {
		if a.metadata != nil && !a.metadata[key] {
			continue
		}
		if all == nil {
			all = make(map[string]any, len(meta))
		}
		all[key] = value
	}
	return all
}

// constrain adds the token's networks to the configured constraints: a client must be in
// both. No address in common is not the same as no limit, so that is refused.
func (a *Authenticator) constrain(found *answer) (*policy.Constraints, error) {
	if len(found.networks) == 0 {
		return a.constraints, nil
	}
	both := policy.Constraints{}
	if a.constraints != nil {
		both = *a.constraints
	}
	if len(both.Networks) == 0 {
		both.Networks = found.networks
	} else {
		both.Networks = intersect(both.Networks, found.networks)
	}
	if len(both.Networks) == 0 {
		return nil, errNowhere
	}
	return &both, nil
}

// intersect returns the networks that are in both lists: of two that overlap, one holds
// the other.
func intersect(a, b []netip.Prefix) []netip.Prefix {
	var both []netip.Prefix
	for _, x := range a {
		for _, y := range b {
			if !x.Overlaps(y) {
				continue
			}
			if x.Bits() < y.Bits() {
				both = append(both, y)
			} else {
				both = append(both, x)
			}
		}
	}
	return both
}
