package bundle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/postern-auth/postern/policy/rego"
)

// content is one bundle that was read and verified.
type content struct {
	raw      []byte
	digest   [sha256.Size]byte // of raw
	revision string
	issued   time.Time // by the signature; zero if it does not say
	read     time.Time // when
	roots    []string
	verified bool
	unused   []string // what it says without effect, in words

	etag      string    // by which the server knows it
	confirmed time.Time // when the server last said that it is the newest; zero if it never did
	recalled  bool      // it was in force before this Source was
	kept      bool      // it is on disk

	// What is compiled; nil once it was.
	modules map[string]*ast.Module
	data    map[string]any
}

// reading is how one bundle is read.
type reading struct {
	name     string
	limits   Limits
	verifier *verifier
	version  ast.RegoVersion // of files for which the manifest says nothing
}

// read screens, verifies and parses. Nothing in it can panic as far as we know; a
// parser of bytes from a network is not the place to rely on that.
func (r *reading) read(raw []byte, now time.Time) (c *content, err error) {
	defer func() {
		if p := recover(); p != nil {
			c, err = nil, failed(FailedRead, fmt.Errorf("the bundle makes the reader panic: %T", p))
		}
	}()
	if len(raw) == 0 {
		return nil, failed(FailedRead, errors.New("the bundle is empty"))
	}
	if int64(len(raw)) > int64(r.limits.Download) {
		return nil, failed(FailedRead, fmt.Errorf("%w: more than %s", errTooMuch, r.limits.Download))
	}
	unused, err := screen(raw, r.limits, r.verifier)
	if err != nil {
		return nil, failed(FailedRead, err)
	}
	read, err := r.opaReader(raw).Read()
	if err != nil {
		return nil, failed(r.stageOf(err), err)
	}
	c = &content{raw: raw, digest: sha256.Sum256(raw), read: now, revision: read.Manifest.Revision, verified: r.verifier.on(), unused: unused}
	if c.verified {
		s, err := r.verifier.check(read.Signatures.Signatures[0], now)
		if err != nil {
			return nil, failed(FailedVerify, err)
		}
		c.issued = s.issued
	}
	return c, failed(FailedRead, r.fill(c, &read))
}

func (r *reading) opaReader(raw []byte) *opa.Reader {
	reader := opa.NewCustomReader(opa.NewTarballLoaderWithBaseURL(bytes.NewReader(raw), "")).
		WithRegoVersion(r.version).
		WithSizeLimitBytes(int64(r.limits.Bytes)).
		WithLazyLoadingMode(false).
		WithBundleName(r.name)
	if !r.verifier.on() {
		return reader.WithSkipBundleVerification(true)
	}
	return reader.WithBundleVerificationConfig(r.verifier.config)
}

// stageOf tells a bundle that does not parse from one that nobody trustworthy
// signed. OPA's errors are texts; Rego's are not.
func (r *reading) stageOf(err error) Failure {
	if _, ok := errors.AsType[ast.Errors](err); ok {
		return FailedPolicy
	}
	if _, ok := errors.AsType[*ast.Error](err); ok {
		return FailedPolicy
	}
	if r.verifier.on() && !strings.Contains(err.Error(), "manifest") {
		return FailedVerify
	}
	return FailedRead
}

func (r *reading) fill(c *content, read *opa.Bundle) error {
	if read.Type() != opa.SnapshotBundleType {
		return errors.New("this is a delta bundle, which cannot be signed; Postern takes whole bundles only")
	}
	c.roots = *read.Manifest.Roots // set by the reader
	if len(c.roots) > r.limits.Roots {
		return fmt.Errorf("%w: more than %d roots", errTooMuch, r.limits.Roots)
	}
	if len(c.revision) > maxRevision || strings.ContainsFunc(c.revision, func(x rune) bool { return x <= ' ' || x > '~' }) {
		return fmt.Errorf("the revision %.40q is not up to %d printable ASCII characters", c.revision, maxRevision)
	}
	if len(read.Modules) == 0 && len(read.Data) == 0 {
		return errors.New("the bundle holds neither Rego nor data")
	}
	c.data, c.modules = read.Data, make(map[string]*ast.Module, len(read.Modules))
	for _, m := range read.Modules {
		name := strings.TrimPrefix(m.Path, "/")
		if _, twice := c.modules[name]; twice {
			return fmt.Errorf("the bundle holds %s twice", name)
		}
		c.modules[name] = m.Parsed
	}
	return nil
}

// part gives the contents away to be compiled.
func (c *content) part(name string) rego.Part {
	p := rego.Part{Name: name, Digest: c.digest[:], Modules: c.modules, Data: c.data}
	c.modules, c.data = nil, nil
	return p
}

// ErrRollback is wrapped when a bundle is older than the one that runs.
var ErrRollback = errors.New("the bundle is older than the one in force")

// follows refuses a bundle that is older than the one before. Where the revisions do
// not say, the times of the signatures do.
func (c *content) follows(before *content) error {
	if before == nil || c.digest == before.digest {
		return nil
	}
	switch compareRevisions(c.revision, before.revision) {
	case newer:
		return nil
	case older:
		return fmt.Errorf("%w: revision %q after %q; set allow_rollback to accept it", ErrRollback, c.revision, before.revision)
	}
	if !c.issued.IsZero() && c.issued.Before(before.issued) {
		return fmt.Errorf("%w: signed at %s after %s; set allow_rollback to accept it", ErrRollback,
			c.issued.UTC().Format(time.RFC3339), before.issued.UTC().Format(time.RFC3339))
	}
	return nil
}

// overlap returns the roots of two bundles that contain each other.
func overlap(a, b *content) (string, bool) {
	for _, x := range a.roots {
		for _, y := range b.roots {
			if opa.RootPathsOverlap(x, y) {
				return fmt.Sprintf("%q and %q", x, y), true
			}
		}
	}
	return "", false
}
