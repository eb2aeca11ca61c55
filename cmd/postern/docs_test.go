package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server"
	"github.com/postern-auth/postern/server/strictyaml"
)

// The pages are held against the code that they speak of. What a block of a page
// is follows from its fence:
//
//	console      lines after "$ " are run, one after the other, in a directory of
//	             the page's own, and print what follows them
//	yaml, rego   a first line "# NAME" makes the block the file NAME: of the
//	             repository if it has one, or else of that directory; a block
//	             without is a part of a configuration
//	sh           commands for a shell; those of postern exist, with these flags
//	json         is JSON
//	text         a picture
//
// In what a command prints, a line "…" stands for any lines, "…" at the end of a
// line for the rest of it, and ids, times, durations and keys for others of their
// kind.

const repository = "../.."

// docPage is one page, by its path in the repository.
type docPage struct {
	name, text string
	blocks     []docBlock
}

// docBlock is a fenced block of a page.
type docBlock struct {
	at, language, text string
}

// file is the name that the first line gives the block, or "".
func (b *docBlock) file() string {
	first, _, _ := strings.Cut(b.text, "\n")
	name, named := strings.CutPrefix(first, "# ")
	if !named || strings.Contains(name, " ") {
		return ""
	}
	return name
}

func docPages(t *testing.T) []docPage {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(repository, "docs", "*.md"))
	if err != nil || len(names) < 6 {
		t.Fatalf("%d pages, %v", len(names), err)
	}
	names = append(names, filepath.Join(repository, "README.md"))
	pages := make([]docPage, len(names))
	for i, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		rel, _ := filepath.Rel(repository, name)
		pages[i] = docPage{name: filepath.ToSlash(rel), text: string(text)}
		pages[i].blocks = fencedBlocks(pages[i].name, pages[i].text)
	}
	return pages
}

func docPageNamed(t *testing.T, name string) *docPage {
	t.Helper()
	pages := docPages(t)
	i := slices.IndexFunc(pages, func(p docPage) bool { return p.name == name })
	if i < 0 {
		t.Fatalf("there is no page %s", name)
	}
	return &pages[i]
}

func fencedBlocks(name, text string) (all []docBlock) {
	var open *docBlock
	for i, line := range strings.Split(text, "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && open == nil:
			open = &docBlock{at: fmt.Sprintf("%s:%d", name, i+1), language: fence}
		case isFence:
			all, open = append(all, *open), nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	return all
}

// TestPages runs every page, block by block. Each subtest is a page.
func TestPages(t *testing.T) {
	t.Parallel()
	for _, p := range docPages(t) {
		t.Run(strings.TrimSuffix(path.Base(p.name), ".md"), func(t *testing.T) {
			t.Parallel()
			sh := docShell{dir: t.TempDir()}
			var configurations []string
			for _, b := range p.blocks {
				switch b.language {
				case "console":
					sh.console(t, b)
				case "yaml", "rego":
					if name := putFile(t, sh.dir, b); strings.HasPrefix(b.text, "# "+name+"\nversion: 1\n") {
						configurations = append(configurations, name)
					}
				case "sh":
					checkCommands(t, b)
				case "json":
					if !json.Valid([]byte(b.text)) {
						t.Errorf("%s: not JSON", b.at)
					}
				case "text":
				default:
					t.Errorf("%s: %q is no kind of block: see the top of this file", b.at, b.language)
				}
			}
			for _, name := range configurations {
				verifyConfiguration(t, sh.dir, name)
			}
		})
	}
}

// putFile writes the file of a block and returns its name. What is not a file is
// a part of a configuration, which must be one with its version in front. A file
// of the repository must hold the block, at any indentation.
func putFile(t *testing.T, dir string, b docBlock) (name string) {
	t.Helper()
	name = b.file()
	if name == "" {
		if _, err := parseStandIn(dir, b.at, "version: 1\n"+b.text); b.language != "yaml" || err != nil {
			t.Errorf("%s: neither a file nor a part of a configuration: %v", b.at, err)
		}
		return ""
	}
	if real, err := os.ReadFile(filepath.Join(repository, name)); err == nil {
		_, text, _ := strings.Cut(b.text, "\n")
		if !strings.Contains(unindented(string(real)), unindented(text)) {
			t.Errorf("%s: not a part of %s", b.at, name)
		}
		return ""
	}
	full := filepath.Join(dir, filepath.FromSlash(name))
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o700), os.WriteFile(full, []byte(b.text), 0o600)); err != nil {
		t.Fatal(err)
	}
	return name
}

