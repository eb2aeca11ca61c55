package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/store/pgtest"
)

// cable is a way to PostgreSQL that can be cut. All tests share one server, so none
// of them may stop it.
type cable struct {
	at     string // where it listens
	socket string // of the server

	mu       sync.Mutex
	listener net.Listener // nil: it is cut
	conns    map[net.Conn]bool
}

// lay lays a cable to a new database, and returns the address of the database over
// it. The cable is cut at first.
func lay(t testing.TB) (*cable, string) {
	t.Helper()
	address := pgtest.Database(t)
	found := regexp.MustCompile(`^host=(\S+) (user=\S+ dbname=\S+)$`).FindStringSubmatch(address)
	if found == nil {
		t.Fatalf("the address is %s", address)
	}
	at, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{at: at, socket: filepath.Join(found[1], ".s.PGSQL.5432"), conns: map[net.Conn]bool{}}
	t.Cleanup(c.cut)
	host, port, _ := net.SplitHostPort(at)
	return c, fmt.Sprintf("host=%s port=%s %s sslmode=disable", host, port, found[2])
}

// join makes it whole.
func (c *cable) join(t testing.TB) {
	t.Helper()
	var l net.Listener
	eventually(t, "the port is free", func() (free bool) {
		var err error
		l, err = net.Listen("tcp", c.at)
		return err == nil
	})
	c.mu.Lock()
	c.listener = l
	c.mu.Unlock()
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go c.carry(near)
		}
	}()
}

func (c *cable) carry(near net.Conn) {
	far, err := net.Dial("unix", c.socket)
	if err != nil {
		_ = near.Close()
		return
	}
	c.mu.Lock()
	whole := c.listener != nil
	c.conns[near], c.conns[far] = whole, whole
	c.mu.Unlock()
	if whole {
		go func() { _, _ = io.Copy(far, near); _ = far.Close() }()
		_, _ = io.Copy(near, far)
	}
	_, _ = near.Close(), far.Close()
}

// cut ends all connections, and refuses others.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listener != nil {
		_ = c.listener.Close()
		c.listener = nil
	}
	for conn := range c.conns {
		_ = conn.Close()
	}
	clear(c.conns)
}

// launchReplicas starts replicas on one database, whose first admin key is made.
func launchReplicas(t testing.TB, n int, mode string) (*cable, []*replica) {
	t.Helper()
	c, dsn := lay(t)
	w := preparePlane(t, `{ driver: postgres, dsn: "${file:dsn}", `+mode+` }`)
	w.write(t, "dsn", dsn)
	c.join(t)
	w.bootstrap(t)
	replicas := make([]*replica, n)
	for i := range replicas {
		replicas[i] = launch(t, w)
	}
	return c, replicas
}

// everywhere waits until all replicas give an answer.
func everywhere(t testing.TB, replicas []*replica, q request, status int, reason string) {
	t.Helper()
	bound := time.Now().Add(time.Second)
	for _, p := range replicas {
		p.until(t, bound, q, status, reason)
	}
}

// Replicas that share a store and deny what they cannot know.
func TestStrictReplicas(t *testing.T) {
	t.Parallel()
	link, replicas := launchReplicas(t, 3, "mode: strict")
	a, b := replicas[0], replicas[1]
	a.ann(t)
	a.service(t, "app")

	// S-07 and S-02: log in at one, use and log out at another.
	visit := a.logIn(t, "ann", annsPassword)
	everywhere(t, replicas, withCookie("/people/me", visit.cookie), 200, "allowed")
	if v := b.post(t, "/logout", nil, "Cookie", "__Host-session="+visit.cookie); v.status != http.StatusNoContent || v.cookie != "" {
		t.Errorf("logged out: %d %s", v.status, v.setCookie)
	}
	everywhere(t, replicas, withCookie("/people/me", visit.cookie), 401, "credential_unknown")

	// K-06: a key ends everywhere, though every cache has it.
	_, short := a.issue(t, &adminv1.Credential{Type: apiKey, PrincipalId: "app", Expiration: &adminv1.Credential_Ttl{Ttl: durationpb.New(2 * time.Second)}})
	ends := time.Now().Add(2 * time.Second)
	everywhere(t, replicas, withKey("/", short), 200, "allowed")
	for _, p := range replicas {
		p.until(t, ends, withKey("/", short), 401, "expired")
	}

	revokeUnderLoad(t, replicas)

	// G-06: without the store they deny, in the words of the protocol, and say so.
	_, key := a.key(t, "app")
	everywhere(t, replicas, withKey("/", key), 200, "allowed")
	link.cut()
	bound := time.Now().Add(time.Second)
	for _, p := range replicas {
		p.until(t, bound, withKey("/", key), 503, "dependency_unavailable")
		if answer := p.askPostern(t, withKey("/", key)); answer.status != 503 {
			t.Errorf("CheckService says %v", answer)
		}
		if status, body := p.fetch(t, "/readyz"); status != 503 || !strings.Contains(body, `"store","ready":false`) {
			t.Errorf("/readyz: %d %s", status, body)
		}
	}
	link.join(t)
	everywhere(t, replicas, withKey("/", key), 200, "allowed")
}

