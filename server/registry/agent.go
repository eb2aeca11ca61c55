package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// An agent is a principal of which more is said: what it is, which tokens it may get,
// which tools it may call, and by which keys, workloads and certificates it is known. Its
// owner is a user, a service, or the agent that is its parent.
//
// Who registers an agent must be able to do what it lets the agent do, see grant.go. Of
// what only agents have, a tool counts as the permission "tools." and its name, and a role
// of which the agent may get tokens as the role. An agent that registers another one by a
// key of its own that is not limited has its own tools and roles to pass on.

// AgentState is where an agent is in its life. The texts are those of AgentState in
// proto/postern/admin/v1, without the prefix.
type AgentState string

// The states.
const (
	AgentActive         AgentState = "ACTIVE"
	AgentDisabled       AgentState = "DISABLED"
	AgentDecommissioned AgentState = "DECOMMISSIONED"
)

var agentStates = []AgentState{AgentActive, AgentDisabled, AgentDecommissioned}

// AgentStateOf returns the agent's own state: that an owner or its tenant is disabled
// does not show in it.
func AgentStateOf(p *store.Principal) AgentState {
	switch {
	case p.Decommissioned():
		return AgentDecommissioned
	case p.Disabled != nil:
		return AgentDisabled
	}
	return AgentActive
}

// AgentSpec is what can be said of an agent: all of it when it is created, the fields of
// AgentFields when it is updated. Its Kind does not count.
type AgentSpec struct {
	PrincipalSpec
	// Model, Version and Purpose say what it is.
	Model, Version, Purpose string
	// TokenRoles are the roles of which it may get tokens.
	TokenRoles []string
	// Tools are those that it may call: a name, one that ends in ".*", or "*".
	Tools []string
	// JWKS is a JWK set of public keys, with which it signs; empty for none.
	JWKS string
	// SPIFFEIDs and Certificates, by their SHA-256 in hex, are the workloads that it is.
	SPIFFEIDs, Certificates []string
}

// AgentFields are the fields that UpdateAgent changes.
var AgentFields = []string{
	"display_name", "owner_id", "model", "version", "purpose", "roles", "scopes", "permissions",
	"token_roles", "tools", "jwks", "spiffe_ids", "certificates", "metadata",
}

// What the record of an agent may hold.
const (
	maxModel     = 128      // bytes
	maxVersion   = 64       // bytes
	maxPurpose   = 512      // bytes
	maxTools     = 256      // items
	maxKeys      = 16       // keys
	maxKeySet    = 32 << 10 // bytes as JSON
	maxWorkloads = 16       // SPIFFE ids, and as many certificates
	maxSPIFFE    = 2048     // bytes (SPIFFE-ID section 2.3)
)

// CreateAgentRequest registers an agent.
type CreateAgentRequest struct {
	AgentSpec
	AllowWildcard bool
}

// UpdateAgentRequest changes the agent that Spec.Tenant and Spec.ID name.
type UpdateAgentRequest struct {
	Etag string
	// Fields are some of AgentFields.
	Fields        []string
	Spec          AgentSpec
	AllowWildcard bool
}

// CreateAgent registers an agent.
func (r *Registry) CreateAgent(ctx context.Context, call Call, req CreateAgentRequest) (*store.Principal, Change, error) {
	return r.onPrincipal(ctx, call, action{"agent.create", same}, req, func(o *operation) (*store.Principal, error) {
		spec := req.AgentSpec
		spec.Kind = policy.KindAgent
		p, err := o.newPrincipal(&spec.PrincipalSpec, req.AllowWildcard)
		if p == nil {
			return nil, err
		}
		var f faults
		f.take(err)
		return p, o.writeAgent(&f, p, &spec)
	})
}