func unindented(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

const standInSecret = "9f3c1a7be25d4860917a6c5e0f8b2d34c8e15b7042d9f6a31e5d8c07b4a96f23"

// parseStandIn reads a configuration whose secrets are all there.
func parseStandIn(dir, name, text string) (*server.Config, error) {
	return server.ParseConfig(name, []byte(text), strictyaml.WithBase(dir),
		strictyaml.WithEnv(func(string) (string, bool) { return standInSecret, true }),
		strictyaml.WithFiles(func(file string) ([]byte, error) { return []byte(standInSecret), standIn(file, standInSecret) }))
}

// verifyConfiguration does what `postern config check` does, with stand-ins for
// the files that the page only speaks of.
func verifyConfiguration(t *testing.T, dir, name string) {
	t.Helper()
	full := filepath.Join(dir, name)
	text, err := os.ReadFile(full)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := parseStandIn(dir, name, string(text))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	absolute := func(file string) string {
		if file == "" || filepath.IsAbs(file) {
			return file
		}
		return filepath.Join(dir, file)
	}
	cert, key := selfSigned(t)
	files := map[string]string{absolute(cfg.APIKeys.File.String()): "keys: []\n"}
	if cfg.TLS != nil {
		files[cfg.TLS.Cert.String()], files[cfg.TLS.Key.String()], files[cfg.TLS.ClientCA.String()] = cert, key, cert
	}
	if cfg.Policy.Path != "" {
		files[filepath.Join(absolute(cfg.Policy.Path), "stand-in.yaml")] = "stand_in: true\n"
	}
	if cfg.MTLS != nil {
		for _, b := range cfg.MTLS.Bundles {
			files[b.File.String()] = cert
		}
	}
	for _, k := range cfg.Policy.Keys {
		files[k.File.String()] = publicKey(t, key)
	}
	for _, i := range cfg.Issuers {
		files[absolute(i.JWKSFile)] = `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	}
	delete(files, "")
	for file, text := range files {
		if err := standIn(file, text); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := server.Verify(t.Context(), full); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// standIn writes a file unless it is there.
func standIn(file, text string) error {
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600))
}

// publicKey is the public half of a private key in PEM.
func publicKey(t *testing.T, private string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(private))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.(crypto.Signer).Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// checkCommands looks for the commands of postern in a block for a shell and
// holds their flags and the number of their arguments against the command line.
func checkCommands(t *testing.T, b docBlock) {
	t.Helper()
	script := strings.ReplaceAll(b.text, "\\\n", " ")
	for line := range strings.Lines(script) {
		for _, words := range pipeline(t, b.at, line) {
			words, _ := redirected(words)
			if args, ours := posternArgs(words); ours {
				if err := parses(args, true); err != nil {
					t.Errorf("%s: %s: %v", b.at, strings.TrimSpace(line), err)
				}
			}
		}
	}
}

// parses reports what is wrong with the arguments of postern; with whole, they
// are all there.
func parses(args []string, whole bool) error {
	cmd, rest, err := newRoot().Find(args)
	if err != nil {
		return err
	}
	if cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return fmt.Errorf("there is no command %q", rest[0])
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if !whole {
		return nil
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// posternArgs returns the arguments if the words are a call of postern.
func posternArgs(words []string) (args []string, ours bool) {
	if len(words) > 0 && words[0] == "postern" {
		return words[1:], true
	}
	if len(words) > 2 && slices.Equal(words[:3], []string{"go", "run", "./cmd/postern"}) {
		return words[3:], true
	}
	return nil, false
}

// inlineCode is code within a sentence.
var inlineCode = regexp.MustCompile("`([^`\n]+)`")

// TestPageCode finds commands and settings in the sentences of the pages, and
// holds them against the command line and the configuration.
func TestPageCode(t *testing.T) {
	t.Parallel()
	settings := map[string]bool{}
	settingsOf(reflect.TypeFor[server.Config](), "", settings)
	setting := regexp.MustCompile(`^[a-z_]+(\.[a-z_]+)+$`)
	found := 0
	for _, p := range docPages(t) {
		for _, m := range inlineCode.FindAllStringSubmatch(p.prose(), -1) {
			section, _, _ := strings.Cut(m[1], ".")
			args, isCommand := strings.CutPrefix(m[1], "postern ")
			switch {
			case isCommand:
				found++
				if err := parses(strings.Fields(args), false); err != nil {
					t.Errorf("%s: `%s`: %v", p.name, m[1], err)
				}
			case settings[section] && setting.MatchString(m[1]):
				found++
				if !settings[m[1]] {
					t.Errorf("%s: there is no setting `%s`", p.name, m[1])
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d commands and settings in all pages", found)
	}
}

// prose is the page without its blocks.
func (p *docPage) prose() string {
	var b strings.Builder
	inside := false
	for line := range strings.Lines(p.text) {
		if strings.HasPrefix(line, "```") {
			inside = !inside
		} else if !inside {
			b.WriteString(line)
		}
	}
	return b.String()
}

// settingsOf collects the paths of all settings, those within lists and maps
// without index.
func settingsOf(typ reflect.Type, at string, into map[string]bool) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		settingsOf(typ.Elem(), at, into)
	case reflect.Struct:
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			switch {
			case !f.IsExported() || name == "-":
			case strings.Contains(options, "inline"):
				settingsOf(f.Type, at, into)
			case name != "":
				full := strings.TrimPrefix(at+"."+name, ".")
				into[full] = true
				settingsOf(f.Type, full, into)
			}
		}
	}
}

// TestPageLinks follows every link that stays inside the repository.
func TestPageLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, p := range docPages(t) {
		for _, m := range link.FindAllStringSubmatch(p.prose(), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			full := filepath.Join(repository, path.Dir(p.name), target)
			if target == "" {
				full = filepath.Join(repository, p.name)
			}
			text, err := os.ReadFile(full)
			if info, statErr := os.Stat(full); statErr == nil && info.IsDir() {
				err = nil
			}
			if err != nil || anchor != "" && !slices.Contains(anchors(string(text)), anchor) {
				t.Errorf("%s: the link %s leads nowhere", p.name, m[1])
			}
		}
	}
}

// anchors are the headings of a page as links name them.
func anchors(text string) (all []string) {
	drop := regexp.MustCompile(`[^a-z0-9 _-]`)
	for line := range strings.Lines(text) {
		if heading := strings.TrimLeft(line, "#"); len(heading) < len(line) {
			slug := drop.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			all = append(all, strings.ReplaceAll(slug, " ", "-"))
		}
	}
	return all
}

// TestPageLengths keeps a page to one question: 60 lines of sentences.
func TestPageLengths(t *testing.T) {
	t.Parallel()
	for _, p := range docPages(t) {
		n := 0
		for line := range strings.Lines(p.prose()) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "#") {
				n++
			}
			if length := len([]rune(line)); length > 100 && !strings.HasPrefix(line, "|") {
				t.Errorf("%s: a line of %d characters: %s", p.name, length, line)
			}
		}
		if n > 60 {
			t.Errorf("%s has %d lines of sentences, at most 60 are wanted", p.name, n)
		}
	}
}

// tableRows are the rows of the table whose header begins so, cell by cell and
// without the quotes of code.
func tableRows(t *testing.T, page, header string) (rows [][]string) {
	t.Helper()
	inside := false
	for line := range strings.Lines(docPageNamed(t, page).text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, header):
			inside = true
		case !strings.HasPrefix(line, "|"):
			inside = false
		case inside && !strings.HasPrefix(line, "|-"):
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
			}
			rows = append(rows, cells)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("%s has no table %q", page, header)
	}
	return rows
}

