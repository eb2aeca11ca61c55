package bundle

import (
	"context"
	"time"
)

// CompareRevisions returns "older", "same", "newer" or "unknown".
func CompareRevisions(offered, running string) string {
	return [...]string{"unknown", "older", "same", "newer"}[compareRevisions(offered, running)]
}

// Screen looks at a packed bundle whose signature is not verified.
func Screen(raw []byte, limits Limits) error {
	_, err := screen(raw, limits.withDefaults(), &verifier{})
	return err
}

// SetTimeout bounds downloads more tightly than a configuration may.
func SetTimeout(s *Source, d time.Duration) {
	for _, f := range s.feeds {
		f.bundle.Timeout = d
	}
}

// Fake answers in place of a server.
type Fake func(etag string, wait time.Duration) (body []byte, newETag string, held bool, err error)

func (f Fake) fetch(ctx context.Context, etag string, wait time.Duration) (*answer, error) {
	body, newETag, held, err := f(etag, wait)
	if err == nil {
		err = ctx.Err()
	}
	return &answer{body: body, etag: newETag, held: held}, err
}

func (Fake) close() {}

// SetFake puts it in place of the server of the first bundle.
func SetFake(s *Source, f Fake) { s.feeds[0].fetcher = f }
