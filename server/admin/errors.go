package admin

import (
	"context"
	"errors"
	"maps"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/registry"
)

// Domain is the domain of every ErrorInfo.
const Domain = "postern"

// The reasons, without the prefix of the enumeration: short names for this package.
const (
	invalidField     = adminv1.ErrorReason_ERROR_REASON_INVALID_FIELD
	notFound         = adminv1.ErrorReason_ERROR_REASON_NOT_FOUND
	unauthenticated  = adminv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED
	permissionDenied = adminv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED
	storeUnavailable = adminv1.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE
	internalError    = adminv1.ErrorReason_ERROR_REASON_INTERNAL
	overloaded       = adminv1.ErrorReason_ERROR_REASON_OVERLOADED
	tooManyTries     = adminv1.ErrorReason_ERROR_REASON_TOO_MANY_TRIES

	wildcardNotAllowed = adminv1.ErrorReason_ERROR_REASON_WILDCARD_NOT_ALLOWED
)

// statusCodes says which status each reason comes with. A reason that is not here
// is INTERNAL, and a test finds it.
var statusCodes = map[adminv1.ErrorReason]codes.Code{
	invalidField: codes.InvalidArgument,
	notFound:     codes.NotFound,
	adminv1.ErrorReason_ERROR_REASON_ALREADY_EXISTS:      codes.AlreadyExists,
	adminv1.ErrorReason_ERROR_REASON_ETAG_MISMATCH:       codes.Aborted, // AIP-154
	adminv1.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED:   codes.InvalidArgument,
	adminv1.ErrorReason_ERROR_REASON_SECRET_NOT_REPEATED: codes.AlreadyExists,
	unauthenticated:  codes.Unauthenticated,
	permissionDenied: codes.PermissionDenied,
	adminv1.ErrorReason_ERROR_REASON_GRANT_EXCEEDS_ISSUER: codes.PermissionDenied,
	wildcardNotAllowed: codes.InvalidArgument,
	adminv1.ErrorReason_ERROR_REASON_TTL_TOO_LONG:     codes.InvalidArgument,
	adminv1.ErrorReason_ERROR_REASON_MAX_TTL_EXCEEDED: codes.FailedPrecondition,
	adminv1.ErrorReason_ERROR_REASON_WRONG_STATE:      codes.FailedPrecondition,
	adminv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED:   codes.ResourceExhausted,
	adminv1.ErrorReason_ERROR_REASON_NOT_CONFIGURED:   codes.FailedPrecondition,
	storeUnavailable: codes.Unavailable,
	adminv1.ErrorReason_ERROR_REASON_STORE_FULL: codes.ResourceExhausted,
	// UNAUTHENTICATED would be about the caller's own credential.
	adminv1.ErrorReason_ERROR_REASON_LOGIN_FAILED: codes.PermissionDenied,
	internalError: codes.Internal,
	overloaded:    codes.Unavailable,
	tooManyTries:  codes.ResourceExhausted,
}

// failure is an error of this API: what every one of them looks like on the wire.
type failure struct {
	reason  adminv1.ErrorReason
	message string
	// meta is the metadata of the ErrorInfo.
	meta map[string]string
	// fields are what is wrong with the request, field by field.
	fields []*errdetails.BadRequest_FieldViolation
	// forbidden says that the request was as it has to be, and the caller may not:
	// PERMISSION_DENIED, whatever the reason comes with otherwise.
	forbidden bool
}

// Error implements error.
func (f *failure) Error() string { return f.message }

// GRPCStatus is what grpc sends.
func (f *failure) GRPCStatus() *status.Status {
	code, ok := statusCodes[f.reason]
	switch {
	case !ok:
		code = codes.Internal
	case f.forbidden:
		code = codes.PermissionDenied
	}
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{
		Reason: reasonName(f.reason), Domain: Domain, Metadata: validMap(f.meta),
	}}
	if n := len(f.fields); n > 0 {
		details = append(details, &errdetails.BadRequest{FieldViolations: f.fields[:min(n, maxFields)]})
	}
	s := status.New(code, valid(f.message))
	if detailed, err := s.WithDetails(details...); err == nil {
		return detailed
	}
	return s
}

