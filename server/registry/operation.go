package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// requestLife is how long a call is remembered by its request id.
const requestLife = day

// action is a kind of operation.
type action struct {
	// name is what the audit log calls it.
	name string
	// repeat says what a call gets whose request id was seen before.
	repeat repeat
}

type repeat int

const (
	// never: the request holds a secret, of which nothing is kept that could be
	// compared. Every call counts, the id only goes to the audit log.
	never repeat = iota
	// same: the result of the first call.
	same
	// withheld: the result held a secret, so there is only an error that names what
	// was made.
	withheld
)

// operation is one call in its transaction. Whatever it holds is of this attempt
// alone: a store may run a transaction more than once.
type operation struct {
	*Registry
	call  Call
	actor *Actor
	tx    store.Tx
	now   time.Time
	// entry is what the audit log will say.
	entry store.AuditEntry
	// made is what a repeated call has to be told: ids, or a count.
	made string
	// families remembers what below has read, by the key of the principal.
	families map[string]*family
	// written are the documents that get the number of the change as their version.
	written []store.Document
}

// errUndo ends a transaction of which nothing is to stay.
var errUndo = errors.New("nothing is to stay")

// change runs an operation in a transaction. Do does it, again builds the result of
// a repeated call from what the first one left in made; it is needed for actions
// that repeat their result.
func (r *Registry) change(ctx context.Context, call Call, act action, req any, do func(*operation) error, again func(o *operation, made string) error) (Change, error) {
	var earlier *store.Request
	if call.Actor.ID == "" {
		return Change{}, r.failed(ctx, call, act, store.AuditEntry{}, nobody())
	}
	id, hash, err := r.remembered(call, act, req)
	if err != nil {
		return Change{}, r.failed(ctx, call, act, store.AuditEntry{}, err)
	}
	var last *operation
	committed, err := r.store.Update(ctx, func(tx store.Tx) error {
		o := &operation{Registry: r, call: call, actor: &call.Actor, tx: tx, now: r.now()}
		last = o
		before, err := o.earlier(id, hash, act)
		switch earlier = before; {
		case err != nil:
			return err
		case before != nil:
			err = again(o, before.Target)
		default:
			err = do(o)
		}
		if err == nil && (before != nil || call.ValidateOnly) {
			return errUndo
		}
		if err != nil {
			return err
		}
		return o.finish(act, id, hash)
	})
	switch {
	case errors.Is(err, errUndo) && earlier != nil:
		at := earlier.ExpiresAt.Add(-requestLife)
		return Change{Number: earlier.Version, CommittedAt: at, EffectiveAt: at.Add(r.cfg.Bound)}, nil
	case errors.Is(err, errUndo):
		return Change{}, nil
	case err != nil:
		return Change{}, r.failed(ctx, call, act, last.about(), err)
	}
	for _, d := range last.written { // so that etags are right without reading again
		d.SetVersion(committed.Number)
	}
	r.settle(ctx, committed.Number)
	if id != "" { // what a repeated call is told
		committed.At = last.now
	}
	return Change{Number: committed.Number, CommittedAt: committed.At, EffectiveAt: committed.At.Add(r.cfg.Bound)}, nil
}

// settle waits until this replica knows of a change.
func (r *Registry) settle(ctx context.Context, number int64) {
	if r.seen == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Bound)
	defer cancel()
	_ = r.seen(ctx, number) // made it is, and other replicas may know of it
}

// remembered returns the id under which the call is remembered and the hash of what
// it asks for; both empty if it is not.
func (r *Registry) remembered(call Call, act action, req any) (id, hash string, err error) {
	if call.RequestID == "" {
		return "", "", nil
	}
	if len(call.RequestID) > MaxRequestID || !printable(call.RequestID) || holdsSecret(call.RequestID) {
		return "", "", fail(InvalidField, "request_id", "has at most %d printable characters", MaxRequestID)
	}
	if act.repeat == never {
		return "", "", nil
	}
	content, err := json.Marshal(req)
	if err != nil {
		return "", "", fail(InvalidField, "", "the request cannot be written as JSON")
	}
	// Ids of requests are each actor's own. They hold no NUL, so this has one reading.
	return digestOf(call.RequestID, call.Actor.Name()), digestOf(act.name, string(content)), nil
}

// MaxRequestID is the longest id of a request, in bytes.
const MaxRequestID = 64

