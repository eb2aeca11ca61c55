package policy

import "net/http"

// Reason says why a decision fell, for programs. The set is closed: values are
// added, never changed. The zero Reason is a deny that nobody explained.
type Reason uint8

// The reasons, in the order of the phases that give them.
const (
	ReasonUnspecified Reason = iota
	ReasonAllowed

	// Read: the request has no single reading.
	ReasonRequestInvalid
	ReasonRequestTooLarge

	// Find and prove: who is calling could not be proven.
	ReasonCredentialMissing
	ReasonCredentialMalformed
	ReasonCredentialUnknown
	ReasonCredentialAmbiguous
	ReasonCredentialInQuery
	ReasonUnsupportedScheme
	ReasonMethodNotAccepted
	ReasonTokenTooLarge
	ReasonWrongTokenType
	ReasonSignatureInvalid
	ReasonIssuerUntrusted
	ReasonInvalidAudience
	ReasonInvalidClaim
	ReasonExpired
	ReasonNotYetValid
	ReasonLifetimeExceeded
	ReasonRevoked
	ReasonRotated
	ReasonDisabled
	ReasonBinding
	ReasonStepUp

	// Hold: the credential is good, but not for this.
	ReasonPlaintext
	ReasonTenant
	ReasonPrincipalKind
	ReasonAssurance
	ReasonNetwork
	ReasonRequestMethod
	ReasonPath
	ReasonHost
	ReasonTimeWindow
	ReasonResource

	// Decide: the policy said no, or said nothing that means yes.
	ReasonPolicyDenied
	ReasonPolicyUndefined
	ReasonPolicyResult
	ReasonScope
	ReasonPermission

	// Spend.
	ReasonRateLimited
	ReasonBudgetExhausted

	// Faults: could not find out. Never an answer about the caller.
	ReasonUnavailable
	ReasonNoPolicy
	ReasonPolicyStale
	ReasonPolicyFault
	ReasonPolicyTimeout
	ReasonOverloaded
	ReasonInternal

	// Values are added here, at the end: their numbers are on the wire.
	ReasonCallerUnlisted
	ReasonCSRF
	ReasonReplayed
	ReasonTool
	ReasonModel
	ReasonCategory
	ReasonDelegation
	ReasonConsent
	ReasonApproval
	ReasonAttestation
	ReasonAuditUnavailable

	reasonCount
)

// OAuthError is the error code of a Bearer challenge (RFC 6750 section 3.1).
type OAuthError string

// The codes of RFC 6750 section 3.1 and RFC 9470 section 3.
const (
	OAuthNone              OAuthError = ""
	OAuthInvalidRequest    OAuthError = "invalid_request"
	OAuthInvalidToken      OAuthError = "invalid_token"
	OAuthInsufficientScope OAuthError = "insufficient_scope"
	OAuthStepUp            OAuthError = "insufficient_user_authentication"
)

