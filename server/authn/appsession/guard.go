package appsession

import (
	"bytes"
	"errors"
	"net"
	"strconv"
)

// guard reads along on a connection to Redis (RESP, versions 2 and 3). The client makes
// room for whatever length a reply announces before it has seen any of it; a server that
// lies, or is none, could so take all memory. The guard ends the connection first:
//
//	$LEN, =LEN, !LEN    text of that many bytes    at most most
//	*N, %N, ~N, >N, |N  that many values           at most maxValues
//	other lines         short values               at most maxHeader bytes
//	all together        from one request on        at most twice most, and 64 KiB
type guard struct {
	net.Conn
	most int
	// left is what is to come of the budget, inside what is to come of a text.
	left, inside int
	line         []byte // the header that is being read
}

const (
	maxValues = 4096
	maxHeader = 1024
	slack     = 64 << 10
)

var errTooLarge = errors.New("redis: the reply is larger than any session may be")

func newGuard(c net.Conn, most int) *guard {
	g := &guard{Conn: c, most: most}
	g.left = g.budget()
	return g
}

func (g *guard) budget() int { return 2*g.most + slack }

// Write begins a request.
func (g *guard) Write(p []byte) (int, error) {
	g.left = g.budget()
	return g.Conn.Write(p)
}

// Read returns what came, unless it announces too much.
func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if g.left -= n; g.left < 0 {
		return 0, errTooLarge
	}
	if bad := g.scan(p[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

// scan follows the replies, however they are cut into pieces.
func (g *guard) scan(p []byte) error {
	for len(p) > 0 {
		if g.inside > 0 {
			n := min(g.inside, len(p))
			g.inside -= n
			p = p[n:]
			continue
		}
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			end = len(p) - 1
		}
		if len(g.line)+end+1 > maxHeader {
			return errTooLarge
		}
		g.line = append(g.line, p[:end+1]...)
		if p = p[end+1:]; g.line[len(g.line)-1] != '\n' {
			return nil
		}
		if err := g.header(bytes.TrimRight(g.line, "\r\n")); err != nil {
			return err
		}
		g.line = g.line[:0]
	}
	return nil
}

// header reads what a line announces. -1 is a value that is not there; what is no number
// is left to the client to refuse.
func (g *guard) header(line []byte) error {
	if len(line) == 0 {
		return nil
	}
	most := g.most
	switch line[0] {
	case '$', '=', '!':
	case '*', '%', '~', '>', '|':
		most = maxValues
	default:
		return nil
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n > most {
		return errTooLarge
	}
	if most == g.most && n >= 0 {
		g.inside = n + len("\r\n")
	}
	return nil
}
