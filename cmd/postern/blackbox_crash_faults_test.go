package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// link is a way to a server that can be made bad: what a network, a proxy or a server
// that is in trouble does to those who talk to it.
type link struct {
	net.Listener
	network, far string

	mu    sync.Mutex
	state fault
	conns map[net.Conn]bool
}

// fault is what is wrong with a link.
type fault string

const (
	nothing  fault = ""
	down     fault = "down"      // connections end, and new ones at once
	slow     fault = "slow"      // each answer takes two seconds
	halfOpen fault = "half open" // nothing arrives any more, and nobody says so
	reset    fault = "reset"     // a connection is reset in the middle of an answer
)

// connect makes a link to a server.
func connect(t testing.TB, network, far string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{Listener: l, network: network, far: far, conns: map[net.Conn]bool{}}
	t.Cleanup(func() { _ = l.Close(); k.becomes(down) })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go k.carry(near)
		}
	}()
	return k
}

// becomes changes what is wrong. What was stuck before ends, as connections do when
// somebody has noticed.
func (k *link) becomes(state fault) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state = state
	if state == nothing || state == down {
		for conn := range k.conns {
			_ = conn.Close()
		}
		clear(k.conns)
	}
}

func (k *link) fault() fault {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state
}

func (k *link) carry(near net.Conn) {
	far, err := net.Dial(k.network, k.far)
	if err != nil || k.fault() == down {
		_ = near.Close()
		return
	}
	k.mu.Lock()
	k.conns[near], k.conns[far] = true, true
	k.mu.Unlock()
	go k.copy(far, near, false)
	k.copy(near, far, true)
}

// copy carries one direction until it ends.
func (k *link) copy(to, from net.Conn, answers bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	some := make([]byte, 16<<10)
	for {
		n, err := from.Read(some)
		switch state := k.fault(); {
		case state == halfOpen && n > 0:
			continue
		case state == slow && answers:
			time.Sleep(2 * time.Second)
		case state == reset && answers && n > 1:
			_, _ = to.Write(some[:n/2])
			if tcp, ok := to.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			return
		}
		if _, failed := to.Write(some[:n]); failed != nil || err != nil {
			return
		}
	}
}

var _ io.Closer = (*link)(nil)

// CRASH-12: PostgreSQL is down, slow, half open or resets connections. In mode available
// what is known is answered as before, whatever is unknown is denied, and nothing waits;
// in mode strict all is denied, in the words of the protocol. Both recover by themselves,
// and a revocation that failed is not taken for one.
func TestCrashPostgresFaults(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"available", "strict"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w, k, _ := withLink(t, "mode: "+mode)
			p := launch(t, w)
			p.service(t, "app")
			id, key := p.key(t, "app")
			p.becomes(t, withKey("/", key), 200, "allowed")
			for _, state := range []fault{down, slow, halfOpen, reset} {
				k.becomes(state)
				eventually(t, "the replica notices that the store is "+string(state), func() bool {
					_, body := p.fetch(t, "/readyz")
					return strings.Contains(body, "not heard of for")
				})
				for range 20 {
					known, unknown := p.askEnvoy(t, withKey("/", key)), p.askEnvoy(t, withKey("/", foreign()))
					switch {
					case unknown.allowed():
						t.Errorf("%s: an unknown key: %v", state, unknown)
					case mode == "available" && !known.allowed():
						t.Errorf("%s: a known key: %v", state, known)
					case mode == "strict" && known.reason != "dependency_unavailable":
						// One that was heard of a moment ago may be good for the rest of a second.
						p.until(t, time.Now().Add(time.Second), withKey("/", key), 503, "dependency_unavailable")
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				_, err := p.credentials.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{Id: id})
				cancel()
				if err == nil && state != slow {
					t.Errorf("%s: a revocation was acknowledged", state)
				}
				revoked := err == nil
				k.becomes(nothing)
				eventually(t, "the replica hears of the store again", func() bool {
					_, body := p.fetch(t, "/readyz")
					return !strings.Contains(body, "not heard of for")
				})
				if !revoked { // it may have happened all the same: then another key takes its place
					if a := p.ask(t, withKey("/", key)); !a.allowed() && a.reason != "revoked" {
						t.Errorf("after %s: %v", state, a)
					}
				}
				id, key = p.key(t, "app")
				p.becomes(t, withKey("/", key), 200, "allowed")
			}
		})
	}
}

