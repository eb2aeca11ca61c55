// Package store names what Postern keeps, and the one way to keep it.
//
// # Records
//
// Everything that is kept is a Record: a kind, an id, a few columns to find it by,
// and its content as JSON. An engine knows records and nothing else, so that the
// engines are small and one conformance suite (storetest) holds for all of them.
// What the contents mean is said by the documents of this package: Tenant,
// Principal, Credential, Session, Denial.
//
// # The feed
//
// A change is one transaction. It takes the next number of one counter, a row that
// the transaction holds until it ends, so numbers have no gaps and become visible
// in their order; a sequence of the database would lose changes to readers, because
// of two transactions the one with the higher number may commit first. Every record
// that the transaction writes gets the number as its Version.
//
// The feed is therefore no table of its own: it is the records in the order of
// their versions. Who has seen all up to 41 asks for those over 41, and gets the
// last state of each. A record that was deleted stays as a tombstone until Purge.
//
//	Update   records + their number + audit entries   one transaction, or nothing
//	Changes  records over a number                    whole transactions only
//	Listen   something changed                        a hint, may be lost
//
// # Many replicas
//
// Transactions run one after the other, over all replicas: what one has read is
// still so when it commits. That costs nothing that matters, because the decision
// path never asks a store (see server/mirror), and waiting writers share one
// commit.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kind is what a record is.
type Kind string

// The kinds of records.
const (
	KindTenant     Kind = "tenant"
	KindPrincipal  Kind = "principal"
	KindCredential Kind = "credential"
	KindSession    Kind = "session"
	KindDenial     Kind = "denial"
	// KindWorkload keeps workloads apart that are agents.
	KindWorkload Kind = "workload"
	// KindApproval and KindConsent are what people have agreed to, or are asked to.
	KindApproval Kind = "approval"
	KindConsent  Kind = "consent"
	// KindLimit is the limit of a budget for one of those who have it, in the place of the
	// configuration's.
	KindLimit Kind = "limit"
	// KindRequest remembers calls by the id that their caller gave them, so that a
	// repeated call is not carried out twice.
	KindRequest Kind = "request"
)

// Record is one thing that is kept.
type Record struct {
	Kind Kind
	// ID is unique among the records of its kind, for ever: ids are not used again.
	ID string
	// Tenant owns it; empty for the installation itself.
	Tenant string
	// Owner is the id of the principal record to which it belongs and with which it
	// falls; empty if it belongs to none.
	Owner string
	// Digest finds a credential of a foreign format; unique unless empty.
	Digest string
	// ExpiresAt is when it may be purged; zero for never. Kept in microseconds. That of
	// a tombstone is when it was deleted.
	ExpiresAt time.Time
	// Body is the content in JSON; nil in a tombstone.
	Body []byte
	// Version is the number of the change that wrote it last. Set by the store.
	Version int64
	// Deleted marks a tombstone.
	Deleted bool
}

// The errors that engines return. Others are faults: it is not known whether
// anything happened.
var (
	// ErrNotFound says that there is no such record.
	ErrNotFound = errors.New("not found")
	// ErrExists says that a digest or an id that must be new is taken.
	ErrExists = errors.New("already exists")
	// ErrCorrupt says that what is stored is not what was written.
	ErrCorrupt = errors.New("the store is damaged")
	// ErrNewer says that a newer Postern has changed the schema.
	ErrNewer = errors.New("the store was written by a newer version of Postern")
	// ErrReadOnly says that the store cannot be written: permissions, a full disk, a
	// disk that has failed, or a replica of a database.
	ErrReadOnly = errors.New("the store cannot be written")
	// ErrFull is the ErrReadOnly of a full disk: nothing was changed, and it goes on by
	// itself when there is room again.
	ErrFull = fmt.Errorf("%w: the disk is full", ErrReadOnly)
	// ErrPurged says that the feed no longer reaches back to the number: read all of
	// it again, from 0.
	ErrPurged = errors.New("the feed does not reach back so far")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("the store is closed")
)

// Reader reads one consistent state. It is only valid inside the function that it
// was handed to, and not for concurrent use.
type Reader interface {
	// Get returns a record that exists, or ErrNotFound; tombstones are not found.
	Get(kind Kind, id string) (Record, error)
	// ByDigest finds a record of any kind by its digest.
	ByDigest(digest string) (Record, error)
	// List returns the records that fit, in the order of their ids.
	List(q Query) ([]Record, error)
	// Head is the number of the last change that this state holds.
	Head() (int64, error)
}

// Query says which records of a kind to list. Empty fields do not limit.
type Query struct {
	Kind Kind
	// Tenant lists those of one tenant.
	Tenant string
	// Owner lists those that belong to a principal record.
	Owner string
	// After is the id behind which the list begins.
	After string
	// Limit is the most records to return, 1 to MaxPage; 0 means MaxPage.
	Limit int
}

// MaxPage is the most records that one List returns.
const MaxPage = 1000

// Tx reads and writes in one transaction. It sees what it has written itself.
type Tx interface {
	Reader
	// Put writes a record, new or not. Version and Deleted are the store's to set.
	// ErrExists says that another record has the digest, or that the id is that of a
	// tombstone.
	Put(r Record) error
	// Delete leaves a tombstone, or returns ErrNotFound.
	Delete(kind Kind, id string) error
	// Note adds an entry to the audit log. Seq, Change and At are the store's.
	Note(e AuditEntry) error
}

// Change is a transaction that was committed.
type Change struct {
	// Number is its place in the feed. A transaction that wrote no record has the
	// number of the last one before it.
	Number int64
	// At is when it was made, by the clock of the store that made it.
	At time.Time
}

