package registry

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// ImportRow is a credential that was made elsewhere.
type ImportRow struct {
	CredentialSpec
	// Exactly one of Secret and SHA256, 64 hex digits, is set. Only the digest is
	// kept.
	Secret policy.Secret
	SHA256 string
	// Low says that the secret is short or not random, where only its digest is
	// handed over; for Secret it is found out here.
	Low bool
}

// ImportRequest brings credentials that were made elsewhere: at most MaxBatch.
type ImportRequest struct {
	Rows          []ImportRow
	SkipBad       bool
	AllowWildcard bool
}

// ImportResult says what became of one row.
type ImportResult struct {
	// ID is empty if it was not taken.
	ID string
	// Faults is what is wrong with it. Fields are relative to the row.
	Faults []Fault
	// Low says that its secret is short or not random.
	Low bool
}

// Imported says what became of an import.
type Imported struct {
	Results []ImportResult
	// Taken counts the rows that were taken.
	Taken int
}

// ImportCredentials takes over credentials that were made elsewhere (T-05). If some
// are bad, it takes none and returns their first fault as the error besides the
// results, unless SkipBad is set.
func (r *Registry) ImportCredentials(ctx context.Context, call Call, req ImportRequest) (*Imported, Change, error) {
	var done *Imported
	change, err := r.change(ctx, call, action{"credential.import", never}, nil, func(o *operation) error {
		living := map[string]int{}
		var err error
		done, err = o.rows(len(req.Rows), "credentials", req.SkipBad, func(i int, result *ImportResult) error {
			d := draft{spec: req.Rows[i].CredentialSpec, wildcard: req.AllowWildcard, imported: true, prefix: o.cfg.Prefix, living: living}
			return o.importRow(&d, &req.Rows[i], result)
		})
		return err
	}, nil)
	return imported(done, call.ValidateOnly, err), change, err
}

// rows runs an import row by row. What is wrong with a row is its result; other
// errors end the import.
func (o *operation) rows(n int, field string, skipBad bool, take func(i int, result *ImportResult) error) (*Imported, error) {
	if n == 0 || n > MaxBatch {
		return nil, fail(InvalidField, field, "has %d rows; 1 to %d are allowed", n, MaxBatch)
	}
	done := &Imported{Results: make([]ImportResult, n)}
	var first *Error
	for i := range done.Results {
		err := take(i, &done.Results[i])
		var bad *Error
		switch {
		case err == nil:
			done.Taken++
		case !errors.As(err, &bad) || bad.Err != nil:
			return nil, err
		default:
			done.Results[i].ID, done.Results[i].Faults = "", bad.All()
			if first == nil {
				first = in(bad, fmt.Sprintf("%s[%d]", field, i))
			}
		}
	}
	// The entry is about the import, not about its last row.
	o.entry.Target, o.entry.Tenant, o.entry.Detail = "", o.actor.Tenant, nil
	o.detail("taken", strconv.Itoa(done.Taken))
	o.detail("refused", strconv.Itoa(n-done.Taken))
	if first != nil && !skipBad {
		return done, first
	}
	return done, nil
}

// in returns the error with its fields as those of a row.
func in(e *Error, row string) *Error {
	moved := *e
	moved.More = nil
	moved.Field = strings.TrimSuffix(row+"."+e.Field, ".")
	return &moved
}

// imported is the result of an import. If nothing was kept, nothing has an id.
func imported(done *Imported, validateOnly bool, err error) *Imported {
	if done == nil || err == nil && !validateOnly {
		return done
	}
	for i := range done.Results {
		done.Results[i].ID = ""
	}
	if err != nil {
		done.Taken = 0
	}
	return done
}

// importRow takes one credential. Its faults leave nothing behind.
func (o *operation) importRow(d *draft, row *ImportRow, result *ImportResult) error {
	digest := d.known(row)
	result.Low = row.Low && row.Secret.IsZero() || seal.LowEntropy(row.Secret.Reveal()) && !row.Secret.IsZero()
	c, err := o.draft(d)
	if err != nil {
		return err
	}
	// Looked up rather than tried: a failed write may spoil the transaction.
	switch _, err := o.tx.ByDigest(digest); {
	case err == nil:
		return fail(AlreadyExists, "secret", "is known already, as a credential or as another row")
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if c.ID, err = o.newID(store.KindCredential); err != nil {
		return err
	}
	c.Digest, c.Low = digest, result.Low
	result.ID = c.ID
	if err := o.issued(c); err != nil {
		return err
	}
	if c.Type == store.PAT {
		d.living[store.PrincipalKey(c.Tenant, c.Principal)]++
	}
	e := o.note("credential.import")
	return o.tx.Note(e)
}

// known returns the digest of what is known of a foreign secret. No fault repeats
// it.
func (d *draft) known(row *ImportRow) string {
	secret := row.Secret.Reveal()
	switch {
	case (secret == "") == (row.SHA256 == ""):
		d.field("secret", "or sha256 is needed, and not both")
	case secret == "":
		var digest seal.Digest
		if err := digest.UnmarshalText([]byte("sha256:" + strings.ToLower(row.SHA256))); err != nil {
			d.field("sha256", "has 64 hex digits; the value is not shown")
		}
		return digest.String()
	case len(secret) > seal.MaxForeignLen: // a longer one is never looked for
		d.field("secret", "has %d bytes; at most %d are allowed", len(secret), seal.MaxForeignLen)
	case strings.ContainsFunc(secret, func(c rune) bool { return c <= ' ' || c > '~' }):
		d.field("secret", "holds spaces or other characters that a header field cannot carry")
	default:
		if why := d.elsewhere(secret); why != "" {
			d.field("secret", "%s", why)
			return ""
		}
		return seal.ImportedDigest(row.Secret).String()
	}
	return ""
}

// elsewhere says why a secret would never be looked for among the imported ones,
// because its form sends it to somebody else (see authn.Shape), or "".
func (d *draft) elsewhere(secret string) string {
	if _, err := seal.Parse(secret); err == nil || strings.HasPrefix(secret, d.prefix+"_") {
		return "has the form of our own secrets, which are found by their id: issue a new one"
	}
	if strings.Count(secret, ".") == 2 || strings.HasPrefix(secret, "eyJ") {
		return "looks like a JWT, which is verified by its issuer's keys: configure the issuer"
	}
	for _, prefix := range []string{"hvs.", "hvb.", "hvr."} {
		if strings.HasPrefix(secret, prefix) {
			return isVaults
		}
	}
	for _, prefix := range []string{"s.", "b.", "r."} {
		if strings.HasPrefix(secret, prefix) && len(secret) >= legacyVaultLen {
			return isVaults
		}
	}
	return ""
}

const (
	isVaults = "looks like a token of Vault, which only Vault can verify: configure vault"
	// legacyVaultLen is the length from which s., b. and r. are taken for prefixes of
	// Vault's, as by whoever routes credentials.
	legacyVaultLen = 2 + 24
)