// G-12: whatever is revoked while replicas are asked about it all the time, none
// allows a request that is made later than a second after the acknowledgement.
func revokeUnderLoad(t *testing.T, replicas []*replica) {
	a := replicas[0]
	type victim struct {
		what   string
		q      request
		revoke func()
		ack    atomic.Int64 // Unix nanoseconds; 0 before
		last   atomic.Int64 // when the last request was made that was allowed
	}
	_, key := a.key(t, "app")
	_, token := a.issue(t, &adminv1.Credential{Type: pat, PrincipalId: "ann", DisplayName: "laptop"})
	cookie, session := a.session(t, &adminv1.Session{})
	imported := a.limited(t, opaque, nil)
	jwt := testIssuer.token(claims{"sub": "carol", "jti": "77"})
	victims := []*victim{
		{what: "api key", q: withKey("/", key), revoke: func() { a.revoke(t, key) }},
		{what: "personal access token", q: withKey("/", token), revoke: func() { a.revoke(t, token) }},
		{what: "session", q: withCookie("/", cookie), revoke: func() {
			does(t, a.sessions.DeleteSession, &adminv1.DeleteSessionRequest{Id: session.GetId()})
		}},
		{what: "JWT", q: get("/", bearer(jwt)...), revoke: func() {
			does(t, a.denylist.AddDenial, &adminv1.AddDenialRequest{Denial: &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: "77"}, Issuer: testIssuer.url}})
		}},
		{what: "imported token", q: withKey("/", imported), revoke: func() {
			does(t, a.credentials.BatchRevokeCredentials, &adminv1.BatchRevokeCredentialsRequest{PrincipalId: "app"})
		}},
	}
	for _, v := range victims {
		everywhere(t, replicas, v.q, 200, "allowed")
	}
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for _, p := range replicas {
		load.Go(func() {
			for ctx.Err() == nil {
				for _, v := range victims {
					asked := time.Now().UnixNano()
					if p.askEnvoy(t, v.q).allowed() && asked > v.last.Load() {
						v.last.Store(asked) // of two at once the other is hardly later
					}
				}
			}
		})
	}
	for _, v := range victims {
		v.revoke()
		v.ack.Store(time.Now().UnixNano())
	}
	for _, v := range victims {
		everywhere(t, replicas, v.q, 401, map[bool]string{true: "credential_unknown", false: "revoked"}[v.what == "session"])
	}
	time.Sleep(time.Until(time.Unix(0, victims[len(victims)-1].ack.Load()).Add(1100 * time.Millisecond)))
	stop()
	load.Wait()
	for _, v := range victims {
		late := time.Duration(v.last.Load() - v.ack.Load())
		t.Logf("%s: last allowed %v after the acknowledgement", v.what, max(late, 0).Round(time.Millisecond))
		if late > time.Second {
			t.Errorf("the %s was allowed %v after the acknowledgement", v.what, late)
		}
	}
}

