package bundle

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/postern-auth/postern/policy/lib"
	"github.com/postern-auth/postern/policy/rego"
)

// Opened is a packed bundle that was read like one that came from a server.
type Opened struct {
	// Policy is what it holds, to be compiled.
	Policy *rego.Bundle
	// Revision and Roots are those of its manifest.
	Revision string
	Roots    []string
	// Digest is the SHA-256 of the packed bytes, hexadecimal; Size is their number.
	Digest string
	Size   int
	// Verified says that its signature is verified, Signed that it has one.
	Verified, Signed bool
}

// Open screens, verifies and parses a packed bundle, as a Source does with one that it
// fetched. Without keys in verify, and with insecure_skip, the signature is not looked
// at. The error is an *Error.
func Open(raw []byte, limits Limits, verify Verify, config rego.Config, now time.Time) (*Opened, error) {
	v, err := newVerifier(&verify)
	if err != nil {
		return nil, failed(FailedVerify, err)
	}
	r := reading{name: "bundle", limits: limits.withDefaults(), verifier: v, version: versionOf(config)}
	c, err := r.read(raw, now)
	if err != nil {
		return nil, err
	}
	o := &Opened{Revision: c.revision, Roots: c.roots, Digest: hex.EncodeToString(c.digest[:]), Size: len(raw), Verified: c.verified}
	files, err := unpacked(raw, r.limits)
	if err != nil {
		return nil, failed(FailedRead, err)
	}
	_, o.Signed = files[signaturesFile]
	o.Policy, err = rego.NewBundle(c.revision, []rego.Part{c.part(r.name)}, config)
	return o, failed(FailedPolicy, err)
}

// Manifest is what a bundle says of itself.
type Manifest struct {
	// Revision orders it among others; see docs/bundles.md.
	Revision string
	// Roots are the parts of data that it claims: "shop", "roles". Nil claims all that
	// no other bundle does not, which is what a single bundle wants.
	Roots []string
}

// manifestFile is also looked for in the directory that a bundle is built from.
const (
	manifestFile   = ".manifest"
	signaturesFile = ".signatures.json"
	dataFile       = "data.json"
)

// Build packs the policy in a directory: its Rego files as they are, and all of its
// data files, whatever their names, as one data.json. Tests and hidden files are left
// out. What would not load under the configuration is not packed. Equal policies give
// equal bytes: names are sorted, and no time or user gets into the archive.
//
// What a file .manifest in the directory says counts where the manifest does not.
func Build(ctx context.Context, fsys fs.FS, config rego.Config, limits Limits, m Manifest) ([]byte, error) {
	source, err := rego.LoadFS(fsys, config)
	if err != nil {
		return nil, err
	}
	if _, err := rego.Compile(ctx, source, config); err != nil {
		return nil, err
	}
	manifest, err := manifestOf(fsys, config, m)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{manifestFile: manifest}
	for _, name := range source.Files {
		if !strings.HasSuffix(name, ".rego") {
			continue
		}
		if files[name], err = fs.ReadFile(fsys, name); err != nil {
			return nil, err
		}
	}
	if data := dataOf(source); len(data) > 0 {
		if files[dataFile], err = encodeJSON(data); err != nil {
			return nil, err
		}
	}
	raw, err := pack(files)
	if err != nil {
		return nil, err
	}
	// What was packed must be what a server reads.
	o, err := Open(raw, limits, Verify{}, config, time.Now())
	if err != nil {
		return nil, err
	}
	_, err = rego.Compile(ctx, o.Policy, config)
	return raw, err
}

// manifestOf writes the manifest.
func manifestOf(fsys fs.FS, config rego.Config, m Manifest) ([]byte, error) {
	var out opa.Manifest
	if text, err := fs.ReadFile(fsys, manifestFile); err == nil {
		if err := rego.CheckData(manifestFile+".json", text, 32); err != nil {
			return nil, err
		}
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&out); err != nil {
			return nil, fmt.Errorf("%s: %w", manifestFile, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out.Revision = cmp.Or(m.Revision, out.Revision)
	if m.Roots != nil {
		roots := slices.Clone(m.Roots)
		for i := range roots {
			roots[i] = strings.Trim(strings.ReplaceAll(strings.TrimPrefix(roots[i], "data."), ".", "/"), "/")
		}
		out.Roots = &roots
	}
	if out.Roots == nil {
		out.Roots = &[]string{""}
	}
	version := versionOf(config).Int()
	out.RegoVersion = &version
	return encodeJSON(out)
}

// dataOf is the data of a policy without the tables that Postern itself adds.
func dataOf(b *rego.Bundle) map[string]any {
	all, _ := b.Data().(map[string]any)
	data := maps.Clone(all)
	for _, table := range lib.Tables {
		if empty, ok := data[table].(map[string]any); ok && len(empty) == 0 {
			delete(data, table)
		}
	}
	return data
}

// encodeJSON writes values with their names sorted.
func encodeJSON(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return out.Bytes(), err
}

// pack writes an archive that depends on nothing but the files. The manifest and the
// signatures come first, where a reader that streams wants them.
func pack(files map[string][]byte) ([]byte, error) {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		header := tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if len(name) > 100 {
			header.Format = tar.FormatPAX
		}
		if err := archive.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(files[name]); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(archive.Close(), zip.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// unpacked returns the files of a bundle by name. It was, or is here, screened first.
func unpacked(raw []byte, limits Limits) (map[string][]byte, error) {
	if _, err := screen(raw, limits, &verifier{}); err != nil {
		return nil, err
	}
	zip, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	files, archive := map[string][]byte{}, tar.NewReader(zip)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		name, err := plainName(header.Name)
		if err != nil {
			return nil, err
		}
		if files[name], err = io.ReadAll(archive); err != nil {
			return nil, err
		}
	}
}

// versionOf is the syntax of files of which no manifest says it.
func versionOf(config rego.Config) ast.RegoVersion {
	if v := config.RegoVersion; v != nil && *v == 0 {
		return ast.RegoV0
	}
	return ast.RegoV1
}
