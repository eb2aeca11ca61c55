package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing/fstest"
	"time"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
)

// bundles is what a bundle server can do that is bad. The policy in force must stay what
// it is, and the next good one be taken.
var bundles = func() (all []fault) {
	for _, x := range lies {
		all = append(all, fault{"bundle-" + x.name, "the bundle server " + x.what, func(ctx context.Context, l *lab) (*line, error) {
			return l.lie(ctx, x.what, x.tell)
		}})
	}
	return all
}()

// lies are answers in the place of the next bundle. What each of them carries allows
// everything to everybody, so that it would show.
var lies = []struct {
	name, what string
	tell       func(s *source, w http.ResponseWriter, r *http.Request)
}{
	{"forged", "has a policy that somebody else signed", func(s *source, w http.ResponseWriter, _ *http.Request) { s.give(w, s.forged, `"forged"`) }},
	{"unsigned", "has a policy that nobody signed", func(s *source, w http.ResponseWriter, _ *http.Request) { s.give(w, s.unsigned, `"unsigned"`) }},
	{"same-etag", "has another policy under the ETag of the one in force", func(s *source, w http.ResponseWriter, _ *http.Request) { s.give(w, s.forged, s.etag()) }},
	{"swapped", "has the signature of a good policy on another one", func(s *source, w http.ResponseWriter, _ *http.Request) { s.give(w, s.swapped, `"swapped"`) }},
	{"cut", "breaks off in the middle", func(s *source, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(s.forged)))
		_, _ = w.Write(s.forged[:len(s.forged)/2])
		panic(http.ErrAbortHandler)
	}},
	{"short", "has half of a policy and says that this is all", func(s *source, w http.ResponseWriter, _ *http.Request) {
		s.give(w, s.good[0][:len(s.good[0])/2], `"short"`)
	}},
	{"old", "has a policy with an older revision, signed well", func(s *source, w http.ResponseWriter, _ *http.Request) { s.give(w, s.old, `"old"`) }},
	{"huge", "never ends", func(_ *source, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/gzip")
		for block := make([]byte, 1<<20); r.Context().Err() == nil; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}},
	{"slow", "says a byte a second", func(s *source, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"slow"`)
		for i := 0; i < len(s.forged) && r.Context().Err() == nil; i++ {
			_, _ = w.Write(s.forged[i : i+1])
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Second)
		}
	}},
	{"errors", "says 500 to everything", func(_ *source, w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusInternalServerError)
	}},
	{"redirect", "sends people elsewhere", func(s *source, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://localhost:1/evil.tar.gz", http.StatusFound)
	}},
}

// source is a bundle server.
type source struct {
	url    string
	server *http.Server
	asked  atomic.Int64

	good                           [][]byte // by revision, the first is in force at the beginning
	forged, unsigned, swapped, old []byte

	mu  sync.Mutex
	at  int // which of the good ones
	lie func(s *source, w http.ResponseWriter, r *http.Request)
}

// ServeHTTP implements http.Handler.
func (s *source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	s.mu.Lock()
	lie, raw := s.lie, s.good[s.at]
	s.mu.Unlock()
	switch {
	case lie != nil:
		lie(s, w, r)
	case r.Header.Get("If-None-Match") == s.etag():
		w.WriteHeader(http.StatusNotModified)
	default:
		s.give(w, raw, s.etag())
	}
}

func (s *source) give(w http.ResponseWriter, raw []byte, etag string) {
	w.Header().Set("Content-Type", "application/gzip")
	w.Header().Set("ETag", etag)
	_, _ = w.Write(raw)
}

// etag is that of the good one.
func (s *source) etag() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf(`"good-%d"`, s.at)
}

func (s *source) tell(lie func(*source, http.ResponseWriter, *http.Request)) {
	s.mu.Lock()
	s.lie = lie
	s.mu.Unlock()
}

// publish offers the next good policy.
func (s *source) publish() {
	s.mu.Lock()
	s.lie, s.at = nil, min(s.at+1, len(s.good)-1)
	s.mu.Unlock()
}

func (s *source) close() { _ = s.server.Close() }

// newSource makes a bundle server whose good policies are by signer.pem.
func (l *lab) newSource(ctx context.Context, revisions int) (*source, error) {
	private, public, err := rig.SigningKey()
	if err != nil {
		return nil, err
	}
	stranger, _, err := rig.SigningKey()
	if err != nil {
		return nil, err
	}
	if err := l.write("signer.pem", public); err != nil {
		return nil, err
	}
	s := &source{}
	const lots = "package postern.authz\ndecision := true\n"
	for i := range revisions {
		raw, err := pack(ctx, good(i), fmt.Sprint(100+i), private)
		if err != nil {
			return nil, err
		}
		s.good = append(s.good, raw)
	}
	for _, x := range []struct {
		into     *[]byte
		revision string
		key      []byte
	}{{&s.forged, "1000", stranger}, {&s.unsigned, "1000", nil}, {&s.old, "7", private}} {
		if *x.into, err = pack(ctx, lots, x.revision, x.key); err != nil {
			return nil, err
		}
	}
	if s.swapped, err = graft(s.good[0], s.unsigned); err != nil {
		return nil, err
	}
	on, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.url = fmt.Sprintf("http://%s/bench.tar.gz", on.Addr())
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: time.Second}
	go func() { _ = s.server.Serve(on) }()
	return s, nil
}

// good is a policy that decides by tables of roles and says which revision it is.
func good(revision int) string {
	return fmt.Sprintf("package postern.authz\nimport data.postern.lib.rbac\ndecision := rbac.decision\nrevision := %d\n", revision)
}

// block is what a configuration says of it.
func (s *source) block() string {
	return fmt.Sprintf("{ bundles: [{ name: bench, url: %q, poll: { min: 1s, max: 1s }, timeout: 3s }], keys: [{ id: bench, file: signer.pem }] }", s.url)
}

// pack makes a bundle of tables and a module, signed unless the key is nil.
func pack(ctx context.Context, module, revision string, key []byte) ([]byte, error) {
	files := fstest.MapFS{"tables.json": {Data: tables()}, "authz.rego": {Data: []byte(module)}}
	raw, err := bundle.Build(ctx, files, rego.Config{}, bundle.Limits{}, bundle.Manifest{Revision: revision})
	if err != nil || key == nil {
		return raw, err
	}
	signed, _, err := bundle.Sign(raw, bundle.Limits{}, bundle.Signature{KeyID: "bench", Key: key, Issued: time.Now()})
	return signed, err
}

// lie has the bundle server say something bad for a while, and then publish a good policy.
func (l *lab) lie(ctx context.Context, what string, tell func(*source, http.ResponseWriter, *http.Request)) (*line, error) {
	from, err := l.newSource(ctx, 2)
	if err != nil {
		return nil, err
	}
	defer from.close()
	all, err := l.open(ctx, 1, recipe{policy: from.block()})
	if err != nil {
		return nil, err
	}
	s := &scene{lab: l, replicas: all, questions: l.questions()}
	var asked int64
	var taken time.Duration
	out, err := s.play(ctx, "the bundle server "+what, func(ctx context.Context) error {
		before, activations := from.asked.Load(), s.activations()
		from.tell(tell)
		time.Sleep(max(l.long, 1500*time.Millisecond)) // it asks each second
		asked = from.asked.Load() - before
		if n := s.activations(); n != activations {
			return fmt.Errorf("%.0f bundles were put in force meanwhile", n-activations)
		}
		from.publish()
		s.lift()
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if taken = time.Since(began); s.activations() > activations {
				return nil
			}
			if taken > 30*time.Second || ctx.Err() != nil {
				return fmt.Errorf("the next good policy is not taken:\n%s", s.replicas[0].Said())
			}
		}
	})
	if err != nil {
		return nil, err
	}
	out.Recovered = max(out.Recovered, taken.Seconds())
	out.want(out.Failed == 0, "%d failed checks, none are wanted", out.Failed)
	out.want(asked > 0, "it was never asked")
	out.remark("asked %d times meanwhile; the next good policy was in force after %.1f s", asked, taken.Seconds())
	return out, nil
}

// activations is how often the first replica put a bundle in force.
func (s *scene) activations() float64 {
	n, _ := s.replicas[0].Metric(`postern_bundle_activations_total{bundle="bench"}`)
	return n
}
