package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/strictyaml"
)

func keyCommand() *cobra.Command {
	cmd := group("key", "Manage the API keys of services and apps", keyMintCommand(),
		keys.issue("issue PRINCIPAL-ID", `  postern key issue billing-job --tenant acme --role writer --expires-in 30d
  postern key issue export --network 10.0.0.0/8 --method GET --path '/orders/**' --env live
  postern key issue acme/billing-job --scope orders:read -q > key.txt
  postern key issue billing-job --expires-in 7d --renew-period 7d --max-expires-at 90d`))
	cmd.AddCommand(keys.commands()...)
	return cmd
}

var keys = credentialSort{command: "key", name: "API key", names: "API keys", value: "api_key"}

// order is a key as somebody asked for it.
type order struct {
	config, pepperFile, prefix string
	kind, env, name, owner     string
	id, principalKind, tenant  string
	roles, scopes, permissions []string
	metadata                   map[string]string
	networks, methods, paths   []string
	peers                      []string
	expiresIn                  time.Duration
	allowWildcard, quiet       bool
	add                        string
}

func keyMintCommand() *cobra.Command {
	var o order
	cmd := &cobra.Command{
		Use:   "mint PRINCIPAL-ID",
		Short: "Mint a key: print it once, and keep only its digest",
		Long: `Mints a key of 256 random bits. The key goes to standard output, once; nothing
keeps it. Its entry for the keys file, which holds a digest only, goes to standard
error, or with --add into that file, which a running server reads at once.

The pepper comes from a configuration (-c) or from a file (--pepper-file).`,
		Example: `  postern key mint billing-job -c postern.yaml --tenant acme --role writer --add keys.yaml > key.txt
  postern key mint ann --kind pat --principal-kind user --scope orders:read --expires-in 720h -c postern.yaml
  postern key mint export --network 10.0.0.0/8 --method GET --path '/orders/**' -c postern.yaml --add keys.yaml
  openssl rand -hex 32 > pepper && postern key mint demo --pepper-file pepper`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.id = args[0]
			return o.deliver(time.Now(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	configFlag(cmd, &o.config, "", "configuration that names the pepper and the prefix")
	f.StringVar(&o.pepperFile, "pepper-file", "", "file with the pepper, if there is no configuration")
	f.StringVar(&o.prefix, "prefix", "", "prefix of the key (default: the configuration's, or pst)")
	f.StringVar(&o.kind, "kind", string(seal.KindKey), "key or pat (personal access token)")
	f.StringVar(&o.env, "env", "", "environment that stands in the key, such as live or test")
	f.StringVar(&o.name, "name", "", "what the key is for, in a few words")
	f.StringVar(&o.owner, "owner", "", "whom to ask about it")
	f.StringVar(&o.principalKind, "principal-kind", string(policy.KindService), "user, service, agent or device")
	f.StringVar(&o.tenant, "tenant", "", "the principal's tenant")
	f.StringArrayVar(&o.roles, "role", nil, "a role; repeatable")
	f.StringArrayVar(&o.scopes, "scope", nil, "a scope; repeatable")
	f.StringArrayVar(&o.permissions, "permission", nil, "a permission; repeatable")
	f.StringToStringVar(&o.metadata, "metadata", nil, "facts for the policy, as team=billing; repeatable")
	f.StringArrayVar(&o.networks, "network", nil, "CIDR from which it may be used; repeatable")
	f.StringArrayVar(&o.methods, "method", nil, "HTTP method with which it may be used; repeatable")
	f.StringArrayVar(&o.paths, "path", nil, "path pattern for which it may be used, such as /orders/**; repeatable")
	f.StringArrayVar(&o.peers, "peer", nil, "workload over whose TLS connection it must come: a SPIFFE id, a DNS name, or sha256: and a certificate's fingerprint; repeatable")
	f.DurationVar(&o.expiresIn, "expires-in", 90*24*time.Hour, "how long it lives")
	f.BoolVar(&o.allowWildcard, "allow-wildcard", false, "allow * as role, scope or permission: the key may do what nobody has thought of yet")
	f.StringVar(&o.add, "add", "", "keys file to add the entry to")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print the key only")
	exclusive(cmd, "config", "pepper-file")
	completions(cmd, "kind", string(seal.KindKey), string(seal.KindPAT))
	completions(cmd, "principal-kind", "user", "service", "agent", "device")
	return cmd
}

// deliver mints the key, puts its entry where it is wanted, and only then shows
// the key: one that is shown can be used.
func (o *order) deliver(now time.Time, stdout, stderr io.Writer) error {
	secret, key, err := o.mint(now)
	if err != nil {
		return err
	}
	entry := key.Entry()
	note := "# for the keys file, under `keys:`\n" + entry
	if o.add != "" {
		if err := addEntry(o.add, entry); err != nil {
			return err
		}
		note = fmt.Sprintf("added key %s of %s to %s; it expires on %s\n",
			key.ID, printable(o.id), o.add, key.ExpiresAt.Format(time.DateOnly))
	}
	if !o.quiet {
		fmt.Fprint(stderr, note)
	}
	_, err = fmt.Fprintln(stdout, secret.Reveal())
	return err
}

// mint makes a key and what the keys file says of it, which a server with the same
// settings would accept.
func (o *order) mint(now time.Time) (policy.Secret, apikey.Key, error) {
	cfg, err := o.settings()
	if err != nil {
		return policy.Secret{}, apikey.Key{}, err
	}
	if o.id == "" {
		return policy.Secret{}, apikey.Key{}, errors.New("PRINCIPAL-ID is empty: say who calls with the key")
	}
	if err := o.checkWildcards(); err != nil {
		return policy.Secret{}, apikey.Key{}, err
	}
	constraints, err := o.constraints()
	if err != nil {
		return policy.Secret{}, apikey.Key{}, err
	}
	peppers, err := apikey.NewPeppers(cfg)
	if err != nil {
		return policy.Secret{}, apikey.Key{}, err
	}
	minted, err := seal.Mint(rand.Reader, seal.Spec{Prefix: cfg.Prefix, Kind: seal.Kind(o.kind), Environment: o.env}, peppers)
	if errors.Is(err, seal.ErrNoPepper) {
		err = fmt.Errorf("%w: set api_keys.pepper", err)
	}
	if err != nil {
		return policy.Secret{}, apikey.Key{}, err
	}
	key := apikey.Key{
		ID: minted.ID, Digest: minted.Digest, Kind: seal.Kind(o.kind), Environment: o.env,
		Name: o.name, Owner: o.owner,
	}
	key.Principal = apikey.Principal{
		ID: o.id, Kind: policy.Kind(o.principalKind), Tenant: o.tenant,
		Roles: o.roles, Scopes: o.scopes, Permissions: o.permissions, Metadata: o.facts(),
	}
	key.AllowWildcard, key.Constraints = o.allowWildcard, constraints
	key.CreatedAt = now.UTC().Truncate(time.Second)
	key.ExpiresAt = key.CreatedAt.Add(o.expiresIn)
	return minted.Secret, key, refusal(cfg, key.Entry(), now)
}

// entryFlags are the flags behind the fields of an entry.
var entryFlags = []struct{ path, flag string }{
	{"principal.id", "PRINCIPAL-ID"}, {"principal.kind", "--principal-kind"}, {"principal.tenant", "--tenant"},
	{"principal.roles", "--role"}, {"principal.scopes", "--scope"}, {"principal.permissions", "--permission"},
	{"principal.metadata", "--metadata"}, {"constraints.methods", "--method"}, {"constraints.networks", "--network"},
	{"constraints.paths", "--path"}, {"constraints.peers", "--peer"}, {"expires_at", "--expires-in"}, {"kind", "--kind"}, {"environment", "--env"},
	{"name", "--name"}, {"owner", "--owner"},
}

// refusal is what a server would say to the entry, in the words of the flags:
// an entry that it does not take would keep it from reading the file at all.
func refusal(cfg apikey.Config, entry string, now time.Time) error {
	cfg.File = "keys.yaml"
	_, err := apikey.New(cfg, apikey.Deps{
		Now:      func() time.Time { return now },
		ReadFile: func(string) ([]byte, error) { return []byte(emptyKeys + entry), nil },
	})
	var mistakes strictyaml.Errors
	if !errors.As(err, &mistakes) {
		return err
	}
	var all []error
	for _, m := range mistakes {
		text := m.Message
		for _, f := range entryFlags {
			if strings.HasPrefix(m.Path, "keys[0]."+f.path) {
				text = f.flag + strings.TrimPrefix(text, m.Path)
				break
			}
		}
		if m.Suggestion != "" {
			text += "; " + m.Suggestion
		}
		all = append(all, errors.New(text))
	}
	return errors.Join(all...)
}

func (o *order) settings() (apikey.Config, error) {
	var cfg apikey.Config
	switch {
	case o.config != "":
		c, err := loadConfig(o.config)
		if err != nil {
			return cfg, err
		}
		cfg = c.APIKeys
	case o.pepperFile != "":
		pepper, err := os.ReadFile(o.pepperFile)
		if err != nil {
			return cfg, err
		}
		cfg.Pepper = policy.NewSecret(strings.TrimSpace(string(pepper)))
	default:
		return cfg, errors.New("say where the pepper is: -c postern.yaml, or --pepper-file FILE")
	}
	if o.prefix != "" {
		cfg.Prefix = o.prefix
	}
	return cfg, nil
}

// checkWildcards says by which flag a wildcard could be had.
func (o *order) checkWildcards() error {
	for _, granted := range slices.Concat(o.roles, o.scopes, o.permissions) {
		if strings.Contains(granted, "*") && !o.allowWildcard {
			return fmt.Errorf("%q is a wildcard: list what the key needs, or give --allow-wildcard", granted)
		}
	}
	return nil
}

func (o *order) constraints() (*policy.Constraints, error) {
	if len(o.networks)+len(o.methods)+len(o.paths)+len(o.peers) == 0 {
		return nil, nil
	}
	c := &policy.Constraints{Methods: o.methods, Peers: o.peers}
	for _, n := range o.networks {
		prefix, err := policy.ParsePrefix(n)
		if err != nil {
			return nil, fmt.Errorf("--network %q: write a CIDR such as 10.0.0.0/8", n)
		}
		c.Networks = append(c.Networks, prefix)
	}
	for _, p := range o.paths {
		pattern, err := policy.ParsePathPattern(p)
		if err != nil {
			return nil, fmt.Errorf("--path %q: %w", p, err)
		}
		c.Paths = append(c.Paths, pattern)
	}
	return c, nil
}

func (o *order) facts() map[string]any {
	if len(o.metadata) == 0 {
		return nil
	}
	facts := map[string]any{}
	for name, value := range o.metadata {
		facts[name] = value
	}
	return facts
}

// emptyKeys is a keys file without keys.
const emptyKeys = "keys:\n"

// addEntry appends an entry to a keys file, replacing it by renaming, so that a
// server never reads half of it, and one writer at a time. The new file has the
// mode and the owner of the old one; a link stays one.
func addEntry(name, entry string) error {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	unlock, err := lockDirectory(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer unlock()
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := strings.TrimRight(string(old), " \t\r\n") + "\n"
	if strings.HasSuffix("\n"+text, "\nkeys: []\n") {
		text = strings.TrimSuffix(text, "keys: []\n") + emptyKeys
	} else if text == "\n" {
		text = emptyKeys
	}
	if !appended(string(old), text+entry) {
		return fmt.Errorf("%s does not end with its list of keys; add this entry by hand, under `keys:`\n%s", name, strings.TrimSuffix(entry, "\n"))
	}
	return replaceFile(name, text+entry)
}

// replaceFile writes a file aside and renames it into place.
func replaceFile(name, text string) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".keys-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	if old, err := os.Stat(name); err == nil {
		keepOwner(tmp, old)
		if err := tmp.Chmod(old.Mode().Perm()); err != nil {
			return errors.Join(err, tmp.Close())
		}
	}
	_, err = tmp.WriteString(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// appended reports whether the new text has the keys of the old one and one more:
// where the file does not end with its list, or is indented otherwise, an entry
// cannot just be appended.
func appended(old, text string) bool {
	type keys struct {
		Keys []yaml.Node `yaml:"keys"`
	}
	var before, after keys
	return yaml.Unmarshal([]byte(old), &before) == nil && yaml.Unmarshal([]byte(text), &after) == nil &&
		len(after.Keys) == len(before.Keys)+1
}
