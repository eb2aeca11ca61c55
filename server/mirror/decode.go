package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// decoded is a record made ready, so that applying it is a matter of pointers. It
// holds one of the states, or an error, or neither if the record is gone.
type decoded struct {
	kind    store.Kind
	id      string
	version int64
	gone    bool
	err     error

	sum    [32]byte
	pepper uint16
	owner  string // key of the principal
	idle   int64  // when a session was touched

	credential *state[credentialBody]
	session    *state[sessionBody]
	principal  *state[principalBody]
	tenant     *state[tenantBody]
	denial     *store.Denial
	approval   *approval // nil for one that is not in force
	consent    *consent  // likewise
}

// decodeAll reads records on all processors, into the memory of a batch that nobody
// needs any more, or nil.
func (m *Mirror) decodeAll(records []store.Record, into []decoded) []decoded {
	clear(into)
	all := slices.Grow(into[:0], len(records))[:len(records)]
	const piece = 64
	workers := min(runtime.GOMAXPROCS(0), 1+len(records)/piece)
	var next atomic.Int64
	var done sync.WaitGroup
	for range workers {
		done.Go(func() {
			r := decoder{mirror: m}
			for {
				to := int(next.Add(piece))
				if to-piece >= len(records) {
					return
				}
				for i := to - piece; i < min(to, len(records)); i++ {
					r.decode(&records[i], &all[i])
				}
			}
		})
	}
	done.Wait()
	return all
}

// decoder makes one record ready after the other. What it reads of a regular
// credential lies in memory that it uses again; what is kept is copied.
type decoder struct {
	mirror  *Mirror
	regular store.Credential
	scratch []byte
}

func (r *decoder) decode(from *store.Record, d *decoded) {
	d.kind, d.id, d.version, d.gone = from.Kind, from.ID, from.Version, from.Deleted
	if d.gone {
		return
	}
	switch from.Kind {
	case store.KindCredential:
		d.err = r.credential(from, d)
	case store.KindSession:
		d.err = r.session(from, d)
	case store.KindPrincipal:
		d.err = r.principal(from, d)
	case store.KindTenant:
		d.err = decodeTenant(from, d)
	case store.KindDenial:
		d.err = decodeDenial(from, d)
	case store.KindApproval:
		d.err = decodeApproval(from, d)
	case store.KindConsent:
		d.err = decodeConsent(from, d)
	}
}

// document reads a record's document, which must be the one that the record says.
func document[T any, P store.DocumentOf[T]](from *store.Record) (*T, error) {
	if err := checkSize(from); err != nil {
		return nil, err
	}
	doc := new(T)
	if err := decodeJSON(from.Body, doc); err != nil {
		return nil, err
	}
	return doc, checkID(from, P(doc).Columns().ID)
}

// maxBody is the largest record that is read, in bytes. Documents hold 8 KiB of
// metadata and lists that their writers bound.
const maxBody = 1 << 20

func checkSize(from *store.Record) error {
	if len(from.Body) > maxBody {
		return fmt.Errorf("it has %d bytes", len(from.Body))
	}
	return nil
}

func checkID(from *store.Record, id string) error {
	if id != from.ID {
		return fmt.Errorf("it says that it is %s", id)
	}
	return nil
}

// decodeJSON reads JSON. Numbers of metadata stay as they are written: those over
// 2^53 are no float64.
func decodeJSON(body []byte, into any) error {
	if !bytes.Contains(body, []byte(`"metadata"`)) {
		return json.Unmarshal(body, into)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows it")
	}
	return nil
}

// credentialDocument is document for credentials, of which there are most: a
// regular one is good until the next.
func (r *decoder) credentialDocument(from *store.Record) (*store.Credential, error) {
	if err := checkSize(from); err != nil {
		return nil, err
	}
	if doc := &r.regular; readRegular(string(from.Body), doc) {
		return doc, checkID(from, doc.ID)
	}
	return document[store.Credential](from)
}

func (r *decoder) credential(from *store.Record, d *decoded) error {
	doc, err := r.credentialDocument(from)
	if err != nil {
		return err
	}
	if err := r.sealed(from, d, doc.Digest, doc.Tenant, doc.Principal); err != nil {
		return err
	}
	switch doc.Type {
	case store.APIKey, store.PAT, store.Token:
	default:
		return fmt.Errorf("its type is %q", doc.Type)
	}
	if err := faultsOf(doc.Constraints); err != nil {
		return err
	}
	p := profile{
		rights: rights{doc.Roles, doc.Scopes, doc.Permissions},
		Type:   doc.Type, Environment: doc.Environment,
		Metadata: doc.Metadata, Constraints: doc.Constraints, Parent: doc.Parent,
	}
	if doc.Rotated != nil {
		p.Successor = doc.Successor
	}
	text := from.ID + doc.Name // one allocation for both
	s := &state[credentialBody]{version: from.Version}
	s.body.life = lifeOf(doc.NotBefore, doc.ExpiresAt, doc.Revoked, doc.Disabled, doc.Rotated)
	s.body.name, s.body.created = text[len(from.ID):], nanos(doc.CreatedAt, always)
	if s.body.profile, r.scratch, err = intern(r.mirror.profiles, &p, r.scratch); err != nil {
		return err
	}
	d.id, d.credential = text[:len(from.ID)], s
	return nil
}

