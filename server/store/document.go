package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Document is the content of a record.
type Document interface {
	// Columns returns the record that holds the document, without its Body.
	Columns() Record
	// SetVersion tells the document its record's version.
	SetVersion(int64)
}

// DocumentOf is a pointer to a document of type T.
type DocumentOf[T any] interface {
	*T
	Document
}

// Encode returns the record that holds a document.
func Encode(d Document) (Record, error) {
	r := d.Columns()
	body, err := json.Marshal(d)
	r.Body = body
	return r, err
}

// Decode reads the document of a record.
func Decode[T any, P DocumentOf[T]](r Record) (*T, error) {
	d := new(T)
	if err := json.Unmarshal(r.Body, d); err != nil {
		return nil, Corrupt(r.Kind, r.ID, err)
	}
	P(d).SetVersion(r.Version)
	return d, nil
}

// Put writes a document.
func Put(tx Tx, d Document) error {
	r, err := Encode(d)
	if err != nil {
		return err
	}
	return tx.Put(r)
}

// Get reads a document, or returns ErrNotFound.
func Get[T any, P DocumentOf[T]](from Reader, id string) (*T, error) {
	r, err := from.Get(P(new(T)).Columns().Kind, id)
	if err != nil {
		return nil, err
	}
	return Decode[T, P](r)
}

