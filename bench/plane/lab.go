package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/postern-auth/postern/bench/rig"
	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

// lab holds what one run needs: the binary, and a directory with the pepper and the
// policy that all replicas share.
type lab struct {
	dir, binary string
	pepper      policy.Secret
	peppers     *seal.Peppers
	replicas    int // started so far; each has files of its own
}

// thePolicy lets who is a reader read things.
const thePolicy = `roles: { reader: { permissions: [things.read] } }
routes: [{ methods: [GET], path: "/things/*", permission: things.read }]
`

func newLab(ctx context.Context) (*lab, error) {
	dir, err := os.MkdirTemp("", "postern-plane-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, binary: filepath.Join(dir, "postern")}
	if err := l.furnish(ctx); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *lab) furnish(ctx context.Context) (err error) {
	if err := rig.Build(ctx, l.binary, "cmd/postern", rig.Stripped); err != nil {
		return err
	}
	random := make([]byte, 32)
	_, _ = rand.Read(random)
	l.pepper = policy.NewSecret(hex.EncodeToString(random))
	if l.peppers, err = seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: l.pepper}}); err != nil {
		return err
	}
	return errors.Join(l.write("pepper", l.pepper.Reveal()), l.write("policy/data.yaml", thePolicy))
}

func (l *lab) close() { _ = os.RemoveAll(l.dir) }

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) write(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(l.path(name)), 0o700); err != nil {
		return err
	}
	return os.WriteFile(l.path(name), []byte(text), 0o600)
}

// replica is a server with its configuration. It can be stopped and started again.
type replica struct {
	*rig.Process // nil unless it runs
	name         string
	launch       rig.Launch
	config       string // path
	adminKey     string // for the admin API; may be empty

	conns [2]*grpc.ClientConn
	check posternv1.CheckServiceClient
	admin *grpc.ClientConn
}

// newReplica writes the configuration of one more replica, whose block "store" is
// given. It does not start it.
func (l *lab) newReplica(store string) (*replica, error) {
	l.replicas++
	name := fmt.Sprintf("replica%d", l.replicas)
	r := &replica{name: name, config: l.path(name + ".yaml")}
	r.launch = rig.Launch{Binary: l.binary, Args: []string{"serve", "-c", r.config}, GRPC: rig.FreeAddr(), Admin: rig.FreeAddr()}
	return r, l.write(name+".yaml", fmt.Sprintf(`version: 1
listen: { grpc: %q, admin: %q }
api_keys: { pepper: "${file:pepper}" }
store: %s
policy: { path: policy }
decisions: { log: none, keep: 20000 }
log: { format: text }
`, r.launch.GRPC, r.launch.Admin, store))
}

// postgres is the block for a database; what else it says is given.
func (l *lab) postgres(dsn, more string) (string, error) {
	name := fmt.Sprintf("dsn%d", l.replicas+1)
	return fmt.Sprintf(`{ driver: postgres, dsn: "${file:%s}"%s }`, name, more), l.write(name, fmt.Sprintf("%s application_name=replica%d", dsn, l.replicas+1))
}

// bootstrap makes the first admin key.
func (r *replica) bootstrap(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, r.launch.Binary, "store", "bootstrap", "-q", "-c", r.config).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("postern store bootstrap: %s", exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// start runs the server and waits until it takes connections.
func (r *replica) start(ctx context.Context) (err error) {
	if r.Process, err = r.launch.Start(ctx); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return r.dial()
}

func (r *replica) dial() (err error) {
	quick := grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}, MinConnectTimeout: time.Second})
	dial := func(address string) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), quick)
	}
	if r.conns[0], err = dial(r.launch.GRPC); err != nil {
		return err
	}
	if r.conns[1], err = dial(r.launch.Admin); err != nil {
		return err
	}
	r.check, r.admin = posternv1.NewCheckServiceClient(r.conns[0]), r.conns[1]
	return nil
}

// kill ends the server with SIGKILL.
func (r *replica) kill() { r.end((*rig.Process).Kill) }

// stop ends the server as an operator does.
func (r *replica) stop() { r.end((*rig.Process).Stop) }

func (r *replica) end(how func(*rig.Process)) {
	if r.Process == nil {
		return
	}
	for _, c := range r.conns {
		if c != nil {
			_ = c.Close()
		}
	}
	how(r.Process)
	r.Process = nil
}

// as adds the admin key to the context of a call.
func (r *replica) as(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+r.adminKey)
}

// answer is what a replica said, and between which two moments.
type answer struct {
	sent, received time.Time
	allowed        bool
	reason         posternv1.Reason
	principal, id  string
	// err says that there was no answer.
	err error
}

// blind reports whether the replica could not say.
func (a *answer) blind() bool { return a.reason == posternv1.Reason_REASON_DEPENDENCY_UNAVAILABLE }

// patience is how long to wait for an answer: longer than any stop.
const patience = 30 * time.Second

func (r *replica) ask(ctx context.Context, q *posternv1.CheckRequest) (a answer) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a.sent = time.Now()
	res, err := r.check.Check(ctx, q)
	a.received, a.err = time.Now(), err
	d := res.GetDecision()
	a.allowed, a.reason, a.id, a.principal = d.GetAllowed(), d.GetReason(), d.GetDecisionId(), res.GetPrincipal().GetId()
	return a
}

// decided asks the replica when it had begun and completed a decision. A replica
// that is blind does not know its admin, so it is asked for a while.
func (r *replica) decided(ctx context.Context, id string) (begun, done time.Time, ok bool) {
	client := adminv1.NewDecisionServiceClient(r.admin)
	for until := time.Now().Add(5 * time.Second); time.Now().Before(until) && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		call, cancel := context.WithTimeout(r.as(ctx), 5*time.Second)
		res, err := client.GetDecision(call, &adminv1.GetDecisionRequest{DecisionId: id})
		cancel()
		if err == nil {
			begun = res.GetRecord().GetTime().AsTime()
			return begun, begun.Add(res.GetRecord().GetLatency().AsDuration()), true
		}
	}
	return begun, done, false
}

// question asks whether the holder of a key may read a thing.
func question(key string) *posternv1.CheckRequest { return questionOf(key, "/things/1") }

func questionOf(key, path string) *posternv1.CheckRequest {
	h := &posternv1.HttpTarget{Method: "GET", Scheme: "https", Host: "api.bench.test", Path: path, SourceIp: "192.0.2.5"}
	if key != "" {
		h.Headers = []*posternv1.HeaderField{{Name: "x-api-key", Value: key}}
	}
	return &posternv1.CheckRequest{Target: &posternv1.Target{Kind: &posternv1.Target_Http{Http: h}}}
}

// scrape reads the metrics: the sum of all series of each name, and each series by
// itself.
func (r *replica) scrape() (map[string]float64, error) {
	res, err := http.Get("http://" + r.launch.Admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	all := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseFloat(value, 64); ok && err == nil {
			all[name] += n
			if plain, _, labels := strings.Cut(name, "{"); labels {
				all[plain] += n
			}
		}
	}
	return all, nil
}

// memory is that of the process in MiB, as rig.Memory tells it.
func (r *replica) memory(which string) (float64, error) { return rig.Memory(r.PID(), which) }