// sealed reads the digest, and whose it is.
func (r *decoder) sealed(from *store.Record, d *decoded, digest, tenant, principal string) error {
	var s seal.Digest
	r.scratch = append(r.scratch[:0], digest...)
	if err := s.UnmarshalText(r.scratch); err != nil {
		return err
	}
	if principal == "" {
		return errors.New("it belongs to nobody")
	}
	d.sum, d.pepper, d.owner = s.Sum(), s.Pepper(), ownerKey(from, tenant, principal)
	return nil
}

// ownerKey is store.PrincipalKey, which the record has already if it comes from a
// store.
func ownerKey(from *store.Record, tenant, principal string) string {
	if rest, ok := strings.CutPrefix(from.Owner, tenant); ok && len(rest) == 1+len(principal) && rest[0] == '/' && rest[1:] == principal {
		return from.Owner
	}
	return store.PrincipalKey(tenant, principal)
}

func lifeOf(from, until time.Time, revoked, disabled, rotated *store.Ending) life {
	l := life{notBefore: nanos(from, always), notAfter: never}
	if rotated != nil {
		l.endAt(nanos(rotated.At, always), policy.ReasonRotated)
	}
	l.endAt(nanos(until, never), policy.ReasonExpired)
	switch {
	case revoked != nil:
		l.over = policy.ReasonRevoked
	case disabled != nil:
		l.over = policy.ReasonDisabled
	}
	return l
}

// faultsOf refuses limits that would not limit as they look.
func faultsOf(c *policy.Constraints) (err error) {
	c.Damage(func(path, message, _ string) {
		if err == nil {
			err = fmt.Errorf("constraints.%s %s", path, message)
		}
	})
	return err
}

func (r *decoder) session(from *store.Record, d *decoded) error {
	doc, err := document[store.Session](from)
	if err != nil {
		return err
	}
	if err := r.sealed(from, d, doc.Digest, doc.Tenant, doc.Principal); err != nil {
		return err
	}
	if d.pepper == 0 {
		return errors.New("the secret of a session is never imported")
	}
	s := &state[sessionBody]{version: from.Version}
	s.body = sessionBody{
		life:    lifeOf(time.Time{}, doc.ExpiresAt, doc.Revoked, nil, doc.Rotated),
		created: nanos(doc.CreatedAt, always), authenticated: nanos(doc.AuthTime, always),
		idle: time.Duration(doc.Idle), acr: doc.ACR, amr: doc.AMR, successor: doc.Successor,
	}
	d.session, d.idle = s, max(0, nanos(doc.TouchedAt, 0))
	return nil
}

func (r *decoder) principal(from *store.Record, d *decoded) error {
	doc, err := document[store.Principal](from)
	if err != nil {
		return err
	}
	switch doc.Kind {
	case policy.KindUser, policy.KindService, policy.KindAgent, policy.KindDevice:
	default:
		return fmt.Errorf("its kind is %q", doc.Kind)
	}
	p := person{rights: rights{doc.Roles, doc.Scopes, doc.Permissions}, Kind: doc.Kind, Metadata: doc.Metadata}
	s := &state[principalBody]{version: from.Version}
	s.body.name, s.body.disabled = doc.Name, doc.Disabled != nil
	if s.body.person, r.scratch, err = intern(r.mirror.persons, &p, r.scratch); err != nil {
		return err
	}
	if doc.Kind == policy.KindAgent {
		if s.body.agent, err = r.agent(doc.Agent); err != nil {
			return err
		}
	}
	if doc.Owner != "" {
		d.owner = store.PrincipalKey(doc.Tenant, doc.Owner)
	}
	d.principal = s
	return nil
}

func decodeTenant(from *store.Record, d *decoded) error {
	doc, err := document[store.Tenant](from)
	if err != nil {
		return err
	}
	d.tenant = &state[tenantBody]{version: from.Version, body: tenantBody{name: doc.Name, disabled: doc.Disabled != nil}}
	return nil
}

func decodeDenial(from *store.Record, d *decoded) error {
	doc, err := document[store.Denial](from)
	if err != nil {
		return err
	}
	line := revocation(doc)
	d.denial = doc
	return line.Validate()
}

func revocation(d *store.Denial) authn.Revocation {
	r := authn.Revocation{
		JTI: d.JTI, SID: d.SID, KID: d.KID, Fingerprint: d.Fingerprint,
		Subject: d.Subject, Client: d.Client, Agent: d.Agent, Tenant: d.OfTenant,
		Issuer: d.Issuer, IssuedBefore: d.IssuedBefore, Within: d.Tenant,
	}
	if d.Ended != "" && d.Tenant == "" {
		r.Within = authn.NoTenant
	}
	return r
}
