package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/strictyaml"
	"github.com/postern-auth/postern/server/vectortest"
)

// vector is one case of the shared bundles: what came, and what must become of it.
type vector struct {
	ID, File, Expect, Why string
	OPA                   string `json:"opa_v1.22.0_default_reader"`
	Recipe                struct {
		Entry string
		Size  int64
	}
}

// The shared bundles come from a server while r2 runs: who signed them, what they
// say about others, and what they try. BND-01 to BND-37
func TestVectors(t *testing.T) {
	t.Parallel()
	public := string(vectortest.Read(t, "opa/bundles/signing.pub.pem"))
	good := vectortest.Read(t, "opa/bundles/BND-01-good-r2.tar.gz")
	counts := map[string]int{}
	for _, v := range vectortest.Lines[vector](t, "opa/bundles/bundles.jsonl") {
		if v.File == "" {
			continue // BND-40 to BND-44 are below
		}
		counts[v.Expect]++
		t.Run(v.ID, func(t *testing.T) {
			t.Parallel()
			offered := vectortest.Read(t, path.Join("opa/bundles", v.File))
			var body atomic.Pointer[[]byte]
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(*body.Load()) }))
			t.Cleanup(server.Close)
			engine := &rego.Engine{}
			source, err := bundle.New(context.Background(), bundle.Config{
				Bundles: []bundle.Bundle{{Name: "shop", URL: server.URL + "/bundle.tar.gz"}},
				Keys:    []bundle.Key{{ID: "postern", Algorithm: "RS256", Key: public}},
			}, bundle.Deps{Engine: engine, Rego: rego.Config{Entrypoint: "data.postern.authz.allow", Timeout: 20 * time.Millisecond}})
			must(t, err)
			defer source.Close()
			decide := func() (*policy.Verdict, error) {
				v, _, err := engine.Decide(context.Background(), &policy.Input{Attributes: &policy.Attributes{}, Request: &policy.Request{}})
				return v, err
			}

			// With nothing in force, what must be refused leaves nothing in force.
			body.Store(&offered)
			err = source.Poll(context.Background())
			switch v.Expect {
			case "refuse":
				if err == nil || engine.Snapshot() != nil {
					t.Fatalf("accepted: %s", v.Why)
				}
			case "activate", "refuse-after-r2":
				if err != nil || engine.Snapshot() == nil {
					t.Fatalf("refused: %v", err)
				}
				return2(t, source, engine, &body, good, v)
				return
			case "refuse-or-ignore", "refuse-or-ignore-link":
			case "deny-at-eval":
				must(t, err)
				verdict, err := decide()
				if err != nil || verdict.Allow || verdict.Reason != policy.ReasonPolicyResult {
					t.Fatalf("%+v, %v", verdict, err)
				}
				return
			case "deny-on-budget":
				must(t, err)
				if verdict, err := decide(); !errors.Is(err, rego.ErrTimeout) {
					t.Fatalf("%+v, %v", verdict, err)
				}
				return
			default:
				t.Fatalf("unknown expectation %q", v.Expect)
			}

			// With r2 in force, r2 stays.
			body.Store(&good)
			must(t, source.Poll(context.Background()))
			before := engine.Snapshot()
			body.Store(&offered)
			err = source.Poll(context.Background())
			if v.Expect == "refuse" && (err == nil || engine.Snapshot() != before || source.Status()[0].Err == nil) {
				t.Fatalf("r2 did not stay: %v", err)
			}
			if revision := source.Status()[0].Revision; revision != "2" {
				t.Fatalf("revision %q is in force", revision)
			}
		})
	}
	t.Logf("bundles by expectation: %v", counts)
}

// return2 is for bundles that are good by themselves: those that are older than r2
// are not, after it. BND-02
func return2(t *testing.T, source *bundle.Source, engine *rego.Engine, body *atomic.Pointer[[]byte], good []byte, v vector) {
	t.Helper()
	body.Store(&good)
	must(t, source.Poll(context.Background()))
	before := engine.Snapshot()
	offered := vectortest.Read(t, path.Join("opa/bundles", v.File))
	body.Store(&offered)
	err := source.Poll(context.Background())
	if wants := v.Expect == "refuse-after-r2"; wants != errors.Is(err, bundle.ErrRollback) || engine.Snapshot() != before {
		t.Fatalf("after r2: %v", err)
	}
}

// What OPA's reader refuses, we refuse. BND-03 to BND-33
func TestVectorsRefusedByOPA(t *testing.T) {
	t.Parallel()
	public := string(vectortest.Read(t, "opa/bundles/signing.pub.pem"))
	config := opa.NewVerificationConfig(map[string]*opa.KeyConfig{"postern": {Key: public, Algorithm: "RS256"}}, "", "", nil)
	for _, v := range vectortest.Lines[vector](t, "opa/bundles/bundles.jsonl") {
		if v.File == "" {
			continue
		}
		raw := vectortest.Read(t, path.Join("opa/bundles", v.File))
		_, err := opa.NewCustomReader(opa.NewTarballLoaderWithBaseURL(bytes.NewReader(raw), "")).WithBundleVerificationConfig(config).Read()
		if accepts := v.OPA == "ACCEPTS"; accepts != (err == nil) {
			t.Errorf("%s: OPA's reader changed: %v, was %s", v.ID, err, v.OPA)
		}
	}
}

// zeros are the recipe of a gzip bomb, small as it comes.
func zeros(t testing.TB, entry string, size int64) []byte {
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	must(t, err)
	archive := tar.NewWriter(zip)
	must(t, archive.WriteHeader(&tar.Header{Name: entry, Size: size, Mode: 0o600, Typeflag: tar.TypeReg}))
	block := bytes.Repeat([]byte{' '}, 1<<20)
	for range size >> 20 {
		_, err := archive.Write(block)
		must(t, err)
	}
	must(t, archive.Close())
	must(t, zip.Close())
	return out.Bytes()
}

// A bomb is refused at the limit, by what its header says and by what it holds, and
// costs next to no memory. BND-40
func TestBomb(t *testing.T) {
	if testing.Short() {
		t.Skip("packs 256 MiB")
	}
	raw := zeros(t, "postern/data/data.json", 256<<20)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if err := bundle.Screen(raw, bundle.Limits{}); err == nil {
		t.Error("a bomb passed")
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
	// A header that lies about the size.
	lying := made{files: map[string]string{"policy.rego": "package p"}, extra: []tar.Header{{Name: "data.json", Size: 1 << 40, Typeflag: tar.TypeReg}}}
	if err := bundle.Screen(liar(t, lying), bundle.Limits{}); err == nil {
		t.Error("a header that lies passed")
	}
	// Trailing zeros after the archive count too.
	if err := bundle.Screen(zeros(t, "README", 64<<20), bundle.Limits{Bytes: 64 * strictyaml.MiB}); err == nil {
		t.Error("64 MiB and headers fit into 64 MiB")
	}
}

// liar packs a header without its content.
func liar(t testing.TB, m made) []byte {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	must(t, archive.WriteHeader(&m.extra[0]))
	must(t, zip.Close())
	return out.Bytes()
}

func TestMain(m *testing.M) {
	http.DefaultTransport.(*http.Transport).DisableKeepAlives = true // each test closes its server
	os.Exit(m.Run())
}
