package introspect

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
)

// answerLimits bound what is read of an answer.
var answerLimits = jose.Limits{Bytes: maxAnswerBytes, Depth: 16, Members: 256}

// reader reads the answers of one issuer. It is a pure function of the clock and the
// answer.
type reader struct {
	now           func() time.Time
	issuer        string
	rules         jose.ClaimRules
	required      []jose.ClaimPath
	clients       []string
	strict        bool // token_type must be there
	claims        jose.ClaimMap
	idIsDefault   bool
	pass          []string
	kind          policy.Kind
	method        policy.Method
	assurance     int
	constraints   *policy.Constraints
	maxTokenBytes int
}

func newReader(cfg *Config, now func() time.Time) reader {
	r := reader{
		now:    now,
		issuer: cfg.Issuer,
		rules: jose.ClaimRules{
			Audiences:      slices.Clone(cfg.Audiences),
			Skew:           cfg.ClockSkew,
			ExpiryOptional: true, // RFC 7662 section 2.2
		},
		required:      slices.Clone(cfg.RequiredClaims),
		clients:       slices.Clone(cfg.Clients),
		strict:        cfg.TokenTypes == Strict,
		claims:        cfg.Claims.WithDefaults(),
		idIsDefault:   cfg.Claims.ID.IsZero(),
		pass:          slices.Clone(cfg.Pass),
		kind:          cfg.Kind,
		method:        cfg.Method,
		assurance:     cfg.Assurance,
		constraints:   cfg.Constraints,
		maxTokenBytes: cfg.MaxTokenBytes,
	}
	if r.rules.Audiences[0] == anyAudience {
		r.rules.Audiences = nil
	}
	return r
}

// read makes a proof of an answer (RFC 7662 section 2.2). A *Refusal is what the answer
// says of the token; any other error means that it says nothing that can be relied on.
func (r *reader) read(body []byte) (*authn.Proof, error) {
	answer, err := jose.ParseJSON(body, answerLimits)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	// Whoever takes "true", 1 or null for an answer guesses.
	active, ok := answer.Get("active").Bool()
	switch {
	case !ok:
		return nil, errors.New("the answer has no member active that is true or false")
	case !active:
		return nil, errInactive
	}
	if err := r.checkToken(answer); err != nil {
		return nil, err
	}
	life, err := r.rules.Lifetime(answer, r.now())
	if err != nil {
		return nil, refuse(err)
	}
	if err := r.rules.CheckAudience(answer.Get("aud")); err != nil {
		return nil, refuse(err)
	}
	for _, path := range r.required {
		if k := path.Find(answer).Kind(); k == jose.Absent || k == jose.Null {
			return nil, authn.Refuse(policy.ReasonInvalidClaim, path.String()+" is missing")
		}
	}
	return r.proof(answer, life)
}

var errInactive = authn.Refuse(policy.ReasonCredentialUnknown, "the issuer says that the token is not active")

// checkToken checks whose the token is, and what it is for.
func (r *reader) checkToken(answer jose.Value) error {
	if iss := answer.Get("iss"); iss.Exists() && !iss.Is(r.issuer) {
		name, _ := iss.Text()
		return authn.Refuse(policy.ReasonIssuerUntrusted, fmt.Sprintf("the answer is of the issuer %.128q, not %.128q", name, r.issuer))
	}
	if err := jose.CheckAccessClaims(answer); err != nil {
		return refuse(err)
	}
	kind := answer.Get("token_type")
	text, ok := kind.Text()
	switch {
	case r.strict && !kind.Exists():
		return authn.Refuse(policy.ReasonWrongTokenType, "the answer has no token_type: it may be about a refresh token; token_types: lenient accepts it")
	case kind.Exists() && (!ok || !slices.Contains(tokenTypes[:], strings.ToLower(text))):
		return authn.Refuse(policy.ReasonWrongTokenType, fmt.Sprintf("token_type %.64q is not that of an access token which is shown to an API", text))
	case strings.EqualFold(text, typeDPoP) && !answer.Get("cnf").Get("jkt").Exists():
		return authn.Refuse(policy.ReasonBinding, "a DPoP token that does not say to which key it is bound (RFC 9449 section 6.2)")
	}
	return nil
}

// tokenTypes are the values of token_type, in lower case, that access tokens have: the
// registered ones whose proof Postern can demand (RFC 6749 section 7.1, RFC 9449
// section 5), the names of RFC 8693 section 3, and what issuers write instead.
var tokenTypes = [...]string{
	"bearer", typeDPoP, "access_token", "access-token", "jwt", "at+jwt",
	"urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:jwt",
}

const typeDPoP = "dpop"

// proof makes the principal.
func (r *reader) proof(answer jose.Value, life jose.Lifetime) (*authn.Proof, error) {
	who, err := r.claims.Read(answer)
	if err != nil {
		return nil, refuse(err)
	}
	p := who.Principal
	if r.idIsDefault && p.ID == "" {
		// sub is optional; without it, nobody but the client is known to act.
		p.ID, p.Kind = who.Client, policy.KindService
	}
	certificate, key, err := jose.ReadConfirmation(answer.Get("cnf"))
	switch {
	case err != nil:
		return nil, refuse(err)
	case p.ID == "":
		return nil, authn.Refuse(policy.ReasonInvalidClaim, r.claims.ID.String()+" is missing, which says who the caller is")
	case len(r.clients) > 0 && !slices.Contains(r.clients, who.Client):
		return nil, authn.Refuse(policy.ReasonInvalidClaim, "the client is not one of those that are accepted")
	}
	p.Kind = cmp.Or(r.kind, p.Kind)
	p.Claims = jose.PassClaims(answer, r.pass)
	p.Method, p.Assurance, p.Issuer = r.method, authn.Assurance(r.assurance, p.AMR), r.issuer
	p.AuthTime, p.IssuedAt, p.ExpiresAt = life.Authenticated, life.Issued, life.Expires
	subject := authn.SubjectOf(p)
	subject.SessionID, subject.Client = who.Session, who.Client
	return &authn.Proof{
		Principal:   p,
		Constraints: r.constraints,
		NotAfter:    life.NotAfter,
		Confirm:     authn.Confirmation{Certificate: certificate, Key: key},
		State:       policy.StateStore,
		Subject:     subject,
		Audiences:   r.rules.Named(answer.Get("aud")),
	}, nil
}
