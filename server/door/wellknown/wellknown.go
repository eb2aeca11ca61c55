// Package wellknown serves what Postern publishes about itself (RFC 8615): the keys with
// which others verify what it signs.
package wellknown

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"
)

// KeySetPath is where the key set is found.
const KeySetPath = "/.well-known/jwks.json"

// MaxAge is how long others may keep the key set. A new key must have been published
// for so long before it signs.
const MaxAge = 5 * time.Minute

// KeySet serves the key set in force (signer.Signer.KeySet): to GET and HEAD, to
// everybody. It is asked for at each request, so that a reload needs no other handler.
// Without a set, nil, there is nothing here: 404.
func KeySet(set func() []byte) http.Handler {
	cache := fmt.Sprintf("public, max-age=%d", int(MaxAge.Seconds()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := set()
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		case body == nil:
			http.NotFound(w, r)
			return
		}
		sum := sha256.Sum256(body)
		h := w.Header()
		h.Set("Content-Type", "application/jwk-set+json") // RFC 7517 section 8.5
		h.Set("Cache-Control", cache)
		h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
		h.Set("X-Content-Type-Options", "nosniff")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	})
}