// Replicas that share a store and prefer an old answer to none.
func TestAvailableReplicas(t *testing.T) {
	t.Parallel()
	link, replicas := launchReplicas(t, 3, "mode: available, snapshot: mirror.snapshot")
	a := replicas[0]
	a.service(t, "app")
	id, key := a.key(t, "app")
	_, other := a.key(t, "app")
	everywhere(t, replicas, withKey("/", other), 200, "allowed")

	// G-06: clients that try again notice nothing when a replica is killed.
	killUnderLoad(t, replicas, withKey("/", other))
	replicas[2] = launch(t, a.world)

	// K-13: all uses are counted, by route and outcome, whichever replica sees them.
	for i, p := range replicas {
		for range 10 * (i + 1) {
			p.askEnvoy(t, withKey("/", key))
			p.askEnvoy(t, withKey("/nobody", key))
			p.askEnvoy(t, withKey("/people/1", key))
		}
	}

	// G-06 and T-06: without the store decisions go on.
	deaf := func(p *replica) bool {
		_, body := p.fetch(t, "/readyz")
		return strings.Contains(body, "not heard of for")
	}
	link.cut()
	for _, p := range replicas {
		eventually(t, "the replica notices", func() bool { return deaf(p) })
		p.expect(t, withKey("/", other), 200, "allowed")
		p.expect(t, withKey("/", foreign()), 401, "credential_unknown")
		if status, body := p.fetch(t, "/readyz"); status != 200 {
			t.Errorf("/readyz: %d %s", status, body)
		}
	}
	link.join(t)
	for _, p := range replicas {
		eventually(t, "the replica hears of the store", func() bool { return !deaf(p) })
		p.stop(t, syscall.SIGTERM) // which writes the counters, and the snapshot
	}

	// So do they at a replica that starts then, with what another one has noted.
	link.cut()
	p := launch(t, a.world)
	p.expect(t, withKey("/", other), 200, "allowed")
	p.expect(t, withKey("/people/1", key), 403, "principal_kind")
	if v := p.post(t, "/login", url.Values{"username": {"ann"}, "password": {annsPassword}}); v.status != 503 {
		t.Errorf("a login without a store: %d", v.status)
	}
	link.join(t)
	eventually(t, "the replica hears of the store", func() bool { return !deaf(p) })
	got, want := map[string][2]int64{}, map[string][2]int64{"rest": {60, 60}, "people": {0, 60}}
	for _, u := range does(t, p.credentials.GetUsage, &adminv1.GetUsageRequest{CredentialId: id}).GetUsage() {
		n := got[u.GetRoute()] // it may be midnight
		got[u.GetRoute()] = [2]int64{n[0] + u.GetAllowed(), n[1] + u.GetDenied()}
	}
	if !maps.Equal(got, want) {
		t.Errorf("allowed and denied: %v, want %v", got, want)
	}
}

// killUnderLoad kills one of the replicas while clients ask all of them in turn, and
// try another one where there is no answer, as gateways do.
func killUnderLoad(t *testing.T, replicas []*replica, q request) {
	t.Helper()
	name := manual.NewBuilderWithScheme("replicas")
	var all []resolver.Address
	for _, p := range replicas {
		all = append(all, resolver.Address{Addr: p.rpc})
	}
	name.InitialState(resolver.State{Addresses: all})
	conn := dial(t, "replicas:///", grpc.WithResolvers(name), grpc.WithDefaultServiceConfig(`{
		"loadBalancingConfig": [{"round_robin": {}}],
		"methodConfig": [{"name": [{}], "retryPolicy": {
			"maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]
		}}]
	}`))
	client := authv3.NewAuthorizationClient(conn)
	var asked, failed atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 6 {
		load.Go(func() {
			for ctx.Err() == nil {
				res, err := client.Check(context.Background(), q.forEnvoy())
				if err != nil || res.GetOkResponse() == nil {
					failed.Add(1)
					t.Errorf("%v %v", res, err)
				}
				asked.Add(1)
			}
		})
	}
	more := func(n int64) {
		before := asked.Load()
		eventually(t, "there is load", func() bool { return asked.Load() > before+n })
	}
	more(300)
	replicas[len(replicas)-1].stop(t, os.Kill)
	more(300)
	stop()
	load.Wait()
	t.Logf("%d of %d requests failed", failed.Load(), asked.Load())
}

// A replica that starts while PostgreSQL is down denies, says that it is not ready,
// and recovers by itself when the database comes up, empty or not.
func TestStartsBeforePostgres(t *testing.T) {
	t.Parallel()
	link, dsn := lay(t)
	w := preparePlane(t, `{ driver: postgres, dsn: "${file:dsn}" }`)
	w.write(t, "dsn", dsn)
	link.join(t)
	w.bootstrap(t)
	link.cut()
	p := launch(t, w)
	key := strings.TrimSpace(w.read(t, "admin.key"))
	if a := p.askEnvoy(t, withKey("/", key)); a.status != 503 || a.reason != "dependency_unavailable" {
		t.Errorf("before: %v", a)
	}
	if a := p.askPostern(t, withKey("/", foreign())); a.status != 503 {
		t.Errorf("before, with an unknown key: %v", a)
	}
	if status, body := p.fetch(t, "/readyz"); status != 503 || !strings.Contains(body, `"store","ready":false`) || strings.Contains(body, "admin.key") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if _, err := p.credentials.ListCredentials(t.Context(), &adminv1.ListCredentialsRequest{}); err == nil {
		t.Error("the admin API answers without a store")
	}
	link.join(t)
	p.becomes(t, withKey("/", key), 200, "allowed")
	if status, body := p.fetch(t, "/readyz"); status != 200 {
		t.Errorf("/readyz: %d %s", status, body)
	}
	p.service(t, "app")
}