// Batch is a part of the feed: whole transactions, in order.
type Batch struct {
	// Epoch names the store. It is another one after a restore: then numbers mean
	// other changes, and all has to be read again.
	Epoch string
	// Records are what changed, each in its last state, by version; those of one
	// transaction are in no order.
	Records []Record
	// Next is the number to ask from next. In the middle of a load from 0 it can be
	// negative, and then only means something to the store.
	Next int64
	// Complete says that nothing had changed beyond Next when the batch was read.
	Complete bool
}

// Store keeps records. It is safe for concurrent use.
type Store interface {
	// Update runs a function in a transaction that is serial with all others of all
	// replicas, and commits it unless the function returns an error, which Update
	// then returns as it is. What it returned without an error is on disk. The
	// function may run more than once, must not use the Store itself, and must be
	// quick: it holds up all writers.
	Update(ctx context.Context, fn func(Tx) error) (Change, error)
	// View runs a function over one consistent state. It must not use the Store
	// itself.
	View(ctx context.Context, fn func(Reader) error) error
	// Changes reads the feed after a number: about limit records, and more where a
	// single transaction has more. From 0 it leaves tombstones out, so that a batch may
	// hold none at all without being the last one; later batches may
	// hold some of what was never seen. What Purge took shows nowhere: readers forget
	// by themselves what has expired. ErrPurged means to start from 0.
	Changes(ctx context.Context, after int64, limit int) (Batch, error)
	// Listen calls hint at once and after changes, soon, until ctx ends, whose error
	// it then returns, or ErrClosed. Hints may be lost and may come for nothing.
	Listen(ctx context.Context, hint func()) error

	// AddUsage adds to the counters of use. It is no change, and not in the feed.
	AddUsage(ctx context.Context, add []Usage) error
	// Usage returns counters by credential, newest day first.
	Usage(ctx context.Context, q UsageQuery) ([]Usage, error)
	// Audit returns entries of the audit log, newest first.
	Audit(ctx context.Context, q AuditQuery) ([]AuditEntry, error)

	// Purge removes what ended before a time, that is tombstones and records whose
	// ExpiresAt has passed, and returns how many records went. It is no change.
	Purge(ctx context.Context, before time.Time) (int, error)
	// Check reads everything and reports all that is wrong with it.
	Check(ctx context.Context) (Report, error)
	// Close ends the store. Transactions under way are finished or undone.
	Close() error
}

// Usage counts what a credential was used for on one day.
type Usage struct {
	// Credential is its id, Tenant and Principal whose it is.
	Credential, Tenant, Principal string
	// Day is the day, in UTC, as 2006-01-02.
	Day string
	// Route is the name of the route, empty for none.
	Route string
	// Allowed and Denied are how many decisions.
	Allowed, Denied int64
	// LastUsedAt is the time of the last allowed one; adding keeps the latest.
	LastUsedAt time.Time
}

// UsageQuery says which counters to return. Empty fields do not limit.
type UsageQuery struct {
	Credential, Tenant, Principal string
	// From and To are days, both inclusive.
	From, To string
	// Limit is the most counters to return; 0 means MaxPage.
	Limit int
}

// AuditEntry says who did what, and is never changed or removed. It holds no
// secret.
type AuditEntry struct {
	// Seq is its place in the log, without gaps.
	Seq int64 `json:"seq"`
	// Change is the change that it tells of; 0 if nothing was changed.
	Change int64     `json:"change,omitempty"`
	At     time.Time `json:"at"`
	// Actor is who did it, as "tenant/id", and Credential by which credential.
	Actor      string `json:"actor"`
	Credential string `json:"credential,omitempty"`
	// Action is what was done, for example "credential.revoke".
	Action string `json:"action"`
	// Target is the record: its kind and id, as "credential/4fQzR8xW0bLm".
	Target string `json:"target,omitempty"`
	// Tenant owns the target.
	Tenant string `json:"tenant,omitempty"`
	// Denied says that it was refused, and nothing was done.
	Denied bool `json:"denied,omitempty"`
	// Reason is why, as the actor or the refusal says.
	Reason string `json:"reason,omitempty"`
	// RequestID is the id that the caller gave the call.
	RequestID string `json:"request_id,omitempty"`
	// Detail holds further facts as strings: changed fields, counts.
	Detail map[string]string `json:"detail,omitempty"`
}

// AuditQuery says which entries to return. Empty fields do not limit.
type AuditQuery struct {
	Tenant, Actor, Action, Target string
	// From is the first moment, To the first no more.
	From, To time.Time
	// Before is the Seq before which the list begins; 0 for the newest.
	Before int64
	// Limit is the most entries to return; 0 means MaxPage.
	Limit int
}

// Report is what a check of a store found.
type Report struct {
	// Engine describes it, for example "SQLite 3.53.0, /var/lib/postern/postern.db".
	Engine string `json:"engine"`
	Schema int    `json:"schema"`
	Epoch  string `json:"epoch"`
	Head   int64  `json:"head"`
	// Records counts live records by kind.
	Records map[Kind]int `json:"records"`
	Audit   int64        `json:"audit_entries"`
	Bytes   int64        `json:"bytes"`
	// Faults is all that is wrong; empty if nothing is.
	Faults []string `json:"faults,omitempty"`
}

// Backer is a store that can be copied while it is in use.
type Backer interface {
	// Backup writes a consistent copy to a new file.
	Backup(ctx context.Context, path string) error
}

// Corrupt returns an ErrCorrupt that says what and where.
func Corrupt(kind Kind, id string, err error) error {
	return fmt.Errorf("%w: %s %s: %w", ErrCorrupt, kind, id, err)
}
