package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy/rego"
)

// errTooMuch is wrapped by what is over a limit.
var errTooMuch = errors.New("the bundle is over a limit")

// screen reads a packed bundle once and keeps nothing: what passes can be unpacked
// by a reader that has no limits of its own. It refuses everything but plain files
// and directories with plain names, each there once; whatever comes after the
// archive; and data with two readings. It returns what is said in the bundle and has no
// effect, in words.
func screen(raw []byte, limits Limits, v *verifier) (unused []string, err error) {
	packed := bytes.NewReader(raw)
	unzip, err := gzip.NewReader(packed)
	if err != nil {
		return nil, fmt.Errorf("the bundle is no gzip archive: %w", err)
	}
	unzip.Multistream(false)
	body := &bounded{from: unzip, left: int64(limits.Bytes)}
	s := screening{limits: limits, verifier: v, seen: map[string]bool{}, left: int64(limits.Bytes)}
	archive := tar.NewReader(body)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("the bundle is no whole tar archive: %w", err)
		}
		if err := s.entry(header, archive); err != nil {
			return nil, err
		}
	}
	// Only the end of the stream shows that it is whole: its checksum is there.
	if _, err := io.Copy(io.Discard, body); err != nil {
		return nil, fmt.Errorf("the bundle is no whole gzip archive: %w", err)
	}
	if packed.Len() > 0 {
		return nil, fmt.Errorf("%d bytes follow the bundle's archive", packed.Len())
	}
	return s.unused, nil
}

// screening is what is known of the entries so far.
type screening struct {
	limits   Limits
	verifier *verifier
	seen     map[string]bool
	left     int64 // bytes; a sparse file takes none of the archive
	unused   []string
}

// maxUnused bounds how much of what has no effect is told of.
const maxUnused = 10

// ignores notes something that is there and has no effect.
func (s *screening) ignores(what string) {
	if len(s.unused) < maxUnused {
		s.unused = append(s.unused, what)
	}
}

// manifestKeys are what a manifest can say.
var manifestKeys = []string{"revision", "roots", "wasm", "rego_version", "file_rego_versions", "metadata"}

// manifest looks for keys that nobody reads: without roots, a bundle has all of them.
func (s *screening) manifest(text []byte) {
	var keys map[string]json.RawMessage
	if json.Unmarshal(text, &keys) != nil {
		return // the reader says it
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(manifestKeys, key) {
			s.ignores(fmt.Sprintf("the manifest has no key %.40q; it is ignored", key))
		}
	}
}

func (s *screening) entry(header *tar.Header, content io.Reader) error {
	switch header.Typeflag {
	case tar.TypeXGlobalHeader: // git archive writes one
		return nil
	case tar.TypeReg, tar.TypeDir:
	default:
		return fmt.Errorf("the bundle holds %.200q, which is neither a file nor a directory", header.Name)
	}
	name, err := plainName(header.Name)
	if err != nil {
		return err
	}
	if name == "" { // the directory itself
		return nil
	}
	switch {
	case s.seen[name]:
		return fmt.Errorf("the bundle holds %s twice", name)
	case len(s.seen) >= s.limits.Files:
		return fmt.Errorf("%w: more than %d files", errTooMuch, s.limits.Files)
	case strings.Count(name, "/") >= s.limits.Depth:
		return fmt.Errorf("%w: %s is nested more than %d directories deep", errTooMuch, name, s.limits.Depth)
	case header.Size < 0 || header.Size > s.left:
		return fmt.Errorf("%w: more than %s unpacked", errTooMuch, s.limits.Bytes)
	}
	s.seen[name] = true
	s.left -= header.Size
	if header.Typeflag == tar.TypeDir {
		return nil
	}
	if path.Base(name) == "patch.json" {
		return errors.New("this is a delta bundle, which cannot be signed; Postern takes whole bundles only")
	}
	if base := path.Base(name); base == "policy.wasm" || base == "plan.json" {
		s.ignores(fmt.Sprintf("%.200s is ignored: Postern evaluates Rego only", name))
	}
	if err := s.verifier.mayExclude(name); err != nil {
		return err
	}
	return s.data(name, content)
}

// data has the files read whose text may have two readings.
func (s *screening) data(name string, content io.Reader) error {
	strict := name
	switch base := path.Base(name); {
	case strings.HasSuffix(base, ".manifest"), base == ".signatures.json":
		strict = name + ".json"
	case !isData(name):
		return nil
	}
	text, err := io.ReadAll(content)
	if err != nil {
		return fmt.Errorf("the bundle is no whole tar archive: %w", err)
	}
	if name == manifestFile {
		s.manifest(text)
	}
	return rego.CheckData(strict, text, s.limits.Depth)
}

func isData(name string) bool {
	switch path.Base(name) {
	case "data.json", "data.yaml", "data.yml":
		return true
	}
	return false
}

// isPolicy says that a file has a part in decisions.
func isPolicy(name string) bool {
	return isData(name) || strings.HasSuffix(name, ".rego") || strings.HasSuffix(name, ".manifest") || strings.HasSuffix(name, ".manifest.pb")
}

// plainName returns the name without a leading slash; "" is the root.
func plainName(name string) (string, error) {
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	up := false
	for step := range strings.SplitSeq(name, "/") {
		up = up || step == ".."
	}
	odd := strings.ContainsFunc(name, func(r rune) bool { return r == '\\' || r == utf8.RuneError || unicode.IsControl(r) })
	if up || odd || len(name) > 1024 {
		return "", fmt.Errorf("the bundle holds the name %.200q, which may lead elsewhere", name)
	}
	return clean, nil
}

// bounded is a reader that fails after so many bytes, rather than to end.
type bounded struct {
	from io.Reader
	left int64
}

// Read implements io.Reader.
func (b *bounded) Read(into []byte) (int, error) {
	if b.left <= 0 {
		if n, err := b.from.Read(make([]byte, 1)); n == 0 {
			return 0, err
		}
		return 0, errTooMuch
	}
	if int64(len(into)) > b.left {
		into = into[:b.left]
	}
	n, err := b.from.Read(into)
	b.left -= int64(n)
	return n, err
}