// List reads documents of the type; Query.Kind is set by it.
func List[T any, P DocumentOf[T]](from Reader, q Query) ([]*T, error) {
	q.Kind = P(new(T)).Columns().Kind
	records, err := from.List(q)
	if err != nil {
		return nil, err
	}
	all := make([]*T, len(records))
	for i, r := range records {
		if all[i], err = Decode[T, P](r); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// version is the part of every document that the store sets.
type version struct {
	// Version is the change that wrote the document last.
	Version int64 `json:"-"`
}

// SetVersion implements Document.
func (v *version) SetVersion(n int64) { v.Version = n }

// Ending says when something ends or ended, why, and who said so.
type Ending struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
}

// Tenant is a customer, team or environment whose records are apart from others'.
type Tenant struct {
	version
	ID        string            `json:"id"`
	Name      string            `json:"name,omitempty"`
	Disabled  *Ending           `json:"disabled,omitempty"`
	Rules     Rules             `json:"rules,omitzero"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"created_at"`
	UpdatedAt time.Time         `json:"updated_at"`
}

// Rules are what a tenant demands of its credentials. Zero fields leave it to the
// installation's own.
type Rules struct {
	// MaxTTL is the longest life of a key or token. The default is 90 days.
	MaxTTL Duration `json:"max_ttl,omitempty"`
	// MaxPATs is how many living personal access tokens a user may have.
	MaxPATs int `json:"max_pats,omitempty"`
	// UnusedFor disables a credential that was not used for so long.
	UnusedFor Duration `json:"unused_for,omitempty"`
	// SessionIdle and SessionMax bound sessions.
	SessionIdle Duration `json:"session_idle,omitempty"`
	SessionMax  Duration `json:"session_max,omitempty"`
}

// Duration is a time.Duration that is written as in "36h".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Columns implements Document.
func (t *Tenant) Columns() Record { return Record{Kind: KindTenant, ID: t.ID, Tenant: t.ID} }

// Principal is somebody who can have credentials: a user, a service, an agent, a
// device.
type Principal struct {
	version
	Tenant string      `json:"tenant,omitempty"`
	ID     string      `json:"id"`
	Kind   policy.Kind `json:"kind"`
	Name   string      `json:"name,omitempty"`
	// Owner is the id of the principal, of the same tenant, with which this one
	// falls: the app of a service, the parent of an agent.
	Owner string `json:"owner,omitempty"`
	// Roles, Scopes and Permissions are its rights now. What its own keys and tokens
	// may do is never more (see Credential).
	Roles       []string       `json:"roles,omitempty"`
	Scopes      []string       `json:"scopes,omitempty"`
	Permissions []string       `json:"permissions,omitempty"`
	Metadata    map[string]any `json:"metadata,omitempty"`
	Disabled    *Ending        `json:"disabled,omitempty"`
	// Password is the hash of a user's password in PHC form; empty for none.
	Password          string    `json:"password,omitempty"`
	PasswordChangedAt time.Time `json:"password_changed_at,omitzero"`
	CreatedAt         time.Time `json:"created_at"`
	UpdatedAt         time.Time `json:"updated_at"`
	// Agent is what there is to say of an agent besides; nil for all others, and for
	// an agent of which nothing was said.
	Agent *Agent `json:"agent,omitempty"`
}

// Decommissioned reports whether it is an agent that was ended for good.
func (p *Principal) Decommissioned() bool { return p.Agent != nil && p.Agent.Decommissioned != nil }

// Agent is what is registered of an agent: what it is, what it may get, and how it is
// known when it calls.
type Agent struct {
	// Model, Version and Purpose say what it is, for people and policies.
	Model   string `json:"model,omitempty"`
	Version string `json:"version,omitempty"`
	Purpose string `json:"purpose,omitempty"`
	// Roles are those of which it may get tokens.
	Roles []string `json:"roles,omitempty"`
	// Tools are those that it may call: a name, one that ends in ".*", or "*".
	Tools []string `json:"tools,omitempty"`
	// Keys is the JWK set (RFC 7517 section 5) with which it signs: public keys only.
	Keys json.RawMessage `json:"keys,omitempty"`
	// SPIFFEIDs are the workloads that it is, and Certificates the SHA-256 of those that
	// it shows (x5t#S256), in lower-case hex.
	SPIFFEIDs    []string `json:"spiffe_ids,omitempty"`
	Certificates []string `json:"certificates,omitempty"`
	// Decommissioned ends it for good. The record stays, so that its id is never used
	// again.
	Decommissioned *Ending `json:"decommissioned,omitempty"`
}

// PrincipalKey is the id of a principal's record. Tenants hold no slash.
func PrincipalKey(tenant, id string) string { return tenant + "/" + id }

// SplitPrincipalKey is the way back.
func SplitPrincipalKey(key string) (tenant, id string) {
	tenant, id, _ = strings.Cut(key, "/")
	return tenant, id
}

// Key is the id of its record.
func (p *Principal) Key() string { return PrincipalKey(p.Tenant, p.ID) }

// Columns implements Document.
func (p *Principal) Columns() Record {
	r := Record{Kind: KindPrincipal, ID: p.Key(), Tenant: p.Tenant}
	if p.Owner != "" {
		r.Owner = PrincipalKey(p.Tenant, p.Owner)
	}
	return r
}

// CredentialType is the sort of a credential.
type CredentialType string

// The types of credentials.
const (
	APIKey CredentialType = "api_key" // of a service or an app
	PAT    CredentialType = "pat"     // of a user
	Token  CredentialType = "token"   // an opaque token that was made elsewhere
)

// CredentialFormat is the form of a secret. The zero value is Postern's own, or for an
// imported one whatever it is.
type CredentialFormat string

// JWT is a token that Postern signs (server/signer).
const JWT CredentialFormat = "jwt"

// Credential is a key or token. Its secret is nowhere: Digest is all there is.
//
// What it may do:
//
//	api_key  what it says itself, and without anything said what its principal may
//	pat      the part of what it says that its user may at the moment; without
//	         anything said, what its user may
//	token    what its principal may at the moment
type Credential struct {
	version
	// ID is public: it stands in the key itself and in logs.
	ID   string         `json:"id"`
	Type CredentialType `json:"type"`
	// Tenant and Principal are whose it is.
	Tenant    string `json:"tenant,omitempty"`
	Principal string `json:"principal"`
	// Name is what people call it. Environment stands in the key: "live", "test".
	Name        string `json:"name,omitempty"`
	Environment string `json:"environment,omitempty"`
	// Format is the form of the secret. A successor has the same.
	Format CredentialFormat `json:"format,omitempty"`
	// Digest is "hmac-sha256:v1:…" of a key that Postern made, "sha256:…" of one
	// that was imported.
	Digest      string              `json:"digest"`
	Roles       []string            `json:"roles,omitempty"`
	Scopes      []string            `json:"scopes,omitempty"`
	Permissions []string            `json:"permissions,omitempty"`
	Constraints *policy.Constraints `json:"constraints,omitempty"`
	Metadata    map[string]any      `json:"metadata,omitempty"`
	CreatedAt   time.Time           `json:"created_at"`
	UpdatedAt   time.Time           `json:"updated_at"`
	NotBefore   time.Time           `json:"not_before,omitzero"`
	ExpiresAt   time.Time           `json:"expires_at,omitzero"`
	// Period is by how much Renew moves ExpiresAt, and MaxExpiresAt how far at most.
	Period       Duration  `json:"period,omitempty"`
	MaxExpiresAt time.Time `json:"max_expires_at,omitzero"`
	// Parent is the id of the credential with which this one falls.
	Parent string `json:"parent,omitempty"`
	// IssuedBy is who issued it, as "tenant/id".
	IssuedBy string `json:"issued_by,omitempty"`
	// Disabled can be taken back, Revoked cannot. Rotated ends it at a time in favour
	// of Successor.
	Disabled  *Ending `json:"disabled,omitempty"`
	Revoked   *Ending `json:"revoked,omitempty"`
	Rotated   *Ending `json:"rotated,omitempty"`
	Successor string  `json:"successor,omitempty"`
	// Low says that an imported secret is short or not random.
	Low bool `json:"low_entropy,omitempty"`
}

// Imported reports whether the credential's secret was made elsewhere.
func (c *Credential) Imported() bool { return strings.HasPrefix(c.Digest, "sha256:") }

// Columns implements Document.
func (c *Credential) Columns() Record {
	r := Record{Kind: KindCredential, ID: c.ID, Tenant: c.Tenant, Owner: PrincipalKey(c.Tenant, c.Principal)}
	if c.Imported() {
		r.Digest = c.Digest
	}
	return r
}

// Session is a user's session in a browser. ID is public, the cookie's secret is
// nowhere: Digest is all there is.
type Session struct {
	version
	ID        string `json:"id"`
	Tenant    string `json:"tenant,omitempty"`
	Principal string `json:"principal"`
	Digest    string `json:"digest"`
	// AMR, ACR and AuthTime say how and when the user authenticated (RFC 8176, RFC
	// 9470).
	AMR      []string  `json:"amr,omitempty"`
	ACR      string    `json:"acr,omitempty"`
	AuthTime time.Time `json:"auth_time"`
	// TouchedAt is when it was used, within a tenth of Idle; after Idle without use,
	// or at ExpiresAt, it is over.
	TouchedAt time.Time         `json:"touched_at"`
	Idle      Duration          `json:"idle"`
	ExpiresAt time.Time         `json:"expires_at"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	CreatedAt time.Time         `json:"created_at"`
	Revoked   *Ending           `json:"revoked,omitempty"`
	// Rotated ends it some seconds after Successor took over.
	Rotated   *Ending `json:"rotated,omitempty"`
	Successor string  `json:"successor,omitempty"`
}

// Columns implements Document.
func (s *Session) Columns() Record {
	return Record{
		Kind: KindSession, ID: s.ID, Tenant: s.Tenant, Owner: PrincipalKey(s.Tenant, s.Principal),
		ExpiresAt: s.ExpiresAt,
	}
}

// Denial is a line of the denylist: what is no longer believed although its
// signature is good and its time has not run out. Exactly one of JTI, SID, KID,
// Subject, Client, Agent, OfTenant and Fingerprint is set.
type Denial struct {
	version
	ID string `json:"id"`
	// JTI, SID and KID revoke a token, the tokens of a session, and those that were
	// signed with a key.
	JTI string `json:"jti,omitempty"`
	SID string `json:"sid,omitempty"`
	KID string `json:"kid,omitempty"`
	// Subject, Client, Agent and OfTenant revoke what was issued before
	// IssuedBefore.
	Subject  string `json:"subject,omitempty"`
	Client   string `json:"client,omitempty"`
	Agent    string `json:"agent,omitempty"`
	OfTenant string `json:"of_tenant,omitempty"`
	// Fingerprint revokes a certificate by its SHA-256 in hex.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Issuer is whose token is meant; required with KID, Subject and Client.
	Issuer       string    `json:"issuer,omitempty"`
	IssuedBefore time.Time `json:"issued_before,omitzero"`
	// Tenant owns the line; empty for the installation.
	Tenant string `json:"tenant,omitempty"`
	// Ended is the id of the agent of Tenant with whose end the line was written; empty
	// for those that somebody added. Without a Tenant such a line is bounded to what
	// has none either.
	Ended     string    `json:"ended,omitempty"`
	Note      string    `json:"note,omitempty"`
	By        string    `json:"by,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	// ExpiresAt is when the line may go: nothing that it names can live so long.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// Columns implements Document.
func (d *Denial) Columns() Record {
	r := Record{Kind: KindDenial, ID: d.ID, Tenant: d.Tenant, ExpiresAt: d.ExpiresAt}
	if d.Ended != "" {
		r.Owner = PrincipalKey(d.Tenant, d.Ended)
	}
	return r
}

// Workload says which agent a workload is. It is there so that no two living agents are
// the same one, and goes when its agent is decommissioned.
type Workload struct {
	version
	ID     string `json:"id"`
	Tenant string `json:"tenant,omitempty"`
	Agent  string `json:"agent"`
	// Name is a SPIFFE id, or the SHA-256 of a certificate in lower-case hex.
	Name string `json:"name"`
}

// Columns implements Document.
func (w *Workload) Columns() Record {
	return Record{
		Kind: KindWorkload, ID: w.ID, Tenant: w.Tenant, Owner: PrincipalKey(w.Tenant, w.Agent), Digest: "workload:" + w.Name,
	}
}

// Limit is the limit of a budget for one of those who have it.
type Limit struct {
	version
	// ID stands for Budget and Subject together.
	ID string `json:"id"`
	// Budget is its name, Subject who has it, in the words of the ledger; Tenant whose
	// that is.
	Budget  string `json:"budget"`
	Subject string `json:"subject"`
	Tenant  string `json:"tenant,omitempty"`
	// Limit is how much it holds; 0 for what the configuration says.
	Limit int64     `json:"limit"`
	By    string    `json:"by,omitempty"`
	SetAt time.Time `json:"set_at"`
}

// Columns implements Document.
func (l *Limit) Columns() Record { return Record{Kind: KindLimit, ID: l.ID, Tenant: l.Tenant} }

// Request remembers a call that changed something, for a day.
type Request struct {
	version
	// ID is made of who called and the id that they gave the call.
	ID string `json:"id"`
	// Hash is of the whole call: the same id with another call is a mistake.
	Hash string `json:"hash"`
	// Target is the id of what it made or changed.
	Target    string    `json:"target,omitempty"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Columns implements Document.
func (r *Request) Columns() Record {
	return Record{Kind: KindRequest, ID: r.ID, ExpiresAt: r.ExpiresAt}
}

// ApprovalState is where an approval is in its life. That its time has run out is not
// written down.
type ApprovalState string

// The states. Only one that is approved can be used, and only once; from used, denied
// and withdrawn nothing leads on, but that a use which came to nothing is taken back.
const (
	ApprovalPending   ApprovalState = "pending"
	ApprovalApproved  ApprovalState = "approved"
	ApprovalDenied    ApprovalState = "denied"
	ApprovalUsed      ApprovalState = "used"
	ApprovalWithdrawn ApprovalState = "withdrawn"
)

// Approval is somebody's yes to one action, for one use, or the wish for it.
type Approval struct {
	version
	ID     string        `json:"id"`
	Tenant string        `json:"tenant,omitempty"`
	State  ApprovalState `json:"state"`
	// Requester is who would do it, by the name of an actor of this API; Agent is who acts
	// for the requester, if anybody does. RequestedBy is who asked for the approval, as
	// "tenant/id".
	Requester   string `json:"requester"`
	Agent       string `json:"agent,omitempty"`
	RequestedBy string `json:"requested_by"`
	// Needs is who has to approve it, Action the digest of what would be done, and
	// Proposal the text that it is the digest of (policy.Proposal).
	Needs    policy.Approver `json:"needs"`
	Action   string          `json:"action"`
	Proposal string          `json:"proposal"`
	// Body is the request's, where the requester has shown it; its digest is that in the
	// proposal.
	Body string `json:"body,omitempty"`
	// Reason is why, as the requester says.
	Reason string `json:"reason,omitempty"`
	// Decided says who has approved or denied it, or withdrawn it, and why.
	Decided *Ending `json:"decided,omitempty"`
	// ApproverKind and ApproverRoles are those that the approver had then. Recorded says
	// that the approver is a principal of this store, of which can be found out whether
	// it still counts.
	ApproverKind  policy.Kind `json:"approver_kind,omitempty"`
	ApproverRoles []string    `json:"approver_roles,omitempty"`
	Recorded      bool        `json:"recorded,omitempty"`
	CreatedAt     time.Time   `json:"created_at"`
	// ExpiresAt is when the wish is over if nobody has decided, and then when the yes is.
	ExpiresAt time.Time `json:"expires_at"`
	// UsedAt is when it was used up, and UsedBy by which decision.
	UsedAt time.Time `json:"used_at,omitzero"`
	UsedBy string    `json:"used_by,omitempty"`
}

// Columns implements Document. It falls with whoever acts.
func (a *Approval) Columns() Record {
	owner := a.Requester
	if a.Agent != "" {
		owner = a.Agent
	}
	return Record{Kind: KindApproval, ID: a.ID, Tenant: a.Tenant, Owner: PrincipalKey(a.Tenant, owner), ExpiresAt: a.ExpiresAt}
}

// Consent is a user's yes to an agent or a client, which may act for the user within
// scopes. There is one for each user and each of those.
type Consent struct {
	version
	ID     string `json:"id"`
	Tenant string `json:"tenant,omitempty"`
	// User is the id of the user, as Issuer names it; Postern's own users have the issuer
	// "postern". Actor is the id of whoever acts, as tokens name it (RFC 8693 section
	// 4.1).
	User   string `json:"user"`
	Issuer string `json:"issuer"`
	Actor  string `json:"actor"`
	// Scopes are what it covers.
	Scopes []string `json:"scopes"`
	// GivenAt is when, By who gave it, as "tenant/id", and Evidence what shows that the
	// user wanted it, where somebody else gave it.
	GivenAt   time.Time `json:"given_at"`
	By        string    `json:"by"`
	Evidence  string    `json:"evidence,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// Withdrawn ends it until it is given anew.
	Withdrawn *Ending `json:"withdrawn,omitempty"`
}

// Columns implements Document. It falls with the user, if that is one of Postern's own.
func (c *Consent) Columns() Record {
	r := Record{Kind: KindConsent, ID: c.ID, Tenant: c.Tenant, Digest: ConsentDigest(c.Tenant, c.Issuer, c.User, c.Actor)}
	if c.Issuer == "postern" {
		r.Owner = PrincipalKey(c.Tenant, c.User)
	}
	return r
}

// ConsentDigest finds the consent of a user to an actor.
func ConsentDigest(tenant, issuer, user, actor string) string {
	var b []byte
	for _, part := range []string{tenant, issuer, user, actor} {
		b = append(binary.AppendUvarint(b, uint64(len(part))), part...)
	}
	sum := sha256.Sum256(b)
	return "consent:" + hex.EncodeToString(sum[:])
}