// digestOf stands for texts of which only the last may hold a NUL.
func digestOf(texts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// earlier returns the call that was made with the id before, nil if there was none.
func (o *operation) earlier(id, hash string, act action) (*store.Request, error) {
	if id == "" {
		return nil, nil
	}
	before, err := store.Get[store.Request](o.tx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case !before.ExpiresAt.After(o.now):
		return nil, nil
	case before.Hash != hash:
		return nil, fail(RequestIDReused, "request_id", "was used for another call: use a new one")
	case act.repeat == withheld:
		return nil, fail(SecretNotRepeated, "request_id",
			"this call was carried out before, and made %s; its secret cannot be shown again: rotate it if it is lost", before.Target).
			with("id", before.Target)
	}
	return before, nil
}

// finish writes what every operation writes: its entry in the audit log, and that it
// was done.
func (o *operation) finish(act action, id, hash string) error {
	if err := o.tx.Note(o.note(act.name)); err != nil {
		return err
	}
	if id == "" {
		return nil
	}
	return store.Put(o.tx, &store.Request{ID: id, Hash: hash, Target: o.made, ExpiresAt: o.now.Add(requestLife)})
}

func (o *operation) note(name string) store.AuditEntry {
	e := o.entry
	e.Action = name
	return signed(e, o.call)
}

// signed says who did it.
func signed(e store.AuditEntry, call Call) store.AuditEntry {
	if call.Actor.ID != "" {
		e.Actor = call.Actor.Name()
	}
	e.Credential, e.RequestID = call.Actor.Credential, call.RequestID
	if len(call.Actor.Actors) > 0 { // a human and who acts for him are both named
		e.Detail = maps.Clone(e.Detail)
		if e.Detail == nil {
			e.Detail = map[string]string{}
		}
		e.Detail["actors"] = seal.Scrub(actorIDs(call.Actor.Actors))
	}
	for _, text := range []*string{&e.Actor, &e.Credential, &e.Target, &e.Tenant, &e.Reason, &e.RequestID} {
		*text = seal.Scrub(*text)
	}
	return e
}

// actorIDs are the ids of those who act for somebody, the one who calls first.
func actorIDs(actors []policy.Actor) string {
	ids := make([]string, len(actors))
	for i := range ids {
		ids[i] = actors[i].ID
	}
	return strings.Join(ids, " ")
}

// target says what the operation is about.
func (o *operation) target(kind store.Kind, id, tenant string) {
	o.entry.Target, o.entry.Tenant = string(kind)+"/"+id, tenant
}

func (o *operation) detail(key, value string) {
	if value == "" {
		return
	}
	if o.entry.Detail == nil {
		o.entry.Detail = map[string]string{}
	}
	o.entry.Detail[key] = seal.Scrub(value)
}

// failed turns what ended an operation into the error that its caller gets, and
// notes what was tried without the right to.
func (r *Registry) failed(ctx context.Context, call Call, act action, e store.AuditEntry, err error) error {
	failure := asError(err)
	if !failure.denied {
		return failure
	}
	e.Action, e.Detail = act.name, nil
	e.Denied, e.Reason = true, failure.Error()
	if e.Tenant == "" {
		e.Tenant = call.Actor.Tenant
	}
	// It stays refused, whether or not the store can be told.
	_ = r.noteRefusal(ctx, signed(e, call))
	return failure
}

// about is the audit entry as far as it got; o is nil if it did not begin.
func (o *operation) about() store.AuditEntry {
	if o == nil {
		return store.AuditEntry{}
	}
	return o.entry
}

// put writes a document. What is taken says so in the words of the operation.
func (o *operation) put(d store.Document, what string) error {
	err := store.Put(o.tx, d)
	if errors.Is(err, store.ErrExists) {
		return fail(AlreadyExists, "", "%s is taken; ids that were deleted are free again after some days", what)
	}
	o.written = append(o.written, d)
	return err
}

// checkEtag compares the etag that a call brought, if any, with the record's.
func checkEtag(given string, version int64) error {
	if given != "" && given != Etag(version) {
		return fail(EtagMismatch, "etag", "the record was changed meanwhile: read it again")
	}
	return nil
}

// mint makes a secret whose id no record of the kind has.
func (o *operation) mint(kind seal.Kind, environment string, of store.Kind) (seal.Minted, error) {
	for range mintTries {
		m, err := seal.Mint(o.random, seal.Spec{Prefix: o.cfg.Prefix, Kind: kind, Environment: environment}, o.peppers)
		switch {
		case errors.Is(err, seal.ErrNoPepper):
			return seal.Minted{}, errNoPepper
		case err != nil:
			return seal.Minted{}, &Error{Fault: Fault{Reason: Internal, Message: "no secret could be made"}, Err: err}
		}
		if _, err := o.tx.Get(of, m.ID); errors.Is(err, store.ErrNotFound) {
			return m, nil
		} else if err != nil {
			return seal.Minted{}, err
		}
	}
	return seal.Minted{}, errRandom
}

// newID makes an id for a record that has no secret of ours.
func (o *operation) newID(of store.Kind) (string, error) {
	for range mintTries {
		id, err := seal.NewID(o.random)
		if err != nil {
			return "", &Error{Fault: Fault{Reason: Internal, Message: "no id could be made"}, Err: err}
		}
		if _, err := o.tx.Get(of, id); errors.Is(err, store.ErrNotFound) {
			return id, nil
		} else if err != nil {
			return "", err
		}
	}
	return "", errRandom
}

// mintTries: two equal ids in 10^9 happen once in 10^3 installations, two in a row
// only to a broken random source.
const mintTries = 3

var errNoPepper = fail(NotConfigured, "", "nothing can be issued without a pepper: set one, and back it up")

var errRandom = &Error{
	Fault: Fault{Reason: Internal, Message: "no new id could be made"},
	Err:   errors.New("the random source repeats itself"),
}