// withLink makes a world whose store is PostgreSQL over a link, with its first admin key.
func withLink(t testing.TB, mode string) (world, *link, *pgx.ConnConfig) {
	t.Helper()
	c, dsn := lay(t)
	direct, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	k := connect(t, "unix", c.socket)
	port := k.Addr().(*net.TCPAddr).Port
	direct.Host, direct.Port = strings.TrimSuffix(c.socket, "/.s.PGSQL.5432"), 5432
	w := preparePlane(t, `{ driver: postgres, dsn: "${file:dsn}", `+mode+` }`)
	w.write(t, "dsn", fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable", port, direct.User, direct.Database))
	w.bootstrap(t)
	return w, k, direct
}

// CRASH-12: PostgreSQL answers, and does not let itself be written: it is a standby, it is
// full, or it knows nobody of that name. Changes are refused with why, and change nothing;
// what is known is answered.
func TestCrashPostgresRefuses(t *testing.T) {
	t.Parallel()
	w, k, direct := withLink(t, "mode: available")
	p := launch(t, w)
	p.service(t, "app")
	id, key := p.key(t, "app")
	p.becomes(t, withKey("/", key), 200, "allowed")
	exec := func(statement string) {
		t.Helper()
		to := direct.Copy()
		if strings.HasPrefix(statement, "ALTER DATABASE") { // which its users cannot always do
			to.Database = "postgres"
		}
		db, err := pgx.ConnectConfig(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close(context.Background())
		if _, err := db.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	name := pgx.Identifier{direct.Database}.Sanitize()
	for what, c := range map[string]struct {
		begin, end string
		code       codes.Code
		reason     string
	}{
		"only to be read": {"ALTER DATABASE " + name + " SET default_transaction_read_only = on", "ALTER DATABASE " + name + " RESET default_transaction_read_only", codes.Unavailable, "STORE_UNAVAILABLE"},
		"full": {`CREATE FUNCTION postern.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$;
			CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON postern.records FOR EACH ROW EXECUTE FUNCTION postern.full()`,
			"DROP TRIGGER no_room ON postern.records; DROP FUNCTION postern.full()", codes.ResourceExhausted, "STORE_FULL"},
		"of others": {"ALTER DATABASE " + name + " ALLOW_CONNECTIONS off", "ALTER DATABASE " + name + " ALLOW_CONNECTIONS on", codes.Unavailable, "STORE_UNAVAILABLE"},
	} {
		exec(c.begin)
		k.becomes(down) // the connections that there are would not notice
		k.becomes(nothing)
		eventually(t, "a change is refused, because the store is "+what, func() bool {
			_, err := p.credentials.RevokeCredential(t.Context(), &adminv1.RevokeCredentialRequest{Id: id})
			if err == nil {
				t.Fatalf("%s: a revocation was acknowledged", what)
			}
			return status.Code(err) == c.code && reasonOf(err) == c.reason
		})
		p.expect(t, withKey("/", key), 200, "allowed")
		p.expect(t, withKey("/", foreign()), 401, "credential_unknown")
		exec(c.end)
		k.becomes(down)
		k.becomes(nothing)
		eventually(t, "a change is made again", func() bool {
			_, err := p.principals.CreatePrincipal(t.Context(), &adminv1.CreatePrincipalRequest{Principal: &adminv1.Principal{Id: "after-" + strings.ReplaceAll(what, " ", "-"), Kind: aService}})
			return err == nil || status.Code(err) == codes.AlreadyExists
		})
	}
	does(t, p.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id})
	p.becomes(t, withKey("/", key), 401, "revoked")
}

// CRASH-12: the Redis that holds an application's sessions is down, slow, half open or
// resets connections. Who is remembered is let in, who is not is denied in time and in the
// words of the protocol, other credentials do not notice, and it recovers by itself.
func TestCrashRedisFaults(t *testing.T) {
	t.Parallel()
	db := startRedis(t)
	at, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	k := connect(t, "unix", at.Path)
	w := prepare(t, "appsessions", "@REDIS@", "redis://"+k.Addr().String()+"/0", "@USER@", "postern", "timeout: 5s", "timeout: 1s")
	w.write(t, "redis.password", redisPassword)
	w.write(t, "session.secret", sessionSecret)
	b := start(t, w)
	b.hide(redisPassword, sessionSecret)
	login := func() request {
		id := rand.Text()
		b.hide(id)
		const ann = `{"cookie":{"expires":"2100-01-01T00:00:00.000Z"},"passport":{"user":{"id":7,"tenant":"acme","roles":["clerk"],"amr":["pwd"]}}}`
		if err := db.Set(context.Background(), "sess:"+id, ann, time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
		return get("/", "cookie", "connect.sid="+express(id, sessionSecret))
	}
	known := login()
	eventually(t, "somebody is known", func() bool { return b.askEnvoy(t, known).allowed() })
	for _, state := range []fault{down, halfOpen, slow, reset} {
		k.becomes(state)
		for range 3 {
			asked := time.Now()
			if a := b.askEnvoy(t, login()); a.status != 503 {
				t.Errorf("%s: a session that nobody can look up: %v", state, a)
			}
			if took := time.Since(asked); took > 5*time.Second {
				t.Errorf("%s: the answer took %v", state, took)
			}
			if a := b.askEnvoy(t, known); !a.allowed() {
				t.Errorf("%s: somebody who is known: %v", state, a)
			}
		}
		k.becomes(nothing)
		eventually(t, "sessions are looked up again after "+string(state), func() bool { return b.askEnvoy(t, login()).allowed() })
	}
}
