package registry

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

const (
	defaultPage = 50
	// maxScan is how many records one call looks at: a query of which nothing fits
	// returns empty pages rather than holding the store for long.
	maxScan = 10 * store.MaxPage
	// maxToken is longer than any token of a page.
	maxToken = 512
)

// Pages makes the tokens of pages, and reads them: behind which id to go on, and a MAC
// over that and the query. What a caller may see is decided by the query alone; that a
// token was not made up, and is of this query, keeps places in lists from being guessed
// and mistakes from going unnoticed. The key comes from the pepper, so that any replica
// reads what another one made.
type Pages struct{ key [sha256.Size]byte }

// pagesPurpose derives the key.
const pagesPurpose = "postern page tokens"

// NewPages returns Pages with a key of the pepper in force. Without a pepper, tokens are
// good in this process only.
func NewPages(peppers *seal.Peppers) *Pages {
	p := &Pages{}
	key, ok := peppers.Derive(peppers.Current(), pagesPurpose)
	if !ok {
		_, _ = rand.Read(key[:]) // never fails: it ends the process instead
	}
	p.key = key
	return p
}

// Token is where to go on behind an id; empty for no id.
func (p *Pages) Token(after string, query any) string {
	if after == "" {
		return ""
	}
	mac, err := p.mac(after, query)
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(append(mac, after...))
}

// After returns the id behind which a page begins: empty for the first one, whose token
// is empty. The error is an INVALID_FIELD: the token is none, or one of another query.
func (p *Pages) After(token string, query any) (string, error) {
	if token == "" {
		return "", nil
	}
	bad := fail(InvalidField, "page_token", "is not of this query: begin without one")
	if len(token) > maxToken {
		return "", bad
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(text) <= macLen {
		return "", bad
	}
	after := string(text[macLen:])
	mac, err := p.mac(after, query)
	if err != nil || !hmac.Equal(mac, text[:macLen]) || !store.Text(after) {
		return "", bad
	}
	return after, nil
}

// macLen is how much of the MAC a token holds (RFC 2104 section 5).
const macLen = 16

// mac authenticates a place in the list that a query has. Queries of two sorts are
// different ones, and their JSON holds no NUL.
func (p *Pages) mac(after string, query any) ([]byte, error) {
	text, err := json.Marshal(query)
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, p.key[:])
	fmt.Fprintf(h, "%T\x00%s\x00%s", query, text, after)
	return h.Sum(nil)[:macLen], nil
}

// cursor is a Page that was read.
type cursor struct {
	size  int
	after string
	query any
	pages *Pages
}

// cursor reads a page. Query is all that its token is bound to.
func (r *Registry) cursor(p Page, query any) (cursor, error) {
	c := cursor{size: p.Size, query: query, pages: r.tokens}
	switch {
	case p.Size < 0:
		return c, fail(InvalidField, "page_size", "is negative")
	case p.Size == 0:
		c.size = defaultPage
	case p.Size > store.MaxPage:
		c.size = store.MaxPage
	}
	var err error
	c.after, err = r.tokens.After(p.Token, query)
	return c, err
}

// token is where to go on behind an id.
func (c cursor) token(after string) string { return c.pages.Token(after, c.query) }

// list returns a page of the documents that fit, and the token of the next one.
func list[T any, P store.DocumentOf[T]](ctx context.Context, r *Registry, q store.Query, c cursor, keep func(*T) bool) ([]*T, string, error) {
	var found []*T
	next := ""
	err := r.store.View(ctx, func(from store.Reader) error {
		found, next = nil, ""
		q.After = c.after
		q.Limit = min(store.MaxPage, c.size+1)
		for scanned := 0; ; {
			some, err := store.List[T, P](from, q)
			if err != nil {
				return err
			}
			for _, d := range some {
				if len(found) == c.size {
					next = c.token(q.After)
					return nil
				}
				q.After = P(d).Columns().ID
				if keep(d) {
					found = append(found, d)
				}
			}
			if len(some) < q.Limit {
				return nil
			}
			if scanned += len(some); scanned >= maxScan {
				next = c.token(q.After)
				return nil
			}
			q.Limit = store.MaxPage
		}
	})
	if err != nil {
		return nil, "", asError(err)
	}
	return found, next, nil
}

// each calls do for all documents that fit a query, in the order of their ids.
func each[T any, P store.DocumentOf[T]](from store.Reader, q store.Query, do func(*T) error) error {
	q.Limit = store.MaxPage
	for {
		some, err := store.List[T, P](from, q)
		if err != nil {
			return err
		}
		for _, d := range some {
			if err := do(d); err != nil {
				return err
			}
		}
		if len(some) < q.Limit {
			return nil
		}
		q.After = P(some[len(some)-1]).Columns().ID
	}
}
