package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
)

// signer signs bundles. Keys are made once: RSA keys are slow to make.
type signer struct {
	id, algorithm string
	private       any
}

var (
	rsaSigner = sync.OnceValue(func() signer {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return signer{"rsa", "RS256", key}
	})
	ecSigner = sync.OnceValue(func() signer {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		return signer{"ec", "ES256", key}
	})
	secretSigner = signer{"shared", "HS256", []byte("0123456789abcdef0123456789abcdef")}
)

func (s signer) key() bundle.Key {
	k := bundle.Key{ID: s.id}
	switch private := s.private.(type) {
	case []byte:
		k.Secret = policy.NewSecret(string(private))
	case crypto.Signer:
		k.Key = publicPEM(private.Public())
	}
	return k
}

func publicPEM(public any) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (s signer) sign(header, claims map[string]any) string {
	encode := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	input := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(input))
	var signature []byte
	var err error
	switch key := s.private.(type) {
	case *rsa.PrivateKey:
		signature, err = rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		r, ss, e := ecdsa.Sign(rand.Reader, key, sum[:])
		signature, err = append(r.FillBytes(make([]byte, 32)), ss.FillBytes(make([]byte, 32))...), e
	case []byte:
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(input))
		signature = mac.Sum(nil)
	}
	if err != nil {
		panic(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// made is a bundle in the making.
type made struct {
	files  map[string]string
	digest opa.HashingAlgorithm
	header map[string]any // over the usual ones
	claims map[string]any
	extra  []tar.Header // without content
}

// allowing is a bundle that allows, by a rule that says which one it is.
func allowing(revision string) made {
	return made{files: map[string]string{
		".manifest":   fmt.Sprintf(`{"revision":%q,"roots":["postern/authz"]}`, revision),
		"policy.rego": fmt.Sprintf("package postern.authz\n\ndecision := {\"allow\": true, \"dynamic_metadata\": {\"r\": %q}}\n", revision),
	}}
}

func (m made) with(name, text string) made {
	files := map[string]string{name: text}
	for n, t := range m.files {
		if n != name {
			files[n] = t
		}
	}
	m.files = files
	return m
}

func (m made) claim(name string, value any) made {
	claims := map[string]any{name: value}
	for n, v := range m.claims {
		claims[n] = v
	}
	m.claims = claims
	return m
}

// signedBy returns the packed bundle.
func (m made) signedBy(t testing.TB, s signer) []byte {
	t.Helper()
	if m.digest == "" {
		m.digest = opa.SHA256
	}
	var files []opa.FileInfo
	for name, text := range m.files {
		files = append(files, opa.NewFile(name, hashFile(t, m.digest, name, text), string(m.digest)))
	}
	slices.SortFunc(files, func(a, b opa.FileInfo) int { return strings.Compare(a.Name, b.Name) })
	claims := map[string]any{"files": files}
	for n, v := range m.claims {
		claims[n] = v
	}
	header := map[string]any{"alg": s.algorithm, "kid": s.id}
	for n, v := range m.header {
		header[n] = v
	}
	signatures, err := json.Marshal(map[string]any{"signatures": []string{s.sign(header, claims)}})
	if err != nil {
		t.Fatal(err)
	}
	return m.with(".signatures.json", string(signatures)).pack(t)
}

func hashFile(t testing.TB, algorithm opa.HashingAlgorithm, name, text string) string {
	t.Helper()
	h, err := opa.NewSignatureHasher(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	value := any([]byte(text))
	if opa.IsStructuredDoc(name) {
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
	}
	sum, err := h.HashFile(value)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum)
}

// pack returns the bundle without a signature.
func (m made) pack(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	names := make([]string, 0, len(m.files))
	for name := range m.files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		must(t, archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(m.files[name])), Typeflag: tar.TypeReg}))
		_, err := archive.Write([]byte(m.files[name]))
		must(t, err)
	}
	for i := range m.extra {
		must(t, archive.WriteHeader(&m.extra[i]))
	}
	must(t, archive.Close())
	must(t, zip.Close())
	return out.Bytes()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a source with all that it works with.
type world struct {
	*bundle.Source
	t      testing.TB
	engine *rego.Engine
	log    *bytes.Buffer
	now    func() time.Time
}

// open makes a source whose clock is now, or the real one.
func open(t testing.TB, config bundle.Config, now func() time.Time) *world {
	t.Helper()
	w := &world{t: t, engine: &rego.Engine{}, log: &bytes.Buffer{}, now: now}
	if now == nil {
		w.now = time.Now
	}
	s, err := bundle.New(context.Background(), config, bundle.Deps{Engine: w.engine, Rego: rego.Config{Timeout: time.Minute}, Now: w.now, Logger: slog.New(slog.NewTextHandler(w.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w.Source = s
	return w
}

func (w *world) decide() (*policy.Verdict, error) {
	v, _, err := w.engine.Decide(context.Background(), &policy.Input{Attributes: &policy.Attributes{}, Request: &policy.Request{}})
	return v, err
}

// runs returns what the policy in force says which one it is; "" if there is none.
func (w *world) runs() string {
	w.t.Helper()
	v, err := w.decide()
	if err != nil {
		return ""
	}
	r, _ := v.Metadata["r"].(string)
	return r
}

// expect holds what runs and what was complained about against what should be.
func (w *world) expect(err error, runs string, failure bundle.Failure, says string) {
	w.t.Helper()
	if got := w.runs(); got != runs {
		w.t.Errorf("in force is %q, want %q", got, runs)
	}
	if failure == "" {
		if err != nil {
			w.t.Errorf("unexpected: %v", err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), says) {
		w.t.Errorf("error %v, want %q", err, says)
	}
	var failed []bundle.Failure
	for _, st := range w.Status() {
		failed = append(failed, st.Failed)
	}
	if !slices.Contains(failed, failure) {
		w.t.Errorf("status says %q, want %q (%v)", failed, failure, err)
	}
}

// unpack returns the files of a packed bundle.
func unpack(t testing.TB, raw []byte) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(raw))
	must(t, err)
	files, archive := map[string]string{}, tar.NewReader(zip)
	for {
		h, err := archive.Next()
		if err != nil {
			return files
		}
		text, err := io.ReadAll(archive)
		must(t, err)
		files[h.Name] = string(text)
	}
}

func mustRead(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	must(t, err)
	return text
}

func digestOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
