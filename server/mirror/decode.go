package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
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
}

// decodeAll reads records on all processors.
func (m *Mirror) decodeAll(records []store.Record) []decoded {
	all := make([]decoded, len(records))
	const piece = 64
	workers := min(runtime.GOMAXPROCS(0), 1+len(records)/piece)
	var next atomic.Int64
	var done sync.WaitGroup
	for range workers {
		done.Go(func() {
			for {
				to := int(next.Add(piece))
				if to-piece >= len(records) {
					return
				}
				for i := to - piece; i < min(to, len(records)); i++ {
					m.decode(&records[i], &all[i])
				}
			}
		})
	}
	done.Wait()
	return all
}

func (m *Mirror) decode(r *store.Record, d *decoded) {
	d.kind, d.id, d.version, d.gone = r.Kind, r.ID, r.Version, r.Deleted
	if d.gone {
		return
	}
	switch r.Kind {
	case store.KindCredential:
		d.err = m.decodeCredential(r, d)
	case store.KindSession:
		d.err = m.decodeSession(r, d)
	case store.KindPrincipal:
		d.err = m.decodePrincipal(r, d)
	case store.KindTenant:
		d.err = decodeTenant(r, d)
	case store.KindDenial:
		d.err = decodeDenial(r, d)
	}
}

// document reads a record's document, which must be the one that the record says.
func document[T any, P interface {
	*T
	store.Document
}](r *store.Record) (*T, error) {
	if len(r.Body) > maxBody {
		return nil, fmt.Errorf("it has %d bytes", len(r.Body))
	}
	doc := new(T)
	if !quickly(r.Body, doc) {
		*doc = *new(T)
		if err := decodeJSON(r.Body, doc); err != nil {
			return nil, err
		}
	}
	if id := P(doc).Columns().ID; id != r.ID {
		return nil, fmt.Errorf("it says that it is %s", id)
	}
	return doc, nil
}

// quickly reads a credential if it is a regular one.
func quickly(body []byte, doc any) bool {
	c, ok := doc.(*store.Credential)
	return ok && readRegular(body, c)
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

// maxBody is the largest record that is read, in bytes. Documents hold 8 KiB of
// metadata and lists that their writers bound.
const maxBody = 1 << 20

func (m *Mirror) decodeCredential(r *store.Record, d *decoded) error {
	doc, err := document[store.Credential](r)
	if err != nil {
		return err
	}
	if err := d.sealed(doc.Digest, doc.Tenant, doc.Principal); err != nil {
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
	s := &state[credentialBody]{version: r.Version}
	s.body.life = lifeOf(doc.NotBefore, doc.ExpiresAt, doc.Revoked, doc.Disabled, doc.Rotated)
	s.body.name, s.body.created = doc.Name, nanos(doc.CreatedAt, always)
	if s.body.profile, err = intern(m.profiles, &p); err != nil {
		return err
	}
	d.credential = s
	return nil
}

// sealed reads the digest, and whose it is.
func (d *decoded) sealed(digest, tenant, principal string) error {
	var s seal.Digest
	if err := s.UnmarshalText([]byte(digest)); err != nil {
		return err
	}
	if principal == "" {
		return errors.New("it belongs to nobody")
	}
	d.sum, d.pepper, d.owner = s.Sum(), s.Pepper(), store.PrincipalKey(tenant, principal)
	return nil
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
	c.Faults(func(path, message, _ string) {
		if err == nil {
			err = fmt.Errorf("constraints.%s %s", path, message)
		}
	})
	return err
}

func (m *Mirror) decodeSession(r *store.Record, d *decoded) error {
	doc, err := document[store.Session](r)
	if err != nil {
		return err
	}
	if err := d.sealed(doc.Digest, doc.Tenant, doc.Principal); err != nil {
		return err
	}
	if d.pepper == 0 {
		return errors.New("the secret of a session is never imported")
	}
	s := &state[sessionBody]{version: r.Version}
	s.body = sessionBody{
		life:    lifeOf(time.Time{}, doc.ExpiresAt, doc.Revoked, nil, doc.Rotated),
		created: nanos(doc.CreatedAt, always), authenticated: nanos(doc.AuthTime, always),
		idle: time.Duration(doc.Idle), acr: doc.ACR, amr: doc.AMR, successor: doc.Successor,
	}
	d.session, d.idle = s, max(0, nanos(doc.TouchedAt, 0))
	return nil
}

func (m *Mirror) decodePrincipal(r *store.Record, d *decoded) error {
	doc, err := document[store.Principal](r)
	if err != nil {
		return err
	}
	switch doc.Kind {
	case policy.KindUser, policy.KindService, policy.KindAgent, policy.KindDevice:
	default:
		return fmt.Errorf("its kind is %q", doc.Kind)
	}
	p := person{rights: rights{doc.Roles, doc.Scopes, doc.Permissions}, Kind: doc.Kind, Metadata: doc.Metadata}
	s := &state[principalBody]{version: r.Version}
	s.body.name, s.body.disabled = doc.Name, doc.Disabled != nil
	if s.body.person, err = intern(m.persons, &p); err != nil {
		return err
	}
	if doc.Owner != "" {
		d.owner = store.PrincipalKey(doc.Tenant, doc.Owner)
	}
	d.principal = s
	return nil
}

func decodeTenant(r *store.Record, d *decoded) error {
	doc, err := document[store.Tenant](r)
	if err != nil {
		return err
	}
	d.tenant = &state[tenantBody]{version: r.Version, body: tenantBody{name: doc.Name, disabled: doc.Disabled != nil}}
	return nil
}

func decodeDenial(r *store.Record, d *decoded) error {
	doc, err := document[store.Denial](r)
	if err != nil {
		return err
	}
	line := revocation(doc)
	d.denial = doc
	return line.Validate()
}

func revocation(d *store.Denial) authn.Revocation {
	return authn.Revocation{
		JTI: d.JTI, SID: d.SID, KID: d.KID, Fingerprint: d.Fingerprint,
		Subject: d.Subject, Client: d.Client, Agent: d.Agent, Tenant: d.OfTenant,
		Issuer: d.Issuer, IssuedBefore: d.IssuedBefore, Within: d.Tenant,
	}
}
