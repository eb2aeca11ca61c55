package vault

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// tokenKind is what a prefix says of a token.
type tokenKind uint8

const (
	service tokenKind = iota + 1
	batch
	recovery
)

// prefix is one beginning of tokens. Those of one letter are as old as Vault 0.11, and
// those of OpenBao; they are so short that only what is as long as a token counts.
type prefix struct {
	text     string
	kind     tokenKind
	min, max int // characters behind it
}

// The longest tokens. Service tokens carry an id and a signature; batch tokens carry
// their policies and metadata within.
const (
	maxService = 512
	maxBatch   = 8 << 10
)

var prefixes = [...]prefix{
	{"hvs.", service, 1, maxService},
	{"hvb.", batch, 1, maxBatch},
	{"hvr.", recovery, 1, maxService},
	{"s.", service, 24, maxService},
	{"b.", batch, 24, maxBatch},
	{"r.", recovery, 24, maxService},
}

// prefixNames are the prefixes that a configuration may list.
func prefixNames() []string {
	var all []string
	for _, p := range prefixes {
		if p.kind != recovery {
			all = append(all, p.text)
		}
	}
	return all
}

// routes returns the prefixes of the tokens that are this Vault's. Recovery tokens go
// with the service tokens of their time.
func (c *Config) routes() []prefix {
	if len(c.Prefixes) == 0 {
		return prefixes[:]
	}
	var all []prefix
	for _, p := range prefixes {
		if slices.Contains(c.Prefixes, strings.Replace(p.text, "r.", "s.", 1)) || slices.Contains(c.Prefixes, p.text) {
			all = append(all, p)
		}
	}
	return all
}

// What is refused by its shape. A caller who uses a recovery token holds more than an
// API should ever see.
var (
	errMalformed = authn.Refuse(policy.ReasonCredentialMalformed, "begins as a Vault token does, but is cut off or misspelt")
	errRecovery  = authn.Refuse(policy.ReasonWrongTokenType, "a recovery token")
)

// shape returns the kind of a token by its form: prefix, body, and perhaps a dot and the
// id of its namespace.
func (a *Authenticator) shape(token string) (tokenKind, error) {
	p := a.prefixOf(token)
	if p == nil {
		return 0, authn.ErrNotMine
	}
	body, namespace, inNamespace := strings.Cut(token[len(p.text):], ".")
	switch {
	case !a.ownsNamespace(cmp.Or(namespace, rootNamespace)):
		return 0, authn.ErrNotMine
	case len(body) < p.min || len(body) > p.max || !isBase64URL(body) || inNamespace && !isNamespaceID(namespace):
		return 0, errMalformed
	case p.kind == recovery:
		return 0, errRecovery
	case p.kind == batch && !isEncoded(body):
		return 0, errMalformed
	}
	return p.kind, nil
}

func (a *Authenticator) prefixOf(token string) *prefix {
	for i := range a.prefixes {
		if strings.HasPrefix(token, a.prefixes[i].text) {
			return &a.prefixes[i]
		}
	}
	return nil
}

// rootNamespace is the id of the namespace of tokens that name none.
const rootNamespace = "root"

func (a *Authenticator) ownsNamespace(id string) bool {
	return len(a.cfg.NamespaceIDs) == 0 || slices.Contains(a.cfg.NamespaceIDs, id)
}

func isBase64URL(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// isEncoded reports whether the body of a batch token can be decoded. Of one that can
// not, Vault says that the request is bad rather than the token.
func isEncoded(body string) bool {
	_, err := base64.RawURLEncoding.DecodeString(body)
	return err == nil
}

// maxNamespaceID is far longer than the ids that Vault gives (5) and OpenBao (6).
const maxNamespaceID = 64

func isNamespaceID(s string) bool {
	return s != "" && len(s) <= maxNamespaceID && isBase64URL(s) && !strings.ContainsAny(s, "-_")
}
