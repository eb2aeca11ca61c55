package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server"
	"github.com/postern-auth/postern/server/authn/apikey"
)

func keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make API keys and personal access tokens",
	}
	cmd.AddCommand(keyMintCommand())
	return cmd
}

// order is a key as somebody asked for it.
type order struct {
	config, pepperFile, prefix string
	kind, env, name, owner     string
	id, principalKind, tenant  string
	roles, scopes, permissions []string
	metadata                   map[string]string
	networks, methods, paths   []string
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
  openssl rand -hex 32 > pepper && postern key mint demo --pepper-file pepper`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.id = args[0]
			key, entry, err := o.mint(time.Now())
			if err != nil {
				return err
			}
			if o.add != "" {
				if err := addEntry(o.add, entry); err != nil {
					return err
				}
			} else if !o.quiet {
				fmt.Fprintf(cmd.ErrOrStderr(), "# for the keys file, under `keys:`\n%s", entry)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), key.Secret.Reveal())
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.config, "config", "c", "", "configuration that names the pepper and the prefix")
	f.StringVar(&o.pepperFile, "pepper-file", "", "file with the pepper, if there is no configuration")
	f.StringVar(&o.prefix, "prefix", "", "prefix of the key (default: the configuration's, or pst)")
	f.StringVar(&o.kind, "kind", string(apikey.KindKey), "key or pat (personal access token)")
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
	f.DurationVar(&o.expiresIn, "expires-in", 90*24*time.Hour, "how long it lives")
	f.BoolVar(&o.allowWildcard, "allow-wildcard", false, "allow * as role, scope or permission: the key may do what nobody has thought of yet")
	f.StringVar(&o.add, "add", "", "keys file to add the entry to")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print the key only")
	return cmd
}

func (o *order) mint(now time.Time) (apikey.Minted, string, error) {
	cfg, err := o.settings()
	if err != nil {
		return apikey.Minted{}, "", err
	}
	if err := o.checkGrants(); err != nil {
		return apikey.Minted{}, "", err
	}
	constraints, err := o.constraints()
	if err != nil {
		return apikey.Minted{}, "", err
	}
	peppers, err := apikey.NewPeppers(cfg)
	if err != nil {
		return apikey.Minted{}, "", err
	}
	minted, err := apikey.Mint(rand.Reader, apikey.Spec{Prefix: cfg.Prefix, Kind: apikey.Kind(o.kind), Environment: o.env}, peppers)
	if err != nil {
		return apikey.Minted{}, "", err
	}
	key := &minted.Key
	key.Name, key.Owner = o.name, o.owner
	key.Principal = apikey.Principal{
		ID: o.id, Kind: policy.Kind(o.principalKind), Tenant: o.tenant,
		Roles: o.roles, Scopes: o.scopes, Permissions: o.permissions, Metadata: o.facts(),
	}
	key.AllowWildcard, key.Constraints = o.allowWildcard, constraints
	key.CreatedAt = now.UTC().Truncate(time.Second)
	key.ExpiresAt = key.CreatedAt.Add(o.expiresIn)
	return minted, key.Entry(), nil
}

func (o *order) settings() (apikey.Config, error) {
	var cfg apikey.Config
	switch {
	case o.config != "":
		c, err := server.LoadConfig(o.config)
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

// checkGrants refuses what the keys file would refuse as well, before the key is
// made and shown.
func (o *order) checkGrants() error {
	if o.expiresIn <= 0 {
		return fmt.Errorf("--expires-in %v: a key must live for some time", o.expiresIn)
	}
	if !slices.Contains([]string{"user", "service", "agent", "device"}, o.principalKind) {
		return fmt.Errorf("--principal-kind %q: user, service, agent or device", o.principalKind)
	}
	for _, granted := range slices.Concat(o.roles, o.scopes, o.permissions) {
		if strings.Contains(granted, "*") && !o.allowWildcard {
			return fmt.Errorf("%q is a wildcard: list what the key needs, or give --allow-wildcard", granted)
		}
	}
	return nil
}

func (o *order) constraints() (*policy.Constraints, error) {
	if len(o.networks)+len(o.methods)+len(o.paths) == 0 {
		return nil, nil
	}
	c := &policy.Constraints{Methods: o.methods}
	for _, n := range o.networks {
		prefix, err := netip.ParsePrefix(n)
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

// addEntry appends an entry to a keys file, replacing it by renaming so that a
// server never reads half of it. The file is only as open as it was.
func addEntry(name, entry string) error {
	mode := fs.FileMode(0o600)
	old, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(strings.TrimSpace(string(old))) == 0:
		old = []byte("keys:\n")
	case err != nil:
		return err
	default:
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		mode = info.Mode().Perm()
	}
	text := string(old)
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if !endsWithKeys(text) {
		return fmt.Errorf("%s does not end with its list of keys; add this entry by hand, under `keys:`\n%s", name, entry)
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".keys-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(text + entry)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// endsWithKeys reports whether the last top-level section of the file is `keys:`
// as a block list, so that an entry can be appended.
func endsWithKeys(text string) bool {
	last := ""
	for line := range strings.Lines(text) {
		if line[0] != ' ' && line[0] != '-' && line[0] != '#' && line[0] != '\n' {
			last = strings.TrimSpace(line)
		}
	}
	return last == "keys:"
}