// reasons is the whole surface of refusals in one table. `public` is the code
// that the end client sees: reasons that would tell an attacker which part of a
// guess was right share one.
var reasons = [reasonCount]struct {
	code    string
	status  int
	public  string
	oauth   OAuthError
	message string
}{
	ReasonUnspecified: {"unspecified", 403, "denied", OAuthNone, "The request was denied."},
	ReasonAllowed:     {"allowed", 200, "allowed", OAuthNone, ""},

	ReasonRequestInvalid:  {"request_invalid", 400, "request_invalid", OAuthInvalidRequest, "The request cannot be read without guessing."},
	ReasonRequestTooLarge: {"request_too_large", 400, "request_too_large", OAuthInvalidRequest, "The request is too large."},

	ReasonCredentialMissing:   {"credential_missing", 401, "credential_missing", OAuthNone, "A credential is required."},
	ReasonCredentialMalformed: {"credential_malformed", 401, "credential_invalid", OAuthInvalidToken, "The credential is not valid."},
	ReasonCredentialUnknown:   {"credential_unknown", 401, "credential_invalid", OAuthInvalidToken, "The credential is not valid."},
	ReasonCredentialAmbiguous: {"multiple_credentials", 401, "multiple_credentials", OAuthInvalidRequest, "Present exactly one credential."},
	ReasonCredentialInQuery:   {"credential_in_query", 401, "credential_in_query", OAuthInvalidRequest, "Send the credential in a header, never in the URL."},
	ReasonUnsupportedScheme:   {"unsupported_scheme", 401, "unsupported_scheme", OAuthInvalidRequest, "This kind of credential is not supported."},
	ReasonMethodNotAccepted:   {"method_not_accepted", 401, "method_not_accepted", OAuthInvalidToken, "This kind of credential is not accepted here."},
	ReasonTokenTooLarge:       {"token_too_large", 401, "token_too_large", OAuthInvalidToken, "The token is too large."},
	ReasonWrongTokenType:      {"wrong_token_type", 401, "wrong_token_type", OAuthInvalidToken, "This type of token is not an access token."},
	ReasonSignatureInvalid:    {"signature_invalid", 401, "credential_invalid", OAuthInvalidToken, "The credential is not valid."},
	ReasonIssuerUntrusted:     {"issuer_untrusted", 401, "credential_invalid", OAuthInvalidToken, "The credential is not valid."},
	ReasonInvalidAudience:     {"invalid_audience", 401, "invalid_audience", OAuthInvalidToken, "The token is meant for another service."},
	ReasonInvalidClaim:        {"invalid_claim", 401, "invalid_claim", OAuthInvalidToken, "A claim of the token is missing or malformed."},
	ReasonExpired:             {"expired", 401, "expired", OAuthInvalidToken, "The credential has expired."},
	ReasonNotYetValid:         {"not_yet_valid", 401, "not_yet_valid", OAuthInvalidToken, "The credential is not valid yet."},
	ReasonLifetimeExceeded:    {"lifetime_exceeded", 401, "lifetime_exceeded", OAuthInvalidToken, "The token lives longer than is accepted."},
	ReasonRevoked:             {"revoked", 401, "revoked", OAuthInvalidToken, "The credential was revoked."},
	ReasonRotated:             {"rotated", 401, "rotated", OAuthInvalidToken, "The credential was replaced by a newer one."},
	ReasonDisabled:            {"disabled", 401, "disabled", OAuthInvalidToken, "The credential is disabled."},
	ReasonBinding:             {"binding", 401, "binding", OAuthInvalidToken, "The credential is bound to another key or certificate."},
	ReasonStepUp:              {"insufficient_user_authentication", 401, "insufficient_user_authentication", OAuthStepUp, "A stronger or more recent authentication is required."},

	ReasonPlaintext:     {"credential_over_plaintext", 403, "credential_over_plaintext", OAuthNone, "Credentials are accepted over TLS only."},
	ReasonTenant:        {"tenant_mismatch", 403, "tenant_mismatch", OAuthNone, "The resource belongs to another tenant."},
	ReasonPrincipalKind: {"principal_kind", 403, "principal_kind", OAuthNone, "This kind of caller is not accepted here."},
	ReasonAssurance:     {"assurance", 403, "assurance", OAuthNone, "A stronger kind of credential is required here."},
	ReasonNetwork:       {"network_not_allowed", 403, "network_not_allowed", OAuthNone, "The credential may not be used from this network."},
	ReasonRequestMethod: {"method_not_allowed", 403, "method_not_allowed", OAuthNone, "The credential may not be used with this method."},
	ReasonPath:          {"path_not_allowed", 403, "path_not_allowed", OAuthNone, "The credential may not be used for this path."},
	ReasonHost:          {"host_not_allowed", 403, "host_not_allowed", OAuthNone, "The credential may not be used for this host."},
	ReasonTimeWindow:    {"time_not_allowed", 403, "time_not_allowed", OAuthNone, "The credential may not be used at this time."},
	ReasonResource:      {"resource_not_allowed", 403, "resource_not_allowed", OAuthNone, "The credential may not be used for this resource."},

	ReasonPolicyDenied:    {"policy_denied", 403, "policy_denied", OAuthNone, "The request is not permitted."},
	ReasonPolicyUndefined: {"policy_undefined", 403, "policy_denied", OAuthNone, "The request is not permitted."},
	ReasonPolicyResult:    {"bad_decision", 403, "policy_denied", OAuthNone, "The request is not permitted."},
	ReasonScope:           {"insufficient_scope", 403, "insufficient_scope", OAuthInsufficientScope, "The credential lacks a scope."},
	ReasonPermission:      {"permission_missing", 403, "permission_missing", OAuthNone, "A permission is missing."},

	ReasonRateLimited:     {"rate_limited", 429, "rate_limited", OAuthNone, "Too many requests."},
	ReasonBudgetExhausted: {"budget_exhausted", 429, "budget_exhausted", OAuthNone, "The budget is used up."},

	ReasonUnavailable:   {"dependency_unavailable", 503, "unavailable", OAuthNone, "The request could not be decided. Try again."},
	ReasonNoPolicy:      {"no_policy", 503, "unavailable", OAuthNone, "The request could not be decided. Try again."},
	ReasonPolicyStale:   {"policy_stale", 503, "unavailable", OAuthNone, "The request could not be decided. Try again."},
	ReasonPolicyFault:   {"policy_fault", 503, "unavailable", OAuthNone, "The request could not be decided. Try again."},
	ReasonPolicyTimeout: {"policy_timeout", 503, "unavailable", OAuthNone, "The request could not be decided. Try again."},
	ReasonOverloaded:    {"overloaded", 503, "unavailable", OAuthNone, "The service is busy. Try again."},
	ReasonInternal:      {"internal", 503, "unavailable", OAuthNone, "The request could not be decided. Try again."},

	ReasonCallerUnlisted: {"caller_unlisted", 503, "unavailable", OAuthNone, "The request could not be decided. Try again."},
	ReasonCSRF:           {"csrf", 403, "csrf", OAuthNone, "The request does not come from the application itself."},
	ReasonReplayed:       {"replayed", 401, "replayed", OAuthInvalidToken, "The credential is for one use, and was used before."},

	ReasonTool:             {"tool_denied", 403, "tool_denied", OAuthNone, "The tool may not be called."},
	ReasonModel:            {"model_denied", 403, "model_denied", OAuthNone, "The model may not be used."},
	ReasonCategory:         {"category_denied", 403, "category_denied", OAuthNone, "Requests of this category are not permitted."},
	ReasonDelegation:       {"delegation_denied", 403, "delegation_denied", OAuthNone, "Whoever acts here may not act for the other."},
	ReasonConsent:          {"consent_required", 403, "consent_required", OAuthNone, "The user has not consented."},
	ReasonApproval:         {"approval_required", 403, "approval_required", OAuthNone, "Somebody has to approve this first."},
	ReasonAttestation:      {"attestation_required", 403, "attestation_required", OAuthNone, "This may only be done in a place that proves what it is."},
	ReasonAuditUnavailable: {"audit_unavailable", 503, "unavailable", OAuthNone, "The request could not be decided. Try again."},
}

