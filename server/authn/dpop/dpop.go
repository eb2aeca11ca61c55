// Package dpop verifies that who sends an access token holds the key that it is bound
// to: Demonstrating Proof of Possession, RFC 9449.
//
// A client signs for every request a small JWT with its own key and sends it in the
// field DPoP, beside a token whose claim cnf.jkt names that key. Who steals the token
// alone can do nothing with it, and who steals a proof can use it neither for another
// request nor twice.
//
// Verify goes through seven steps, and each can only refuse:
//
//  1. reading: the size, then jose.ParseCompact: one reading or none
//  2. header: typ is dpop+jwt, and the only key that it names is jwk
//  3. key: jwk is a sound public key, and its thumbprint the one that the token is bound to
//  4. signature: by that key, with an algorithm that is accepted
//  5. request: htm, htu and ath are method, target and token of this request
//  6. time: iat is now, or the nonce is one of ours that is still good
//  7. once: the key has not used the jti before
//
// A key that the token is not bound to costs no signature: step 3 comes before step 4.
// Only who has passed all others gets to step 7, so that the memory of proofs cannot be
// filled without a token and its key. It belongs to this process (authn.Once): it is
// exact, bounded, and when it is full the answer is "could not find out". There is no
// other state and no I/O.
package dpop

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
)

// Deps are what a Verifier needs besides its configuration.
type Deps struct {
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Previous is the Verifier that this one replaces; nil for none. What it remembers
	// stays used.
	Previous *Verifier
}

// Verifier verifies proofs. It is safe for concurrent use.
type Verifier struct {
	cfg    Config
	now    func() time.Time
	once   *authn.Once
	nonces *nonces // nil: none are demanded
	algs   string
}

// New returns a Verifier. The error joins all that is wrong with the configuration; it
// holds no secret.
func New(cfg Config, deps Deps) (*Verifier, error) {
	cfg = cfg.withDefaults()
	var faults []error
	cfg.Check(func(path, message, suggestion string) {
		faults = append(faults, fmt.Errorf("dpop: %s %s: %s", path, message, suggestion))
	})
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	v := &Verifier{cfg: cfg, now: deps.Now, algs: `, algs="` + strings.Join(cfg.Algorithms, " ") + `"`}
	v.cfg.Algorithms = slices.Clone(cfg.Algorithms)
	window := cfg.MaxAge + 2*cfg.ClockSkew
	if cfg.Nonce {
		v.nonces = newNonces(cfg.NonceKey, cfg.MaxAge)
		window = maxSpans * cfg.MaxAge
	}
	v.takeOver(deps.Previous, window)
	return v, nil
}

// takeOver keeps what the Verifier before remembers, and its nonces if they are of the
// same kind: a random key would otherwise send every client back for a new one.
func (v *Verifier) takeOver(previous *Verifier, window time.Duration) {
	if previous == nil {
		v.once = authn.NewOnce(v.cfg.ReplaySize, window, v.now)
		return
	}
	v.once = previous.once
	v.once.Resize(v.cfg.ReplaySize, window)
	if v.nonces != nil && previous.nonces != nil && v.cfg.NonceKey.IsZero() && previous.cfg.NonceKey.IsZero() {
		v.nonces.key = previous.nonces.key
	}
}

// proofError is a refusal and the code that the challenge gives for it. errors.As finds
// the *authn.Refusal.
type proofError struct {
	*authn.Refusal
	code errorCode
}

// Unwrap returns the refusal.
func (e *proofError) Unwrap() error { return e.Refusal }

// errorCode is an error of a DPoP challenge (RFC 9449 sections 7.1 and 12.2).
type errorCode string

const (
	invalidProof errorCode = "invalid_dpop_proof"
	useNonce     errorCode = "use_dpop_nonce"
	invalidToken errorCode = "invalid_token"
)

// description is safe to show to anybody.
func (c errorCode) description() string {
	switch c {
	case useNonce:
		return "The DPoP proof needs a nonce of this server."
	case invalidToken:
		return "The token is bound to another key."
	}
	return "The DPoP proof is not valid."
}

