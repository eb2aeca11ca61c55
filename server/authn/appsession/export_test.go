package appsession

import (
	"net"
	"time"

	"github.com/postern-auth/postern/server/authn"
)

// ReadRecord makes a proof of a record, without any Redis. now is any time.
func ReadRecord(cfg Config, text []byte, fields map[string]string, now time.Time) (*authn.Proof, error) {
	cfg = cfg.withDefaults()
	a := &Authenticator{cfg: cfg}
	return a.proof(&record{text: text, fields: fields, ttl: -1}, "id", now)
}

// Guard is the guard of a connection.
func Guard(c net.Conn, most int) net.Conn { return newGuard(c, most) }

// ErrTooLarge is what it says.
var ErrTooLarge = errTooLarge