func (r Reason) known() Reason {
	if r >= reasonCount {
		return ReasonUnspecified
	}
	return r
}

// String returns the stable machine-readable code, for example "expired".
func (r Reason) String() string { return reasons[r.known()].code }

// Public returns the code that the end client sees. It is the same for reasons
// that only differ in which part of a guessed credential was right.
func (r Reason) Public() string { return reasons[r.known()].public }

// Status returns the HTTP status of the answer (RFC 9110 section 15).
func (r Reason) Status() int { return reasons[r.known()].status }

// OAuth returns the error code for a Bearer challenge (RFC 6750 section 3.1).
func (r Reason) OAuth() OAuthError { return reasons[r.known()].oauth }

// Message returns a sentence that is safe to show to anybody.
func (r Reason) Message() string { return reasons[r.known()].message }

// Fault reports whether the reason means "could not find out" rather than "no".
func (r Reason) Fault() bool { return r.Status() == http.StatusServiceUnavailable }

// Reasons returns every reason in order, for tables in docs, metrics and tests.
func Reasons() []Reason {
	all := make([]Reason, reasonCount)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// ParseReason returns the reason with the code, or false.
func ParseReason(code string) (Reason, bool) {
	for i := range reasons {
		if reasons[i].code == code {
			return Reason(i), true
		}
	}
	return ReasonUnspecified, false
}

// Refusal is an error that means no, and why. Every other error means that it could not
// be found out.
type Refusal struct {
	Reason Reason
	// Detail says exactly what is wrong, for the decision log only. It holds no part of
	// a credential but what is public, such as a key id.
	Detail string
}

// Error returns the detail, or the reason's message.
func (r *Refusal) Error() string {
	if r.Detail == "" {
		return r.Reason.Message()
	}
	return r.Detail
}