// UpdateAgent changes fields of an agent.
func (r *Registry) UpdateAgent(ctx context.Context, call Call, req UpdateAgentRequest) (*store.Principal, Change, error) {
	return r.onPrincipal(ctx, call, action{"agent.update", same}, req, func(o *operation) (*store.Principal, error) {
		p, err := o.agent(req.Spec.Tenant, req.Spec.ID, req.Etag)
		if err != nil {
			return nil, err
		}
		var f faults
		f.fields(req.Fields, AgentFields)
		s := specOfAgent(p)
		for _, field := range req.Fields {
			s.set(&req.Spec, field)
		}
		o.detail("fields", strings.Join(req.Fields, ","))
		if err := o.fill(&f, p, &s.PrincipalSpec, req.AllowWildcard); err != nil {
			return nil, err
		}
		return p, o.writeAgent(&f, p, &s)
	})
}

// agent reads an agent that can be changed.
func (o *operation) agent(tenant, id, etag string) (*store.Principal, error) {
	p, err := o.principal(tenant, id, etag)
	switch {
	case err != nil && p == nil:
		return nil, agentNotFound(err)
	case p.Kind != policy.KindAgent:
		return nil, notFound("agent")
	case err != nil:
		return nil, err
	}
	return p, living(p)
}

// living fails if an agent was decommissioned.
func living(p *store.Principal) error {
	if p.Decommissioned() {
		return fail(WrongState, "", "the agent was decommissioned, which is for good: create another one").
			with("state", string(AgentDecommissioned))
	}
	return nil
}

// agentNotFound speaks of an agent where readPrincipal does of a principal: whoever asks
// for an agent learns of no other principal that it is there.
func agentNotFound(err error) error {
	e := asError(err)
	if e.Reason != NotFound {
		return err
	}
	missing := notFound("agent")
	missing.denied = e.denied
	return missing
}

// writeAgent checks what a spec says of an agent, and writes it.
func (o *operation) writeAgent(f *faults, p *store.Principal, s *AgentSpec) error {
	before := p.Agent
	a, err := o.agentOf(f, before, s)
	if err != nil {
		return err
	}
	if err := f.err(); err != nil {
		return err
	}
	p.Agent = a
	if err := o.claim(p); err != nil {
		return err
	}
	return o.put(p, "the id")
}

// agentOf makes the record of what a spec says. Before is what was registered; nil for a
// new agent.
func (o *operation) agentOf(f *faults, before *store.Agent, s *AgentSpec) (*store.Agent, error) {
	if before == nil {
		before = &store.Agent{}
	}
	a := &store.Agent{Model: s.Model, Version: s.Version, Purpose: s.Purpose, Decommissioned: before.Decommissioned}
	f.name("model", s.Model, maxModel)
	f.name("version", s.Version, maxVersion)
	f.name("purpose", s.Purpose, maxPurpose)
	a.Roles = f.items("token_roles", s.TokenRoles, maxRights, roleFault)
	a.Tools = f.items("tools", s.Tools, maxTools, toolFault)
	a.SPIFFEIDs = f.items("spiffe_ids", s.SPIFFEIDs, maxWorkloads, spiffeFault)
	a.Certificates = f.items("certificates", lower(s.Certificates), maxWorkloads, certificateFault)
	a.Keys = f.keys("jwks", s.JWKS)
	f.installationRolesIn("token_roles", s.Tenant, a.Roles)
	return a, o.duties(f, before, a)
}

// duties reports roles and tools that the actor gives an agent and cannot.
func (o *operation) duties(f *faults, before, after *store.Agent) error {
	had, gets := dutiesOf(before), dutiesOf(after)
	if gets.beyond(had.includes).none() {
		return nil
	}
	actor := *o.actor
	own, err := o.ownDuties()
	if err != nil {
		return err
	}
	actor.Rights.Roles = append(slices.Clone(actor.Rights.Roles), own.Roles...)
	actor.Rights.Permissions = append(slices.Clone(actor.Rights.Permissions), own.Permissions...)
	var g faults
	g.grants(&actor, reach{Rights: had}, reach{Rights: gets})
	for _, fault := range g.list {
		fault.Field = map[string]string{"roles": "token_roles", "permissions": "tools"}[fault.Field]
		f.list = append(f.list, fault)
	}
	return nil
}