// The page names every reason there is, in order, with its status and with what
// the client is told.
func TestPageOfReasons(t *testing.T) {
	t.Parallel()
	rows := tableRows(t, "docs/reasons.md", "| reason")
	all := policy.Reasons()
	if len(rows) != len(all) {
		t.Errorf("%d rows for %d reasons", len(rows), len(all))
	}
	for i := range min(len(rows), len(all)) {
		r := all[i]
		if want := []string{r.String(), strconv.Itoa(r.Status()), r.Public()}; !slices.Equal(rows[i][:3], want) {
			t.Errorf("row %d is %v, not %v", i+1, rows[i][:3], want)
		}
	}
}

// Every promise of the page names tests, and they are there.
func TestPageOfPromises(t *testing.T) {
	t.Parallel()
	there := map[string]bool{}
	err := filepath.WalkDir(repository, func(name string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := os.ReadFile(name)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`).FindAllSubmatch(text, -1) {
			there[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range tableRows(t, "docs/security.md", "| promise") {
		named := regexp.MustCompile(`Test\w+`).FindAllString(row[1], -1)
		if len(named) == 0 {
			t.Errorf("nothing tests %q", row[0])
		}
		for _, name := range named {
			if !there[name] {
				t.Errorf("%q is tested by %s, which is not there", row[0], name)
			}
		}
	}
}

// The page names every section of the configuration.
func TestPageOfSections(t *testing.T) {
	t.Parallel()
	var documented, real []string
	for _, row := range tableRows(t, "docs/configuration.md", "| section") {
		documented = append(documented, row[0])
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[server.Config]()) {
		if name, _, _ := strings.Cut(field.Tag.Get("yaml"), ","); name != "" && len(field.Index) <= 2 {
			real = append(real, name)
		}
	}
	if !slices.Equal(documented, real) {
		t.Errorf("documented %v\nreal       %v", documented, real)
	}
}

// metricsConfig is a server that has all there is to measure.
const metricsConfig = `version: 1
api_keys: {pepper: "${file:pepper}", file: keys.yaml}
issuers: [{url: https://login.example.com, audiences: [orders], jwks_file: jwks.json}]
credentials:
  - {from: header:authorization/bearer, use: [api_key, jwt, oauth]}
introspection: [{issuer: "https://as.example.com", url: "https://as.example.com/introspect", bearer_token: "${file:pepper}", audiences: [orders]}]
decisions: {events: {file: {path: decisions.jsonl}}}
rates: [{name: calls, limit: 100}]
audit: {journal: {path: journal.jsonl}}
tracing: {endpoint: "http://127.0.0.1:1"}
`

// bundlesConfig is a policy in a bundle that nothing serves.
const bundlesConfig = `policy:
  bundles: [{name: a, url: "https://127.0.0.1:1/a.tar.gz"}]
  keys: [{id: k, file: k.pub.pem}]
`

// scrapes starts servers that between them have all there is to measure, and returns
// what each says.
func scrapes(t *testing.T) (texts []string) {
	t.Helper()
	for _, policy := range []string{"policy: {path: policy}", bundlesConfig} {
		sh := docShell{dir: t.TempDir()}
		if err := os.WriteFile(filepath.Join(sh.dir, "postern.yaml"), []byte(metricsConfig+policy), 0o600); err != nil {
			t.Fatal(err)
		}
		verifyConfiguration(t, sh.dir, "postern.yaml")
		sh.run(t, "here", "postern serve")
		sh.run(t, "here", "postern check https://api.example.com/")
		texts = append(texts, sh.run(t, "here", "curl -s http://127.0.0.1:9192/metrics"))
	}
	return texts
}

// TestPageOfMetrics scrapes a server and holds names, types and labels against the
// page.
func TestPageOfMetrics(t *testing.T) {
	t.Parallel()
	documented := map[string]string{}
	for _, row := range tableRows(t, "docs/operations.md", "| metric") {
		documented[row[0]] = row[1] + " " + strings.ReplaceAll(row[2], "`", "")
	}
	real := map[string]string{}
	for _, text := range scrapes(t) {
		for name, m := range scrapedMetrics(text) {
			real[name] = m.kind + " " + strings.Join(m.labels, ", ")
		}
	}
	if !maps.Equal(documented, real) {
		for _, name := range slices.Sorted(maps.Keys(real)) {
			t.Logf("| `%s` | %s |", name, real[name])
		}
		t.Errorf("documented %v\nreal       %v", documented, real)
	}
}

type scrapedMetric struct {
	kind   string
	labels []string
}

// scrapedMetrics reads Prometheus's text format, as far as names, types and labels
// go. The label le is a histogram's own.
func scrapedMetrics(text string) map[string]scrapedMetric {
	all := map[string]scrapedMetric{}
	label := regexp.MustCompile(`([a-z_]+)="`)
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "# TYPE postern_"); ok {
			name, kind, _ := strings.Cut(strings.TrimSpace(rest), " ")
			all["postern_"+name] = scrapedMetric{kind: kind}
			continue
		}
		name, labels, _ := strings.Cut(line, "{")
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if m, ok := all[strings.TrimSuffix(name, suffix)]; ok && m.kind == "histogram" {
				name = strings.TrimSuffix(name, suffix)
			}
		}
		m, ok := all[name]
		if !ok || len(m.labels) > 0 {
			continue
		}
		for _, found := range label.FindAllStringSubmatch(labels, -1) {
			if found[1] != "le" {
				m.labels = append(m.labels, found[1])
			}
		}
		slices.Sort(m.labels)
		all[name] = m
	}
	return all
}

