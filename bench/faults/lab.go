package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// lab holds what all trials share: keys, an issuer and a gateway's program.
type lab struct {
	settings
	dir            string
	keys           []string
	issuer         *issuer
	envoy, envoyIs string // empty: there is none
	stranger       signer // whose tokens nobody should believe
	replicas       int    // configured so far
	gateways       int
}

const people = 16

func newLab(ctx context.Context, s settings) (*lab, error) {
	l := &lab{settings: s, stranger: newSigner("k0")}
	var err error
	if l.dir, err = os.MkdirTemp("", "postern-faults-"); err != nil {
		return nil, err
	}
	if err := l.furnish(ctx); err != nil {
		l.close()
		return nil, err
	}
	l.envoy, l.envoyIs = findEnvoy(ctx)
	return l, nil
}

func (l *lab) furnish(ctx context.Context) (err error) {
	if l.binary == "" {
		l.binary = l.path("postern")
		if err := rig.Build(ctx, l.binary, "cmd/postern", rig.Stripped); err != nil {
			return err
		}
	}
	if l.issuer, err = newIssuer(); err != nil {
		return err
	}
	if l.keys, err = rig.WriteKeys(l.dir, people, rig.Service); err != nil {
		return err
	}
	return l.write("policy/data.json", string(tables()))
}

// tables are roles and routes, of which rig.Role and rig.Path are some.
func tables() []byte { return encode(rig.RoleTable(100)) }

func (l *lab) close() {
	if l.issuer != nil {
		l.issuer.close()
	}
	_ = os.RemoveAll(l.dir)
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) write(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(l.path(name)), 0o700); err != nil {
		return err
	}
	return os.WriteFile(l.path(name), []byte(text), 0o600)
}

// recipe is what a replica's configuration says besides what all say.
type recipe struct {
	policy string // block; "" for the one on disk
	store  string // block; "" for none
	issuer string // more about its keys
	more   string // lines
	under  []string
}

// replica is a server that can be stopped and started again.
type replica struct {
	*rig.Process
	launch rig.Launch
	config string
}

// prepare writes the configuration of one more replica.
func (l *lab) prepare(r recipe) (*replica, error) {
	l.replicas++
	name := fmt.Sprintf("replica%d.yaml", l.replicas)
	p := &replica{config: l.path(name), launch: rig.Launch{Binary: l.binary, GRPC: rig.FreeAddr(), Admin: rig.FreeAddr(), Under: r.under}}
	p.launch.Args = []string{"serve", "-c", p.config}
	if r.policy == "" {
		r.policy = "{ path: policy }"
	}
	if r.store == "" {
		r.store = "{ driver: none }"
	}
	return p, l.write(name, fmt.Sprintf(`version: 1
listen: { grpc: %q, admin: %q }
api_keys: { pepper: "${file:pepper}", file: keys.yaml }
store: %s
policy: %s
decisions: { log: none }
log: { format: text }
%s%s`, p.launch.GRPC, p.launch.Admin, r.store, r.policy, l.issuer.block(r.issuer), r.more))
}

// start runs a replica and returns when it is ready.
func (r *replica) start(ctx context.Context) (err error) {
	if r.Process, err = r.launch.Start(ctx); err != nil {
		return err
	}
	if err := r.ready(ctx); err != nil {
		stopAll([]*replica{r})
		return err
	}
	return nil
}

// ready waits until it says that it is.
func (r *replica) ready(ctx context.Context) error {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		res, err := http.Get("http://" + r.launch.Admin + "/readyz")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(res.Status)
		}
		if time.Now().After(deadline) || ctx.Err() != nil || r.Ended() {
			return fmt.Errorf("it does not become ready: %w\n%s", err, r.Said())
		}
	}
}

// open prepares and starts replicas of one recipe.
func (l *lab) open(ctx context.Context, n int, r recipe) (all []*replica, err error) {
	for range n {
		p, err := l.prepare(r)
		if err == nil {
			err = p.start(ctx)
		}
		if err != nil {
			stopAll(all)
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

func stopAll(all []*replica) {
	for _, r := range all {
		if r.Process != nil && !r.Ended() {
			r.Kill()
		}
	}
}

// day is longer than any trial.
const day = 24 * time.Hour

// questions are what is asked in most trials: three of four are honest people who may,
// and every fourth is somebody who may not, in all the ways there are.
func (l *lab) questions() []*question {
	never := []*question{
		withKey("an unknown key", rig.Path, unknownKey(), deny),
		withKey("a key cut short", rig.Path, l.keys[0][:len(l.keys[0])-1], deny),
		withKey("a key where it has no right", "/api/v1/things8/42", l.keys[1], deny),
		ask("nobody", rig.Path, nil, deny),
		bearer("a token that has expired", rig.Path, l.issuer.token("late", -2*time.Hour, -time.Hour), deny),
		bearer("a token by a stranger", rig.Path, l.stranger.sign(l.issuer.body("stranger", 0, day)), deny),
		bearer("a token where it has no right", "/api/v1/things8/42", l.issuer.token("user-0", 0, day), deny),
		bearer("no token", rig.Path, "e30.e30.AAAA", deny),
	}
	var all []*question
	for i := range 8 {
		all = append(all,
			withKey("a good key", rig.Path, l.keys[2*i], allow),
			bearer("a good token", rig.Path, l.issuer.token(fmt.Sprint("user-", i), 0, day), allow),
			withKey("a good key", rig.Path, l.keys[2*i+1], allow),
			never[i])
	}
	return all
}

// unknownKey looks like a key and is none: its checksum is wrong.
func unknownKey() string {
	return "pst_key_live_" + rand.Text()[:12] + "_" + rand.Text() + rand.Text()[:17] + "000000"
}