// ownDuties are those of an actor that is an agent and calls with all that it has.
func (o *operation) ownDuties() (Rights, error) {
	c, err := readCredential(o.tx, o.actor, o.actor.Credential)
	if ReasonOf(err) == NotFound || err == nil && (store.PrincipalKey(c.Tenant, c.Principal) != o.actor.Name() || !listed(c).none()) {
		return Rights{}, nil
	}
	if err != nil {
		return Rights{}, err
	}
	self, err := store.Get[store.Principal](o.tx, o.actor.Name())
	if err != nil || self.Agent == nil {
		return Rights{}, err
	}
	return dutiesOf(self.Agent), nil
}

// toolPermission starts the permission that a tool counts as, for who gives it.
const toolPermission = "tools."

// dutiesOf are what counts of an agent's record as rights.
func dutiesOf(a *store.Agent) Rights {
	r := Rights{Roles: a.Roles}
	for _, tool := range a.Tools {
		r.Permissions = append(r.Permissions, toolPermission+tool)
	}
	return r
}

// list checks how items are written, and returns them without repetitions.
func (f *faults) items(field string, items []string, most int, faultOf func(string) string) []string {
	if len(items) > most {
		f.field(field, "has %d items; at most %d are allowed", len(items), most)
		return nil
	}
	for i, item := range items {
		if why := faultOf(item); why != "" {
			f.field(fmt.Sprintf("%s[%d]", field, i), "%s", why)
		}
	}
	return distinct(items)
}

func roleFault(s string) string {
	if strings.Contains(s, "*") {
		return `holds a "*": list the roles`
	}
	return rightFault("roles", s)
}

// toolFault says what is wrong with a tool, which is the last part of a permission.
func toolFault(s string) string {
	if why := rightFault("permissions", s); why != "" {
		return why
	}
	if prefix, star := strings.CutSuffix(s, "*"); star && prefix != "" && !strings.HasSuffix(prefix, ".") {
		return `"*" stands alone or for the whole last part, as in "orders.*"`
	}
	if len(toolPermission)+len(s) > maxRight {
		return fmt.Sprintf("has %d bytes; at most %d are allowed", len(s), maxRight-len(toolPermission))
	}
	return ""
}

// spiffeFault says what is wrong with the id of a workload (SPIFFE-ID section 2): it has
// a trust domain and a path, both in the one way in which they can be written.
func spiffeFault(s string) string {
	const form = "is no SPIFFE id of a workload, as in spiffe://example.org/agents/researcher"
	rest, ok := strings.CutPrefix(s, "spiffe://")
	domain, path, found := strings.Cut(rest, "/")
	if !ok || !found || len(s) > maxSPIFFE || domain == "" || len(domain) > 255 {
		return form
	}
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789.-_"
	if strings.Trim(domain, letters) != "" {
		return form
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.Trim(segment, letters+"ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			return form
		}
	}
	return ""
}

func certificateFault(s string) string {
	if !isSHA256(s) {
		return "is the SHA-256 of a certificate's DER in 64 hex digits"
	}
	return ""
}

// lower is a copy in lower case.
func lower(list []string) []string {
	var all []string
	for _, s := range list {
		all = append(all, strings.ToLower(s))
	}
	return all
}

// publicMembers are those of a JWK that are kept (RFC 7517 section 4, RFC 7518 section 6,
// RFC 8037 section 2).
var publicMembers = []string{"kty", "kid", "alg", "use", "key_ops", "crv", "x", "y", "n", "e"}