// The page explains settings that the sample has.
func TestPageOfEnvoy(t *testing.T) {
	t.Parallel()
	sample, err := os.ReadFile(filepath.Join(repository, "deploy", "envoy", "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range tableRows(t, "docs/envoy.md", "| setting") {
		if !strings.Contains(string(sample), row[0]) {
			t.Errorf("the sample has no %s", row[0])
		}
	}
}

// The page puts every package on its floor, and every package is on the page.
func TestPageOfFloors(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, row := range tableRows(t, "docs/architecture.md", "| floor") {
		for _, pkg := range strings.Split(row[1], ",") {
			pkg = strings.Trim(pkg, " `")
			documented[pkg] = true
			if real := max(0, floor(t, pkg)); strconv.Itoa(real) != row[0] {
				t.Errorf("%s is on floor %d, not %s", pkg, real, row[0])
			}
		}
	}
	for _, root := range []string{"cmd", "policy", "server"} {
		err := filepath.WalkDir(filepath.Join(repository, root), func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			sources, _ := filepath.Glob(filepath.Join(name, "*.go"))
			rel, _ := filepath.Rel(repository, name)
			pkg := filepath.ToSlash(rel)
			isTests := strings.HasSuffix(pkg, "test")
			if len(sources) > 0 && !documented[pkg] && !isTests {
				t.Errorf("the page does not show %s", pkg)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The commands that reproduce the figures have flags and scenarios that exist.
func TestPageOfFigures(t *testing.T) {
	t.Parallel()
	var sources string
	for _, name := range []string{"main.go", "fixture.go"} {
		text, err := os.ReadFile(filepath.Join(repository, "bench", name))
		if err != nil {
			t.Fatal(err)
		}
		sources += string(text)
	}
	commands := regexp.MustCompile(`go run ./bench((?: -[a-z]+(?: [a-z0-9.-]+)?)*)`).FindAllStringSubmatch(docPageNamed(t, "docs/performance.md").text, -1)
	if len(commands) < 3 {
		t.Errorf("only %d commands", len(commands))
	}
	for _, c := range commands {
		words := strings.Fields(c[1])
		for i, word := range words {
			switch flag, isFlag := strings.CutPrefix(word, "-"); {
			case isFlag && !strings.Contains(sources, `&s.`+flag+`, "`+flag+`"`):
				t.Errorf("go run ./bench%s: there is no flag -%s", c[1], flag)
			case i > 0 && words[i-1] == "-only" && !strings.Contains(sources, `name: "`+word) && word != "startup":
				t.Errorf("go run ./bench%s: there is no scenario %s", c[1], word)
			}
		}
	}
}

// docShell runs the few commands that pages need, without a shell: postern, curl,
// rm, echo, printf TEXT and openssl rand. A server listens on free ports, which go by the names
// 127.0.0.1:9191, 9192 and 9190 in commands and outputs.
type docShell struct {
	dir string
	// status, key and decision are the last exit status, the demo key of the
	// server and the last decision's id.
	status        int
	key, decision string
	// ports are pairs of a real address and its name.
	ports []string
}

// console runs the commands of a block and compares what they print.
func (s *docShell) console(t *testing.T, b docBlock) {
	t.Helper()
	for _, step := range strings.Split("\n"+b.text, "\n$ ")[1:] {
		command, want, _ := strings.Cut(step, "\n")
		for strings.HasSuffix(command, "\\") {
			var more string
			more, want, _ = strings.Cut(want, "\n")
			command = strings.TrimSuffix(command, "\\") + " " + strings.TrimPrefix(more, "> ")
		}
		got := s.run(t, b.at, command)
		if !prints(want, got) {
			t.Errorf("%s: $ %s\nprints\n%s\nnot\n%s", b.at, command, got, want)
		}
	}
}

// run runs one command and returns what a terminal would show.
func (s *docShell) run(t *testing.T, at, line string) string {
	t.Helper()
	stages := pipeline(t, at, s.expand(line))
	if len(stages) != 1 {
		t.Fatalf("%s: %d commands in one line", at, len(stages))
	}
	words, into := redirected(stages[0])
	var stdout *os.File
	if into != "" {
		f, err := os.Create(filepath.Join(s.dir, into))
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		defer f.Close()
		stdout = f
	}
	out := s.command(t, at, words, stdout)
	return strings.NewReplacer(append(s.ports, s.dir, ".")...).Replace(out)
}

// redirected takes the redirections out of a command and returns where its output
// goes.
func redirected(words []string) (command []string, into string) {
	for i := 0; i < len(words); i++ {
		if (words[i] == ">" || words[i] == "<") && i+1 < len(words) {
			if i++; words[i-1] == ">" {
				into = words[i]
			}
			continue
		}
		command = append(command, words[i])
	}
	return command, into
}

func (s *docShell) command(t *testing.T, at string, words []string, stdout *os.File) (shown string) {
	t.Helper()
	args, ours := posternArgs(words)
	switch {
	case ours && len(args) > 0 && args[0] == "serve":
		return s.serve(t, args)
	case ours:
		return s.postern(t, args, stdout)
	case words[0] == "echo":
		return strings.Join(words[1:], " ") + "\n"
	case words[0] == "printf":
		fmt.Fprint(stdout, words[1])
		return ""
	case words[0] == "openssl":
		secret := make([]byte, 32)
		_, _ = rand.Read(secret)
		fmt.Fprintf(stdout, "%x\n", secret)
		return ""
	case words[0] == "rm":
		if err := os.Remove(filepath.Join(s.dir, words[1])); err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		return ""
	case words[0] == "curl" && len(words) == 3 && words[1] == "-s":
		return s.curl(t, words[2])
	case words[0] == "curl":
		if _, err := exec.LookPath("curl"); err != nil {
			t.Skip("there is no curl for the rest of the page")
		}
		return s.program(t, words, nil)
	}
	t.Fatalf("%s: this test cannot run %s", at, words[0])
	return ""
}

// postern runs the command in a process of its own.
func (s *docShell) postern(t *testing.T, args []string, stdout *os.File) string {
	t.Helper()
	if args[0] == "check" && !slices.Contains(args, "-c") && !slices.Contains(args, "--server") {
		args = append(args, "--server", "127.0.0.1:9191")
	}
	if args[0] == "explain" && !slices.Contains(args, "--admin") {
		args = append(args, "--admin", "127.0.0.1:9192")
	}
	if asksAdmin(args) {
		args = append(args, "--server", "127.0.0.1:9192")
	}
	out := s.program(t, append([]string{"postern"}, args...), stdout)
	if id := decisionID.FindString(out); id != "" {
		s.decision = id
	}
	return out
}

// asksAdmin reports whether the command talks to the admin API.
func asksAdmin(args []string) bool {
	cmd, _, err := newRoot().Find(args)
	return err == nil && cmd.Flags().Lookup("token-file") != nil && cmd.Flags().Lookup("server") != nil
}

// program runs a program in the page's directory.
func (s *docShell) program(t *testing.T, words []string, stdout *os.File) string {
	t.Helper()
	for i := range words {
		words[i] = s.real(words[i])
	}
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	var shown bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, &shown, &shown
	if stdout != nil {
		cmd.Stdout = stdout
	}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	s.status = cmd.ProcessState.ExitCode()
	return shown.String()
}

// serve starts a server and returns what it prints to standard output once it is
// ready.
func (s *docShell) serve(t *testing.T, args []string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "postern", append(args, "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0")...)
	cmd.Dir = s.dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	stdout, outErr := cmd.StdoutPipe()
	stderr, errErr := cmd.StderrPipe()
	if err := errors.Join(outErr, errErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	ready := struct{ Msg, GRPC, Admin, HTTP string }{}
	var log bytes.Buffer
	for lines := json.NewDecoder(io.TeeReader(stderr, &log)); ready.Msg != "ready"; {
		if err := lines.Decode(&ready); err != nil {
			t.Fatalf("the server is not ready: %v\n%s", err, &log)
		}
	}
	go func() { _, _ = io.Copy(io.Discard, stderr) }()
	s.ports = []string{ready.GRPC, "127.0.0.1:9191", ready.Admin, "127.0.0.1:9192"}
	if ready.HTTP != "" {
		s.ports = append(s.ports, ready.HTTP, "127.0.0.1:9190")
	}
	if !slices.Contains(args, "--dev") {
		return ""
	}
	banner := make([]byte, 1<<16) // it is written in one piece
	n, err := stdout.Read(banner)
	if err != nil {
		t.Fatal(err)
	}
	s.key = demoKey.FindString(string(banner[:n]))
	return string(banner[:n])
}

// real puts the server's addresses where the page names others.
func (s *docShell) real(text string) string {
	for i := 0; i+1 < len(s.ports); i += 2 {
		text = strings.ReplaceAll(text, s.ports[i+1], s.ports[i])
	}
	return text
}

func (s *docShell) curl(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(s.real(url))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// expand puts in the last status, and what differs from run to run: the demo key
// of a server, which a page cuts off, and the last decision's id.
func (s *docShell) expand(line string) string {
	line = strings.ReplaceAll(line, "$?", strconv.Itoa(s.status))
	if s.key != "" {
		line = cutKey.ReplaceAllString(line, s.key)
	}
	if s.decision != "" {
		line = decisionID.ReplaceAllString(line, s.decision)
	}
	return line
}

// pipeline splits a line into commands and these into words. Quotes keep words
// together; "<" and ">" are words of their own; a comment ends the line.
func pipeline(t *testing.T, at, line string) (commands [][]string) {
	t.Helper()
	var words []string
	word, inWord, quote := "", false, rune(0)
	end := func() {
		if inWord {
			words = append(words, word)
		}
		word, inWord = "", false
	}
	comment := false
	for _, c := range line {
		switch {
		case comment:
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word += string(c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == '#' && !inWord:
			comment = true
		case c == ' ' || c == '\n' || c == '\t':
			end()
		case c == '<' || c == '>':
			end()
			words = append(words, string(c))
		case c == '|' || c == ';' || c == '&':
			end()
			if len(words) > 0 {
				commands, words = append(commands, words), nil
			}
		default:
			word += string(c)
			inWord = true
		}
	}
	end()
	if quote != 0 {
		t.Errorf("%s: a quote is not closed: %s", at, line)
	}
	if len(words) > 0 {
		commands = append(commands, words)
	}
	return commands
}

// What differs from run to run, and what stands for it. No secret of a run
// belongs into a page: keys are cut off with "…".
var (
	demoKey    = regexp.MustCompile(`pst_key_[0-9A-Za-z_]{60,}`)
	cutKey     = regexp.MustCompile(`pst_key_[0-9A-Za-z_]+…`)
	decisionID = regexp.MustCompile(`\b[0-9a-z]{19}\b`)
	volatile   = []struct {
		pattern *regexp.Regexp
		by      string
	}{
		{regexp.MustCompile(`pst_[0-9A-Za-z_]{20,}…?`), "KEY"},
		{decisionID, "DECISION"},
		{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "DIGEST"},
		{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "REVISION"},
		{regexp.MustCompile(`((?:credential|key|id:|credential_id":) +"?)[0-9A-Za-z]{12}\b`), "${1}ID"},
		{regexp.MustCompile(`\b20\d\d-\d\d-\d\d(T[0-9:.]+(Z|[+-]\d\d:\d\d))?`), "TIME"},
		{regexp.MustCompile(`\b[0-9.]+(ns|µs|ms|s)\b`), "DURATION"},
		{regexp.MustCompile(`\S*/postern-dev-[0-9]+`), "DIRECTORY"},
	}
)

func stable(text string) []string {
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.by)
	}
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

// prints reports whether an output is the one that a page shows.
func prints(want, got string) bool {
	return matchLines(stable(want), stable(got))
}

func matchLines(want, got []string) bool {
	switch {
	case len(want) == 0:
		return len(got) == 0
	case want[0] == "…":
		return matchLines(want[1:], got) || len(got) > 0 && matchLines(want, got[1:])
	case len(got) == 0:
		return false
	}
	head, cut := strings.CutSuffix(want[0], "…")
	same := want[0] == got[0] || cut && strings.HasPrefix(got[0], head)
	return same && matchLines(want[1:], got[1:])
}

func TestPrints(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		want, got string
		same      bool
	}{
		{"a\nb\n", "a\nb\n", true},
		{"a\n", "a\nb\n", false},
		{"a\nb\n", "a\n", false},
		{"a\n…\nd\n", "a\nb\nc\nd\n", true},
		{"a\n…\nd\n", "a\nb\nc\n", false},
		{"…\n", "", true},
		{"policy  38e28ac2a35a\n", "policy  707659772d4b\n", true},
		{"allow…\n", "allow, and more\n", true},
		{"allow…\n", "deny\n", false},
		{"reason  allowed\n", "reason  denied\n", false},
	} {
		if prints(tt.want, tt.got) != tt.same {
			t.Errorf("%q, %q: %v", tt.want, tt.got, !tt.same)
		}
	}
}
