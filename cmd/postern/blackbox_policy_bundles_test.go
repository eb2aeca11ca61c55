package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
)

const bundleToken = "correct-horse-battery-staple"

// publisher is a bundle server with ETags, and the key that signs its bundles.
type publisher struct {
	*httptest.Server
	key *ecdsa.PrivateKey

	mu        sync.Mutex
	raw       []byte
	cut       int // how many bytes to send of all that were promised
	unchanged int // answers with 304
	asked     int
}

func newPublisher(t testing.TB) *publisher {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &publisher{key: key}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if r.Header.Get("Authorization") != "Bearer "+bundleToken {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	sum := sha256.Sum256(p.raw)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	w.Header().Set("ETag", etag)
	switch {
	case p.raw == nil:
		http.NotFound(w, r)
	case r.Header.Get("If-None-Match") == etag:
		p.unchanged++
		w.WriteHeader(http.StatusNotModified)
	case p.cut > 0:
		w.Header().Set("Content-Length", strconv.Itoa(len(p.raw)))
		_, _ = w.Write(p.raw[:p.cut])
	default:
		_, _ = w.Write(p.raw)
	}
}

// publish offers bytes.
func (p *publisher) publish(raw []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.raw, p.cut = raw, 0
}

func (p *publisher) times() (asked, unchanged int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked, p.unchanged
}

// public is the key as Postern wants it.
func public(t testing.TB, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// packed is a bundle of one rule, unsigned.
func packed(t testing.TB, revision, rule string) []byte {
	t.Helper()
	raw, err := bundle.Build(t.Context(), fstest.MapFS{"authz.rego": {Data: []byte("package postern.authz\n" + rule)}}, rego.Config{}, bundle.Limits{}, bundle.Manifest{Revision: revision})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// signedBundle is one that allows one path, signed with a key.
func signedBundle(t testing.TB, key *ecdsa.PrivateKey, revision, path string) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := bundle.Sign(packed(t, revision, fmt.Sprintf("decision := input.request.path == %q", path)), bundle.Limits{},
		bundle.Signature{KeyID: "shop", Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), Issued: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// subscribed is a world whose policy comes from a publisher.
func subscribed(t testing.TB, p *publisher, more string) world {
	t.Helper()
	w := prepare(t, "bundles", "@URL@", p.URL+"/shop.tar.gz", "@MORE@", more)
	w.write(t, "key.pem", public(t, p.key))
	w.write(t, "token", bundleToken)
	return w
}

// revised waits for a revision to be in force.
func (b *box) revised(t testing.TB, revision string) {
	t.Helper()
	eventually(t, "revision "+revision+" is in force", func() bool {
		return strings.HasPrefix(b.askEnvoy(t, get("/x")).revision, revision+"+") || b.askEnvoy(t, get("/x")).revision == revision
	})
}

// Z-02, E-02: a signed bundle is put in force and decides; the next one takes its place
// within a poll, with no cached decision of the one before; what did not change is not
// fetched again.
func TestBundleDecides(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	b := start(t, subscribed(t, p, ""))
	b.hide(bundleToken)
	b.expect(t, get("/a"), 503, "no_policy") // FAILOPEN-02
	if status, body := b.fetch(t, "/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("ready without a policy: %s", body)
	}
	p.publish(signedBundle(t, p.key, "1", "/a"))
	b.revised(t, "1")
	b.expect(t, get("/a"), 200, "allowed")
	b.expect(t, get("/b"), 403, "policy_denied")
	eventually(t, "ready", func() bool { status, _ := b.fetch(t, "/readyz"); return status == http.StatusOK })
	eventually(t, "the server says that nothing changed", func() bool { _, n := p.times(); return n > 0 })
	p.publish(signedBundle(t, p.key, "2", "/b"))
	b.revised(t, "2")
	b.expect(t, get("/a"), 403, "policy_denied")
	b.expect(t, get("/b"), 200, "allowed")
	text := b.scrape(t)
	if n := metric(t, text, `postern_bundle_activations_total{bundle="shop"}`); n != 2 {
		t.Error(n, "activations")
	}
	if n := metric(t, text, `postern_bundle_failed{bundle="shop"}`); n != 0 {
		t.Error("a good bundle has failed")
	}
}

// FAILOPEN-02 and the rows of BND: whatever is wrong with a bundle, the one in force
// decides, and /readyz, the log and a metric say what it is.
func TestBundleRefused(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	b := start(t, subscribed(t, p, ""))
	b.hide(bundleToken)
	p.publish(signedBundle(t, p.key, "5", "/a"))
	b.revised(t, "5")
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	next := signedBundle(t, p.key, "6", "/b")
	flipped := bytes.Clone(next)
	flipped[len(flipped)/2] ^= 0x10
	for _, tt := range []struct {
		name, step string
		raw        []byte
		cut        int
	}{
		{"unsigned", "verify", packed(t, "6", "decision := true"), 0},
		{"of a stranger", "verify", signedBundle(t, stranger, "6", "/b"), 0},
		{"lower", "rollback", signedBundle(t, p.key, "4", "/b"), 0},
		{"truncated", "read", next[:len(next)/2], 0},
		{"cut off", "download", next, len(next) / 2},
		{"flipped", "read", flipped, 0},
		{"with more behind", "read", append(bytes.Clone(next), "more"...), 0},
		{"gone", "download", nil, 0},
	} {
		counter := fmt.Sprintf(`postern_bundle_refusals_total{bundle="shop",step=%q}`, tt.step)
		before := metric(t, b.scrape(t), counter)
		p.publish(tt.raw)
		p.mu.Lock()
		p.cut = tt.cut
		p.mu.Unlock()
		eventually(t, tt.name+" is refused at "+tt.step, func() bool { return metric(t, b.scrape(t), counter) > before })
		b.expect(t, get("/a"), 200, "allowed")
		b.expect(t, get("/b"), 403, "policy_denied")
		if status, body := b.fetch(t, "/readyz"); status != http.StatusOK || !strings.Contains(body, tt.step+": ") {
			t.Errorf("%s: /readyz says %d %s", tt.name, status, body)
		}
		if !strings.Contains(b.log.String(), tt.step+": ") {
			t.Errorf("%s: the log does not say why", tt.name)
		}
		if n := metric(t, b.scrape(t), `postern_bundle_failed{bundle="shop"}`); n != 1 {
			t.Errorf("%s: the metric says that all is well", tt.name)
		}
	}
	p.publish(next)
	b.revised(t, "6")
	b.expect(t, get("/b"), 200, "allowed")
	if status, body := b.fetch(t, "/readyz"); status != http.StatusOK || strings.Contains(body, "gone") || strings.Contains(body, "download: ") {
		t.Errorf("/readyz still complains: %s", body)
	}
}

// A server that starts while the bundle server is down serves the last good bundle, and
// none at all if somebody has touched what was kept.
func TestBundleRestart(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	w := subscribed(t, p, "")
	p.publish(signedBundle(t, p.key, "7", "/a"))
	t.Run("first", func(t *testing.T) {
		b := start(t, w)
		b.revised(t, "7")
	})
	p.Close()
	t.Run("second", func(t *testing.T) {
		b := start(t, w)
		a := b.expect(t, get("/a"), 200, "allowed")
		if !strings.HasPrefix(a.revision, "7") {
			t.Error("revision", a.revision)
		}
		b.expect(t, get("/b"), 403, "policy_denied")
	})
	kept := w.keptBundle(t)
	text := w.read(t, kept)
	w.write(t, kept, text[:len(text)/2]+"x"+text[len(text)/2+1:])
	t.Run("touched", func(t *testing.T) {
		b := start(t, w)
		b.expect(t, get("/a"), 503, "no_policy")
		if status, body := b.fetch(t, "/readyz"); status != http.StatusServiceUnavailable {
			t.Errorf("ready with a bundle that somebody touched: %s", body)
		}
	})
}

// policy.max_age: a policy of which nobody has said for too long that it is the newest
// makes the server unready and then denies with a reason of its own; one answer of the
// bundle server ends that.
func TestBundleStale(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds, the least that max_age can be")
	}
	t.Parallel()
	p := newPublisher(t)
	b := start(t, subscribed(t, p, "\n  max_age: 10s"))
	b.expect(t, get("/a"), 503, "no_policy") // not too old: there is none
	good := signedBundle(t, p.key, "1", "/a")
	p.publish(good)
	b.revised(t, "1")
	b.expect(t, get("/a"), 200, "allowed")
	p.publish(nil)
	eventually(t, "too old", func() bool { return b.askEnvoy(t, get("/a")).reason == "policy_stale" })
	b.expect(t, get("/a"), 503, "policy_stale")
	if status, body := b.fetch(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "policy") {
		t.Errorf("ready with a policy that is too old: %s", body)
	}
	p.publish(good)
	eventually(t, "new again", func() bool { return b.askEnvoy(t, get("/a")).status == 200 })
}

// keptBundle is the name of the bundle on disk.
func (w world) keptBundle(t testing.TB) (name string) {
	t.Helper()
	err := filepath.WalkDir(w.path("kept"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (name == "" || strings.HasSuffix(path, ".gz")) {
			name, err = filepath.Rel(string(w), path)
		}
		return err
	})
	if err != nil || name == "" {
		t.Fatal("nothing is kept: ", err)
	}
	return filepath.ToSlash(name)
}
