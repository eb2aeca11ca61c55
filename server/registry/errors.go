package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// Reason says why an operation was not done. The texts are those of ErrorReason in
// proto/postern/admin/v1, without the prefix.
type Reason string

// The reasons.
const (
	InvalidField      Reason = "INVALID_FIELD"
	NotFound          Reason = "NOT_FOUND"
	AlreadyExists     Reason = "ALREADY_EXISTS"
	EtagMismatch      Reason = "ETAG_MISMATCH"
	RequestIDReused   Reason = "REQUEST_ID_REUSED"
	SecretNotRepeated Reason = "SECRET_NOT_REPEATED"
	PermissionDenied  Reason = "PERMISSION_DENIED"
	// GrantExceedsIssuer: Meta "missing" lists what the actor lacks.
	GrantExceedsIssuer Reason = "GRANT_EXCEEDS_ISSUER"
	WildcardNotAllowed Reason = "WILDCARD_NOT_ALLOWED"
	// TTLTooLong: Meta "max_ttl" is the longest life, as in "90d" or "1d12h".
	TTLTooLong       Reason = "TTL_TOO_LONG"
	MaxTTLExceeded   Reason = "MAX_TTL_EXCEEDED"
	WrongState       Reason = "WRONG_STATE"
	QuotaExceeded    Reason = "QUOTA_EXCEEDED"
	NotConfigured    Reason = "NOT_CONFIGURED"
	StoreUnavailable Reason = "STORE_UNAVAILABLE"
	// StoreFull: the disk of the store is full, and nothing was changed.
	StoreFull   Reason = "STORE_FULL"
	LoginFailed Reason = "LOGIN_FAILED"
	// Overloaded is not in the protocol: too many passwords are being verified, try
	// again. For STORE_UNAVAILABLE's status, without its meaning.
	Overloaded Reason = "OVERLOADED"
	Internal   Reason = "INTERNAL"
)

// Fault is one thing that is wrong with a request.
type Fault struct {
	Reason Reason
	// Field is the field of the request in the words of the protocol, for example
	// "constraints.networks[0]"; empty if it is about no field.
	Field string
	// Message says what is wrong and what to do instead. It holds no secret, and is
	// meant for the caller.
	Message string
	// Meta are facts for programs; see the reasons.
	Meta map[string]string
}

// Error is what every operation returns that was not done.
type Error struct {
	// Fault is the first fault, and what the call failed for.
	Fault
	// More are the others, which would have failed it as well.
	More []Fault
	// Err is the cause of STORE_UNAVAILABLE, STORE_FULL and INTERNAL, for the log and not for the
	// caller.
	Err error

	// denied says that somebody tried what they may not: it goes to the audit log.
	denied bool
}

// Error implements error. It holds no cause: that is not for callers.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Reason))
	for i, f := range e.All() {
		if i > 0 {
			b.WriteString(";")
		} else {
			b.WriteString(":")
		}
		if f.Field != "" {
			b.WriteString(" " + f.Field)
		}
		b.WriteString(" " + f.Message)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// All returns every fault, the first one first.
func (e *Error) All() []Fault { return append([]Fault{e.Fault}, e.More...) }

// ReasonOf returns the reason of an error of this package; empty for nil, and
// INTERNAL for any other.
func ReasonOf(err error) Reason {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Reason
	}
	return Internal
}

func fail(reason Reason, field, format string, args ...any) *Error {
	return &Error{Fault: fault(reason, field, format, args...)}
}

// fault makes a fault. What it repeats of a request may be a secret in the wrong
// place, which is taken out.
func fault(reason Reason, field, format string, args ...any) Fault {
	return Fault{Reason: reason, Field: seal.Scrub(field), Message: seal.Scrub(fmt.Sprintf(format, args...))}
}

func deny(field, format string, args ...any) *Error {
	e := fail(PermissionDenied, field, format, args...)
	e.denied = true
	return e
}

// nobody is the answer to an actor without an id: the zero Actor can do nothing.
func nobody() *Error { return deny("", "it is not known who calls") }

// notFound does not repeat the id: it may be a secret in the wrong place.
func notFound(what string) *Error { return fail(NotFound, "", "there is no such %s", what) }

// foreign is the answer to who asks for what is another tenant's: the same as if it
// were not there, but it was tried, and goes to the audit log.
func foreign(what string) *Error {
	e := notFound(what)
	e.denied = true
	return e
}

func (e *Error) with(key, value string) *Error {
	e.Meta = maps.Clone(e.Meta)
	if e.Meta == nil {
		e.Meta = map[string]string{}
	}
	e.Meta[key] = value
	return e
}

// asError turns what came out of the store into an *Error.
func asError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, store.ErrCorrupt):
		e = fail(Internal, "", "a record is damaged; `postern store check` says which")
	case errors.Is(err, store.ErrUncertain): // above all else that a failed commit may be
		e = fail(StoreUnavailable, "", "the store did not say whether the change was made; look before you try again")
	case errors.Is(err, store.ErrFull):
		e = fail(StoreFull, "", "the disk of the store is full; nothing was changed")
	case errors.Is(err, store.ErrReadOnly):
		e = fail(StoreUnavailable, "", "the store cannot be written; nothing was changed")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e = fail(StoreUnavailable, "", "the call was cut short; it is not known whether anything was changed")
	default:
		e = fail(StoreUnavailable, "", "the store did not answer; it is not known whether anything was changed")
	}
	e.Err = err
	return e
}

// faults collects what is wrong with a request.
type faults struct {
	list   []Fault
	denied bool
}

func (f *faults) add(reason Reason, field, format string, args ...any) {
	f.list = append(f.list, fault(reason, field, format, args...))
}

func (f *faults) field(field, format string, args ...any) {
	f.add(InvalidField, field, format, args...)
}

// take adds what an error of this package is about; nil adds nothing.
func (f *faults) take(err error) {
	if e := (*Error)(nil); errors.As(err, &e) {
		f.list, f.denied = append(f.list, e.All()...), f.denied || e.denied
	}
}

// err returns all faults as one error, or nil.
func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	e := &Error{Fault: f.list[0], More: f.list[1:], denied: f.denied}
	for _, fault := range f.list {
		switch fault.Reason {
		case PermissionDenied, GrantExceedsIssuer, WildcardNotAllowed:
			e.denied = true
		}
	}
	return e
}