// reasonName is the reason without the enumeration's prefix.
func reasonName(r adminv1.ErrorReason) string {
	return strings.TrimPrefix(r.String(), "ERROR_REASON_")
}

// Errors travel in a header field, of which many clients take no more than 8 KiB.
const (
	maxFields = 16  // violations that are sent
	maxText   = 256 // bytes of each of them, and of every other text
)

// valid bounds a text and replaces what is not UTF-8, which no protobuf text may
// hold.
func valid(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "\uFFFD") }

func validMap(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[valid(k)] = valid(v)
	}
	return out
}

// invalid collects what is wrong with the fields of a request, so that its sender
// hears all of it at once. A violation names the field and what is allowed, and
// never quotes the value: it may be a secret in the wrong place.
type invalid struct {
	fields  []*errdetails.BadRequest_FieldViolation
	allowed string
}

// add notes a field.
func (v *invalid) add(field, description string) {
	v.fields = append(v.fields, &errdetails.BadRequest_FieldViolation{Field: valid(field), Description: valid(description)})
}

// allow notes a field, and what it may hold.
func (v *invalid) allow(field, description, allowed string) {
	if len(v.fields) == 0 {
		v.allowed = allowed
	}
	v.add(field, description+"; allowed: "+allowed)
}

// err returns INVALID_FIELD, or nil if nothing was noted.
func (v *invalid) err() error {
	if len(v.fields) == 0 {
		return nil
	}
	first := v.fields[0]
	meta := map[string]string{"field": first.GetField()}
	if v.allowed != "" {
		meta["allowed"] = v.allowed
	}
	return &failure{
		reason: invalidField, message: first.GetField() + " " + first.GetDescription(),
		meta: meta, fields: v.fields,
	}
}

// refused is the answer to a caller who could not be authenticated. What it says is
// no more than the data plane would.
func refused(d *policy.Decision) error {
	switch {
	case d.Reason == policy.ReasonInternal:
		return &failure{reason: internalError, message: "internal error"}
	case d.Reason.Fault():
		return &failure{
			reason: storeUnavailable, message: "the credential could not be checked; try again",
			meta: map[string]string{"cause": d.Reason.Public()},
		}
	case d.Reason == policy.ReasonUnspecified, d.Reason == policy.ReasonAllowed:
		return &failure{reason: unauthenticated, message: "a credential is required"}
	}
	return &failure{
		reason: unauthenticated, message: d.Reason.Message(),
		meta: map[string]string{"cause": d.Reason.Public()},
	}
}

// wireError makes what grpc sends of any error that a handler returns: in one place,
// so that none gets out with a text that was meant for the log. What is lost is the
// cause, which the log has.
func wireError(err error) *failure {
	var f *failure
	var r *registry.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &r):
		return ofRegistry(r)
	case errors.Is(err, rego.ErrTimeout), errors.Is(err, rego.ErrOverloaded):
		return &failure{reason: overloaded, message: "the policy of the admin API did not answer in time; try again"}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &failure{reason: storeUnavailable, message: "the call ended before it was carried out; whether anything was changed is not known"}
	}
	return &failure{reason: internalError, message: "internal error"}
}

// ofRegistry writes what the registry says. Its messages are meant for callers, its
// cause is not.
func ofRegistry(e *registry.Error) *failure {
	reason, known := adminv1.ErrorReason_value["ERROR_REASON_"+string(e.Reason)]
	if !known || reason == 0 {
		return &failure{reason: internalError, message: "internal error"}
	}
	f := &failure{reason: adminv1.ErrorReason(reason), message: e.Message, meta: maps.Clone(e.Meta)}
	if e.Field != "" {
		f.message = e.Field + " " + e.Message
		if f.meta == nil {
			f.meta = map[string]string{}
		}
		f.meta["field"] = e.Field
	}
	for _, fault := range e.All() {
		if fault.Field != "" {
			f.fields = append(f.fields, &errdetails.BadRequest_FieldViolation{Field: valid(fault.Field), Description: valid(fault.Message)})
		}
	}
	return f
}

// causeOf is what the log gets of an error: the cause that the caller does not.
func causeOf(err error) error {
	var r *registry.Error
	if errors.As(err, &r) && r.Err != nil {
		return r.Err
	}
	return err
}
