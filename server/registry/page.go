package registry

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"github.com/postern-auth/postern/server/store"
)

const (
	defaultPage = 50
	// maxScan is how many records one call looks at: a query of which nothing fits
	// returns empty pages rather than holding the store for long.
	maxScan = 10 * store.MaxPage
	// bindLen is how much of a query's hash its tokens hold. It finds mistakes; what
	// a caller may see is decided by the query alone.
	bindLen = 8
)

// cursor is a Page that was read.
type cursor struct {
	size  int
	after string
	bind  []byte
}

// read checks a page and its token. Query is all that the token is bound to.
func (p Page) read(query any) (cursor, error) {
	text, err := json.Marshal(query)
	if err != nil {
		return cursor{}, fail(InvalidField, "", "the query cannot be written as JSON")
	}
	sum := sha256.Sum256(text)
	c := cursor{size: p.Size, bind: sum[:bindLen]}
	switch {
	case p.Size < 0:
		return c, fail(InvalidField, "page_size", "is negative")
	case p.Size == 0:
		c.size = defaultPage
	case p.Size > store.MaxPage:
		c.size = store.MaxPage
	}
	if p.Token == "" {
		return c, nil
	}
	token, err := base64.RawURLEncoding.DecodeString(p.Token)
	if err != nil || len(token) <= bindLen || string(token[:bindLen]) != string(c.bind) || !store.Text(string(token[bindLen:])) {
		return c, fail(InvalidField, "page_token", "is not of this query: begin without one")
	}
	c.after = string(token[bindLen:])
	return c, nil
}

// token is where to go on behind an id.
func (c cursor) token(after string) string {
	if after == "" {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(append(c.bind[:bindLen:bindLen], after...))
}

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