// keys checks a JWK set, or a single JWK, and returns the set as it is kept: public keys
// that can verify signatures, each with what it needs for that; nil for none.
func (f *faults) keys(field, text string) json.RawMessage {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	if len(text) > maxKeySet {
		f.field(field, "has %d bytes; at most %d are allowed", len(text), maxKeySet)
		return nil
	}
	faulty := len(f.list)
	set, warnings, err := jose.ParseKeySet([]byte(text))
	switch {
	case err != nil:
		f.field(field, "is no JWK set (RFC 7517): %s", err)
	case set.Len()+len(warnings) > maxKeys:
		f.field(field, "has more than %d keys", maxKeys)
	default:
		for _, w := range warnings {
			f.field(field, "%s", w)
		}
	}
	if len(f.list) > faulty {
		return nil
	}
	kept, err := publicSet([]byte(text))
	if err != nil {
		f.field(field, "is no JWK set (RFC 7517)")
		return nil
	}
	return kept
}

// publicSet writes a set, which was read before, with no members but the public ones: a
// JWK may hold anything besides.
func publicSet(text []byte) (json.RawMessage, error) {
	var set struct {
		Keys []map[string]json.RawMessage `json:"keys"`
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if keys, is := doc["keys"]; is {
		if err := json.Unmarshal(keys, &set.Keys); err != nil {
			return nil, err
		}
	} else {
		set.Keys = append(set.Keys, doc)
	}
	if len(set.Keys) == 0 {
		return nil, nil
	}
	for _, key := range set.Keys {
		for member := range key {
			if !slices.Contains(publicMembers, member) {
				delete(key, member)
			}
		}
	}
	return json.Marshal(set)
}

// claim writes down which workloads an agent is, so that no other is the same.
func (o *operation) claim(p *store.Principal) error {
	kept := map[string]bool{}
	var gone []string
	err := each[store.Workload](o.tx, store.Query{Owner: p.Key()}, func(w *store.Workload) error {
		if slices.Contains(p.Agent.SPIFFEIDs, w.Name) || slices.Contains(p.Agent.Certificates, w.Name) {
			kept[w.Name] = true
		} else {
			gone = append(gone, w.ID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range gone {
		if err := o.tx.Delete(store.KindWorkload, id); err != nil {
			return err
		}
	}
	var f faults
	for _, l := range []struct {
		field string
		names []string
	}{{"spiffe_ids", p.Agent.SPIFFEIDs}, {"certificates", p.Agent.Certificates}} {
		for i, name := range l.names {
			if kept[name] {
				continue
			}
			switch err := o.claimOne(p, name); {
			case errors.Is(err, store.ErrExists):
				f.add(AlreadyExists, fmt.Sprintf("%s[%d]", l.field, i), "another agent is this workload: a workload is one agent")
			case err != nil:
				return err
			}
		}
	}
	return f.err()
}

func (o *operation) claimOne(p *store.Principal, name string) error {
	id, err := o.newID(store.KindWorkload)
	if err != nil {
		return err
	}
	return store.Put(o.tx, &store.Workload{ID: id, Tenant: p.Tenant, Agent: p.ID, Name: name})
}

// specOfAgent says of an agent what it is.
func specOfAgent(p *store.Principal) AgentSpec {
	s := AgentSpec{PrincipalSpec: specOfPrincipal(p)}
	if a := p.Agent; a != nil {
		s.Model, s.Version, s.Purpose = a.Model, a.Version, a.Purpose
		s.TokenRoles, s.Tools, s.JWKS = a.Roles, a.Tools, string(a.Keys)
		s.SPIFFEIDs, s.Certificates = a.SPIFFEIDs, a.Certificates
	}
	return s
}

// set takes over one field of the protocol.
func (s *AgentSpec) set(from *AgentSpec, field string) {
	switch field {
	case "model":
		s.Model = from.Model
	case "version":
		s.Version = from.Version
	case "purpose":
		s.Purpose = from.Purpose
	case "token_roles":
		s.TokenRoles = from.TokenRoles
	case "tools":
		s.Tools = from.Tools
	case "jwks":
		s.JWKS = from.JWKS
	case "spiffe_ids":
		s.SPIFFEIDs = from.SPIFFEIDs
	case "certificates":
		s.Certificates = from.Certificates
	default:
		s.PrincipalSpec.set(&from.PrincipalSpec, field)
	}
}

// AgentRequest names an agent, and says why something is done to it.
type AgentRequest struct {
	Tenant, ID, Etag string
	// Reason goes to the record and the audit log: at most 256 bytes.
	Reason string
}

// DisableAgent turns an agent off, and with it all that it has and owns. One that is off
// stays as it is.
func (r *Registry) DisableAgent(ctx context.Context, call Call, req AgentRequest) (*store.Principal, Change, error) {
	return r.switchAgent(ctx, call, "agent.disable", req, func(o *operation, p *store.Principal) error {
		p.Disabled = o.ending(req.Reason)
		return nil
	}, func(p *store.Principal) bool { return p.Disabled != nil })
}

// EnableAgent turns an agent on again. One that is on stays as it is.
func (r *Registry) EnableAgent(ctx context.Context, call Call, req AgentRequest) (*store.Principal, Change, error) {
	return r.switchAgent(ctx, call, "agent.enable", req, func(o *operation, p *store.Principal) error {
		if !o.actor.mayUndo(p.Disabled) {
			return deny("", turnedOff)
		}
		p.Disabled = nil
		return nil
	}, func(p *store.Principal) bool { return p.Disabled == nil })
}

func (r *Registry) switchAgent(ctx context.Context, call Call, name string, req AgentRequest, turn func(*operation, *store.Principal) error, done func(*store.Principal) bool) (*store.Principal, Change, error) {
	req.Reason = seal.Scrub(req.Reason)
	return r.onPrincipal(ctx, call, action{name, same}, req, func(o *operation) (*store.Principal, error) {
		p, err := o.agent(req.Tenant, req.ID, req.Etag)
		if err != nil {
			return nil, err
		}
		if err := o.because(&req.Reason); err != nil {
			return nil, err
		}
		if done(p) {
			return p, nil
		}
		if err := turn(o, p); err != nil {
			return nil, err
		}
		p.UpdatedAt = o.now
		return p, o.put(p, "the id")
	})
}

// GetAgent returns an agent, whether it was decommissioned or not.
func (r *Registry) GetAgent(ctx context.Context, actor Actor, tenant, id string) (*store.Principal, error) {
	p, err := r.GetPrincipal(ctx, actor, tenant, id)
	if err != nil {
		return nil, agentNotFound(err)
	}
	if p.Kind != policy.KindAgent {
		return nil, notFound("agent")
	}
	return p, nil
}

// AgentQuery says which agents to list. Fields that are set must all match.
type AgentQuery struct {
	Page
	Tenant string
	// Owner is the id of the principal of Tenant that owns them: a user, a service, or
	// the agent that is their parent.
	Owner  string
	States []AgentState
}

// ListAgents lists agents in the order of tenant and id.
func (r *Registry) ListAgents(ctx context.Context, actor Actor, q AgentQuery) ([]*store.Principal, string, error) {
	var f faults
	for _, s := range q.States {
		if !slices.Contains(agentStates, s) {
			f.field("states", "are %s", join(agentStates))
		}
	}
	tenant, err := actor.visible(q.Tenant)
	if err != nil {
		return nil, "", err
	}
	q.Tenant = tenant
	owner := f.owner("owner_id", q.Tenant, q.Owner)
	if err := f.err(); err != nil {
		return nil, "", err
	}
	page := q.Page
	q.Page = Page{}
	c, err := r.cursor(page, q)
	if err != nil {
		return nil, "", err
	}
	return list(ctx, r, store.Query{Tenant: tenant, Owner: owner}, c, func(p *store.Principal) bool {
		return p.Kind == policy.KindAgent && (len(q.States) == 0 || slices.Contains(q.States, AgentStateOf(p)))
	})
}