func refuse(reason policy.Reason, format string, args ...any) error {
	return &proofError{authn.Refuse(reason, "DPoP: "+fmt.Sprintf(format, args...)), invalidProof}
}

// Verify returns nil if the proof shows that its sender holds the key, for this request
// and for the first time. A *authn.Refusal says that it does not; any other error, that
// this could not be found out.
func (v *Verifier) Verify(p *authn.Possession) error {
	if p.Key == "" || p.Token.IsZero() || p.Scheme == "" || p.Host == "" {
		return errUnknownRequest
	}

	// 1. Reading.
	token, err := jose.ParseCompact(p.Proof, jose.Limits{})
	if err != nil {
		return refuse(reasonOf(err), "%v", err)
	}

	// 2. Header.
	if err := checkHeader(token.Header()); err != nil {
		return err
	}

	// 3. Key.
	key, err := jose.EmbeddedKey(token.Header())
	if err != nil {
		return refuse(policy.ReasonCredentialMalformed, "%v", err)
	}
	thumbprint := key.Thumbprint()
	if thumbprint != p.Key {
		return &proofError{authn.Refuse(policy.ReasonBinding, "DPoP: the token is bound to another key than the proof's"), invalidToken}
	}

	// 4. Signature.
	if _, err := jose.Verify(token, []*jose.Key{key}, v.cfg.Algorithms); err != nil {
		return refuse(reasonOf(err), "%v", err)
	}

	// 5. Request.
	claims := token.Claims()
	if err := checkRequest(claims, p); err != nil {
		return err
	}

	// 6. Time.
	until, err := v.checkTime(claims, v.now())
	if err != nil {
		return err
	}

	// 7. Once.
	return v.use(claims.Get("jti"), thumbprint, until)
}

// errUnknownRequest is no answer about the proof: the gateway did not say enough.
var errUnknownRequest = errors.New("dpop: scheme, host, token and key of the request are not all known")

func reasonOf(err error) policy.Reason {
	switch {
	case errors.Is(err, jose.ErrTooLarge):
		return policy.ReasonTokenTooLarge
	case errors.Is(err, jose.ErrAlgorithm), errors.Is(err, jose.ErrSignature):
		return policy.ReasonSignatureInvalid
	}
	return policy.ReasonCredentialMalformed
}

// otherKeys are header parameters that name a key in another way than jwk.
var otherKeys = [...]string{"jku", "x5u", "x5c", "x5t", "x5t#S256"}

// checkHeader demands typ (RFC 9449 section 4.2). Without it, any JWT that the client
// signed with the key for another purpose could be a proof.
func checkHeader(header jose.Value) error {
	if typ, _ := header.Get("typ").Text(); !jose.IsType(typ, "dpop+jwt") {
		return refuse(policy.ReasonWrongTokenType, "typ is not dpop+jwt")
	}
	for _, name := range otherKeys {
		if header.Get(name).Exists() {
			return refuse(policy.ReasonCredentialMalformed, "header: %s beside jwk", name)
		}
	}
	return nil
}

// checkRequest holds the proof against the request (RFC 9449 section 4.3, checks 8, 9
// and 12).
func checkRequest(claims jose.Value, p *authn.Possession) error {
	if !claims.Get("htm").Is(p.Method) {
		return refuse(policy.ReasonBinding, "htm is not the method of the request")
	}
	if htu, _ := claims.Get("htu").Text(); !isTarget(htu, p) {
		return refuse(policy.ReasonBinding, "htu is not the target of the request")
	}
	sum := sha256.Sum256([]byte(p.Token.Reveal()))
	if !claims.Get("ath").Is(base64.RawURLEncoding.EncodeToString(sum[:])) {
		return refuse(policy.ReasonBinding, "ath is not the hash of the token")
	}
	return nil
}

