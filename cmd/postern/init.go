package main

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/deploy"
)

func initCommand() *cobra.Command {
	in := initiation{flags: map[string]string{}}
	var list bool
	cmd := &cobra.Command{
		Use:   "init [SAMPLE]",
		Short: "Write a configuration to start from, or a sample of deploy/",
		Long: `Writes a small configuration that works: postern.yaml, a policy of tables, a pepper
that only you can read, and a keys file with the digest of a demo key. The key itself
is shown once.

With the name of a sample it writes that: a gateway that asks Postern, a place to run it
in, or what watches it. A gateway on this machine gets a configuration beside it, unless
there is one.

Nothing that exists is replaced without --force, and a pepper and a keys file not even
then: whoever loses the pepper loses every key.`,
		Example: `  postern init
  postern init --list
  postern init envoy --dir edge --app 127.0.0.1:3000
  postern init nginx --listen 127.0.0.1:8443 --app app.internal:8080
  postern init kubernetes --dir deploy --image ghcr.io/acme/postern
  postern init envoy-gateway --host api.example.com`,
		Args: arguments(0, 1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return sampleNames(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return listSamples(cmd.OutOrStdout())
			}
			return in.run(args, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.dir, "dir", ".", "directory to write to; it is made if it is not there")
	f.BoolVar(&in.force, "force", false, "replace what exists, but for a pepper and a keys file")
	f.BoolVar(&list, "list", false, "list the samples")
	for _, name := range parameterNames {
		f.Var(&parameterFlag{name, in.flags}, name, parameters[name].usage)
	}
	return cmd
}

// initiation is what somebody wants to have written.
type initiation struct {
	dir   string
	force bool
	flags map[string]string // parameters by flag

	written, kept []string
	key           string // the demo key, if there is a new one
}

// parameterNames are the flags with which samples are made one's own, in the order of
// the help.
var parameterNames = []string{"app", "postern", "listen", "host", "image"}

// parameters says what may stand in each flag. Values end up in files of many languages,
// so only what needs no quoting in any of them is let through.
var parameters = map[string]struct {
	usage, want string
	valid       func(string) bool
}{
	"app":     {"where the application is, as HOST:PORT", "an address such as 127.0.0.1:3000 or app.internal:8080", isAddress},
	"postern": {"where the gateway finds Postern, as HOST:PORT", "an address such as 127.0.0.1:9191", isAddress},
	"listen":  {"where the gateway listens, as IP:PORT", "an IP address and a port, such as 0.0.0.0:8443", isListen},
	"host":    {"the host that clients ask for", "a name such as api.example.com", isHost},
	"image":   {"the image of Postern, without a tag", "a name such as ghcr.io/acme/postern", isImage},
}

// parameterFlag is one of them; it refuses what may not stand there.
type parameterFlag struct {
	name string
	into map[string]string
}

func (*parameterFlag) Type() string     { return "string" }
func (f *parameterFlag) String() string { return f.into[f.name] }
func (f *parameterFlag) Set(s string) error {
	if p := parameters[f.name]; !p.valid(s) {
		return errors.New("give " + p.want)
	}
	f.into[f.name] = s
	return nil
}

var (
	hostForm  = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	imageForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*$`)
	allDigits = regexp.MustCompile(`(^|\.)[0-9]+$`) // such a host is an address, and a wrong one
)

func isHost(s string) bool {
	return len(s) <= 253 && hostForm.MatchString(s) && !allDigits.MatchString(s)
}

func isImage(s string) bool { return len(s) <= 255 && imageForm.MatchString(s) }

func isAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !isPort(port) {
		return false
	}
	return isIP(host) || isHost(host)
}

func isListen(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && isPort(port) && isIP(host)
}

func isIP(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Zone() == ""
}

// isLoopback reports whether an address is one of this machine alone.
func isLoopback(s string) bool {
	at, err := netip.ParseAddrPort(s)
	return err == nil && at.Addr().IsLoopback()
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}

func sampleNames() (all []string) {
	for _, s := range samples {
		all = append(all, s.name)
	}
	return all
}

func listSamples(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range samples {
		fmt.Fprintf(t, "%s\t%s\n", s.name, s.short)
	}
	return t.Flush()
}

func (in *initiation) run(args []string, out io.Writer) error {
	s := starter
	if len(args) > 0 {
		i := slices.IndexFunc(samples, func(s deployed) bool { return s.name == args[0] })
		if i < 0 {
			return fmt.Errorf("there is no sample %q; there are %s", args[0], strings.Join(sampleNames(), ", "))
		}
		s = samples[i]
	}
	files, err := in.files(&s)
	if err != nil {
		return err
	}
	if err := in.addStart(&s, files); err != nil {
		return err
	}
	if err := in.write(files); err != nil {
		return err
	}
	if _, starts := files["postern.yaml"]; s.secrets || s.start != "" && starts {
		if err := in.writeSecrets(); err != nil {
			return err
		}
	}
	in.report(&s, out)
	return nil
}

// files are those of the sample as the flags change them, by where they are written to.
func (in *initiation) files(s *deployed) (map[string]string, error) {
	for name := range in.flags {
		if _, has := s.standard[name]; !has {
			return nil, fmt.Errorf("%s has nothing for --%s to say", s.name, name)
		}
	}
	if at := in.flags[s.service]; at != "" {
		if host, _, _ := net.SplitHostPort(at); isIP(host) || strings.Contains(host, ".") {
			return nil, fmt.Errorf("--%s %s: give the name of a Service in the namespace, and its port, such as app:8080", s.service, at)
		}
	}
	all := map[string]string{}
	for _, f := range s.files {
		from, to, named := strings.Cut(f, " => ")
		err := fs.WalkDir(deploy.Files, from, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := deploy.Files.ReadFile(name)
			target := path.Base(name)
			if name != from {
				target = strings.TrimPrefix(name, from+"/")
			}
			if named {
				target = path.Join(to, target)
			}
			all[target] = string(text)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, s.exchange(all, in.flags)
}

// exchange puts the values in the places of the standard ones. All are found before any
// is replaced: a value may read like another's standard.
func (s *deployed) exchange(files, flags map[string]string) error {
	swaps := map[string][]string{} // by file: old and new in turn
	for _, name := range append(slices.Clone(parameterNames), inside) {
		value := cmp.Or(flags[name], s.set[name])
		if value == "" {
			continue
		}
		for _, p := range s.places[name] {
			was := p.with(s.standard[name])
			if !strings.Contains(files[p.file], was) {
				return fmt.Errorf("%s has no %q: this is a fault of postern", p.file, was)
			}
			swaps[p.file] = append(swaps[p.file], was, p.with(value))
		}
	}
	for file, pairs := range swaps {
		files[file] = strings.NewReplacer(pairs...).Replace(files[file])
	}
	return nil
}

// addStart adds a configuration for a gateway, unless there is one, or Postern runs on
// another machine.
func (in *initiation) addStart(s *deployed, files map[string]string) error {
	if s.start == "" {
		return nil
	}
	listens := map[string]string{"grpc": "127.0.0.1:9191", "gateway": "127.0.0.1:9193"}[s.start]
	if given := in.flags["postern"]; given != "" {
		if !isLoopback(given) {
			return nil
		}
		listens = given
	}
	if _, err := os.Lstat(in.path("postern.yaml")); err == nil && len(s.files) > 0 {
		in.kept = append(in.kept, "postern.yaml")
		return nil
	}
	for _, name := range []string{"postern.yaml", "policy/data.yaml"} {
		text, err := deploy.Files.ReadFile("start/" + name)
		if err != nil {
			return err
		}
		files[name] = string(text)
	}
	files["postern.yaml"] = startFor(s.start, listens, files["postern.yaml"])
	return nil
}

// startFor is the configuration with the listener that a gateway asks at.
func startFor(listener, at, text string) string {
	if listener == "grpc" {
		return strings.Replace(text, "grpc: 127.0.0.1:9191", "grpc: "+quoted(at), 1)
	}
	return strings.Replace(text, "  admin:", "  gateway: "+quoted(at)+" # gateways that speak HTTP ask here\n  admin:", 1) + plaintextStart
}

// quoted is an address in YAML; one of IPv6 would be a list.
func quoted(at string) string {
	if strings.HasPrefix(at, "[") {
		return strconv.Quote(at)
	}
	return at
}

// plaintextStart lets the samples be tried that listen without TLS.
const plaintextStart = `# The sample listens without TLS, on this machine. Remove this once your gateway ends TLS:
# without it Postern refuses credentials that anybody on the way could have read.
plaintext: { insecure_accept: true }
`

func (in *initiation) path(name string) string {
	return filepath.Join(in.dir, filepath.FromSlash(name))
}

// write writes all files, or none if one exists that may not be replaced.
func (in *initiation) write(files map[string]string) error {
	names := make([]string, 0, len(files))
	var there []string
	for name, text := range files {
		old, err := os.ReadFile(in.path(name))
		_, statErr := os.Lstat(in.path(name))
		switch {
		case err == nil && string(old) == text:
			in.kept = append(in.kept, name)
			continue
		case !errors.Is(statErr, fs.ErrNotExist) && !in.force:
			there = append(there, in.path(name))
		}
		names = append(names, name)
	}
	if slices.Sort(there); len(there) > 0 {
		return fmt.Errorf("nothing was written, because this exists: %s; give --force to replace it, or --dir for another place", strings.Join(there, ", "))
	}
	slices.Sort(in.kept)
	slices.Sort(names)
	for _, name := range names {
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		if err := in.put(name, files[name], mode); err != nil {
			return err
		}
	}
	return nil
}

// put writes a file aside and renames it: nobody reads half of one, and a link is
// replaced, not followed. Without --force a file that came in between stays.
func (in *initiation) put(name, text string, mode fs.FileMode) error {
	full := in.path(name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil { //nolint:gosec // what is secret is so by its own mode
		return err
	}
	if !in.force {
		f, err := os.OpenFile(full, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		in.written = append(in.written, name)
		return errors.Join(err, f.Close())
	}
	aside, err := os.CreateTemp(filepath.Dir(full), ".postern-init-")
	if err != nil {
		return err
	}
	_, err = aside.WriteString(text)
	if err = errors.Join(err, aside.Chmod(mode), aside.Close()); err == nil {
		err = os.Rename(aside.Name(), full)
	}
	if err != nil {
		return errors.Join(err, os.Remove(aside.Name()))
	}
	in.written = append(in.written, name)
	return nil
}

// writeSecrets makes a pepper and a demo key, unless there is a pepper.
func (in *initiation) writeSecrets() error {
	_, pepperErr := os.Lstat(in.path("pepper"))
	_, keysErr := os.Lstat(in.path("keys.yaml"))
	if pepperErr == nil {
		in.kept = append(in.kept, "pepper")
		if keysErr == nil {
			in.kept = append(in.kept, "keys.yaml")
			return nil
		}
	} else if keysErr == nil {
		return fmt.Errorf("%s is there without the pepper that its keys were made with; put that to it, or move it away", in.path("keys.yaml"))
	}
	if pepperErr != nil {
		pepper := make([]byte, 32)
		_, _ = rand.Read(pepper)
		in := &initiation{dir: in.dir} // never by force
		if err := in.put("pepper", hex.EncodeToString(pepper)+"\n", 0o600); err != nil {
			return err
		}
	}
	o := order{
		pepperFile: in.path("pepper"), kind: "key", id: "demo", principalKind: "service", roles: []string{"reader"},
		name: "the demo key of postern init", expiresIn: 90 * 24 * time.Hour,
	}
	secret, key, err := o.mint(time.Now())
	if err != nil {
		return err
	}
	if err := addEntry(in.path("keys.yaml"), key.Entry()); err != nil {
		return err
	}
	if pepperErr != nil {
		in.written = append(in.written, "pepper")
	}
	in.written, in.key = append(in.written, "keys.yaml"), secret.Reveal()
	return nil
}

// report says what was done, and what to do now.
func (in *initiation) report(s *deployed, out io.Writer) {
	for _, name := range in.written {
		fmt.Fprintln(out, "wrote", in.path(name))
	}
	for _, name := range in.kept {
		fmt.Fprintln(out, "kept ", in.path(name))
	}
	if slices.Contains(in.written, "pepper") {
		fmt.Fprintln(out, "\nBack up the pepper, without which no key can be verified, and keep it out of version control.")
	}
	if in.key != "" {
		fmt.Fprintf(out, "\nThe demo key, which may read. It is shown once:\n\n  KEY=%s\n", in.key)
	}
	fmt.Fprint(out, "\nNext:\n\n")
	if filepath.Clean(in.dir) != "." {
		fmt.Fprintf(out, "  cd %s\n", shellWord(in.dir))
	}
	value := func(name string) string { return cmp.Or(in.flags[name], s.set[name], s.standard[name]) }
	for _, line := range s.next {
		fmt.Fprintln(out, "  "+strings.NewReplacer("{program}", "postern", "{listen}", value("listen")).Replace(line))
	}
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./@%+=:,-]+$`)

// shellWord quotes a word for a shell, if it needs to be.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