// checkTime holds the proof against the clock (RFC 9449 section 4.3, checks 10 and 11),
// and returns the last instant at which it is good. With a nonce, that tells the age, and
// the client's clock may be wrong (section 8).
func (v *Verifier) checkTime(claims jose.Value, now time.Time) (until time.Time, err error) {
	issued, ok := claims.Get("iat").NumericDate()
	if !ok {
		return until, refuse(policy.ReasonInvalidClaim, "iat is missing, or no date")
	}
	if over(claims, now, v.cfg.ClockSkew) {
		return until, refuse(policy.ReasonBinding, "exp or nbf says that the proof does not count now")
	}
	if v.nonces != nil {
		return v.checkNonce(claims.Get("nonce"), now)
	}
	until = issued.Add(v.cfg.MaxAge + v.cfg.ClockSkew)
	switch {
	case now.After(until):
		return until, refuse(policy.ReasonBinding, "the proof is too old: iat is %s", issued.Format(time.RFC3339))
	case issued.After(now.Add(v.cfg.ClockSkew)):
		return until, refuse(policy.ReasonBinding, "the proof is of the future: iat is %s", issued.Format(time.RFC3339))
	}
	return until, nil
}

// over reports whether exp or nbf end the proof, which need not be there and mean what
// they mean in every JWT (RFC 7519 sections 4.1.4 and 4.1.5).
func over(claims jose.Value, now time.Time, skew time.Duration) bool {
	exp, nbf := claims.Get("exp"), claims.Get("nbf")
	ends, isDate := exp.NumericDate()
	if exp.Exists() && (!isDate || !now.Before(ends.Add(skew))) {
		return true
	}
	begins, isDate := nbf.NumericDate()
	return nbf.Exists() && (!isDate || begins.After(now.Add(skew)))
}

// checkNonce demands a nonce that is still good, and returns the last instant at which it
// is.
func (v *Verifier) checkNonce(nonce jose.Value, now time.Time) (until time.Time, err error) {
	at := v.nonces.at(now)
	ends := int64(2) // spans from the beginning of this one
	switch {
	case nonce.Is(at.current):
	case nonce.Is(at.previous):
		ends = 1
	case nonce.Is(at.next):
		ends = 3
	default:
		return until, &proofError{authn.Refuse(policy.ReasonBinding, "DPoP: the nonce is missing, or not good any more"), useNonce}
	}
	return time.Unix(0, (at.span+ends)*int64(v.nonces.span)-1), nil
}

// maxID is the length of the longest jti in bytes. RFC 9449 section 4.2 asks for 96
// random bits, a UUID for one.
const maxID = 512

// use demands that the key did not use the jti before (RFC 9449 section 11.1). The target
// is not part of what is remembered: a proof for another target with the same jti, which
// only the client itself could make, is refused as well.
func (v *Verifier) use(jti jose.Value, thumbprint string, until time.Time) error {
	id, _ := jti.Text()
	if id == "" || len(id) > maxID {
		return refuse(policy.ReasonInvalidClaim, "jti is no text of 1 to %d bytes", maxID)
	}
	switch err := v.once.Use(until, thumbprint, id); {
	case errors.Is(err, authn.ErrUsed):
		return refuse(policy.ReasonReplayed, "%v", err)
	case errors.Is(err, authn.ErrOver):
		return refuse(policy.ReasonBinding, "%v", err)
	case err != nil:
		return fmt.Errorf("dpop: %w", err)
	}
	return nil
}

// Challenge returns the parameters of a DPoP challenge (RFC 9449 section 7.1), each after
// a comma, and the value of the field DPoP-Nonce, or "" (section 8). err is what Verify
// returned; nil, or any other error, gives a challenge without an error code of DPoP.
func (v *Verifier) Challenge(err error) (parameters, nonce string) {
	var refused *proofError
	if errors.As(err, &refused) {
		parameters = `, error="` + string(refused.code) + `", error_description="` + refused.code.description() + `"`
	}
	return parameters + v.algs, v.Nonce()
}

// Nonce returns the nonce that clients should use now, for the field DPoP-Nonce; "" where
// none is demanded. It may go with every answer, so that clients have the next one in
// time (RFC 9449 section 8.2).
func (v *Verifier) Nonce() string {
	if v.nonces == nil {
		return ""
	}
	return v.nonces.at(v.now()).current
}

// Remembered returns how many proofs are remembered, for metrics.
func (v *Verifier) Remembered() int { return v.once.Len() }
