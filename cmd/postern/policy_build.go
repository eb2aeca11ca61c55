package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
)

// built is what `postern policy build` and `postern policy sign` say of a bundle.
type built struct {
	File      string   `json:"file" yaml:"file"`
	Revision  string   `json:"revision" yaml:"revision"`
	Roots     []string `json:"roots" yaml:"roots"`
	Digest    string   `json:"sha256" yaml:"sha256"`
	Size      int      `json:"bytes" yaml:"bytes"`
	KeyID     string   `json:"key_id,omitempty" yaml:"key_id,omitempty"`
	Algorithm string   `json:"algorithm,omitempty" yaml:"algorithm,omitempty"`
	Scope     string   `json:"scope,omitempty" yaml:"scope,omitempty"`
	Expires   string   `json:"expires,omitempty" yaml:"expires,omitempty"`
}

func (b *built) print(w io.Writer, output format) error {
	if output != "table" {
		return encodeValue(w, output, b)
	}
	roots := make([]string, len(b.Roots))
	for i, r := range b.Roots {
		if roots[i] = r; r == "" {
			roots[i] = "all of data"
		}
	}
	return printRows(w, []row{
		{"file", b.File}, {"revision", b.Revision}, {"roots", strings.Join(roots, ", ")}, {"sha256", b.Digest}, {"bytes", strconv.Itoa(b.Size)},
		{"signed by", strings.TrimSpace(b.KeyID + " " + b.Algorithm)}, {"scope", b.Scope}, {"expires", b.Expires},
	})
}

func policyBuildCommand() *cobra.Command {
	var d desk
	var output format
	var m bundle.Manifest
	file := "bundle.tar.gz"
	cmd := &cobra.Command{
		Use:   "build [DIR]",
		Short: "Pack a policy into a bundle",
		Long: `Packs the policy of a directory into a bundle for ` + "`policy.bundles`" + ` and for OPA: the
Rego files, and all data as one data.json. Tests are left out. What the server would
refuse is not packed, and what was packed is read again. The same policy gives the
same bytes, on whatever machine and at whatever time.

A revision that has an order lets servers refuse an older bundle: a number, a version
or a time. Several bundles for one server need roots of their own.`,
		Example: `  postern policy build policy --revision 7
  postern policy build policy -r 2026-03-01T12:00:00Z -f shop.tar.gz
  postern policy build policy -r 1.4.0 --root postern/authz --root roles`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := d.named(args)
			if err != nil {
				return err
			}
			s, err := d.open(name, nil)
			switch {
			case err != nil && s != nil:
				return s.placed(err)
			case err != nil:
				return err
			case s.dir == nil:
				return fmt.Errorf("%s is a bundle already", name)
			}
			raw, err := bundle.Build(cmd.Context(), s.dir, s.config, d.limits, m)
			if err != nil {
				return s.placed(err)
			}
			if err := writeBundle(file, raw); err != nil {
				return err
			}
			out, err := d.describe(file, raw)
			if err != nil {
				return err
			}
			if out.Revision == "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "the bundle has no revision: servers cannot tell an older one from it; see --revision")
			}
			return out.print(cmd.OutOrStdout(), output)
		},
	}
	d.flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&m.Revision, "revision", "r", "", "revision of the bundle (default: that of DIR/.manifest, or none)")
	f.StringArrayVar(&m.Roots, "root", nil, "part of data that the bundle claims, such as postern/authz; repeatable (default: those of DIR/.manifest, or all)")
	f.StringVarP(&file, "file", "f", file, "where the bundle is written")
	_ = cmd.MarkFlagFilename("file", "gz")
	outputFlag(cmd, &output)
	return cmd
}

// describe reads a bundle and says what it is.
func (d *desk) describe(file string, raw []byte) (*built, error) {
	config, err := d.settings()
	if err != nil {
		return nil, err
	}
	o, err := bundle.Open(raw, d.limits, bundle.Verify{InsecureSkip: true}, config, time.Now())
	if err != nil {
		return nil, err
	}
	return &built{File: file, Revision: o.Revision, Roots: o.Roots, Digest: o.Digest, Size: o.Size}, nil
}

func policySignCommand() *cobra.Command {
	var d desk
	var output format
	var s bundle.Signature
	var keyFile, secretFile, expires, file string
	cmd := &cobra.Command{
		Use:   "sign BUNDLE",
		Short: "Sign a bundle, in place or into another file",
		Long: `Puts a signature over all files of a bundle into it, as OPA and Postern verify it, and
verifies it again before anything is written. The key decides the algorithm: RS256,
ES256, ES384 or ES512; --secret-file signs with HS256, which whoever verifies can do
as well. An older signature is replaced.

A signature that ends protects from old bundles that are offered again: sign anew
before it does.`,
		Example: `  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out shop.pem
  postern policy sign bundle.tar.gz --key shop.pem --key-id shop-2026 --expires-in 90d
  postern policy sign bundle.tar.gz --key shop.pem --key-id shop-2026 --scope production -f signed.tar.gz`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := readBundle(args[0])
			if err != nil {
				return err
			}
			s.Issued = time.Now().Truncate(time.Second)
			if err := readSigner(&s, keyFile, secretFile, expires); err != nil {
				return err
			}
			signed, algorithm, err := bundle.Sign(raw, d.limits, s)
			if err != nil {
				return err
			}
			if file == "" {
				file = args[0]
			}
			if err := writeBundle(file, signed); err != nil {
				return err
			}
			out, err := d.describe(file, signed)
			if err != nil {
				return err
			}
			out.KeyID, out.Algorithm, out.Scope = s.KeyID, algorithm, s.Scope
			if !s.Expires.IsZero() {
				out.Expires = formatTime(s.Expires)
			}
			return out.print(cmd.OutOrStdout(), output)
		},
	}
	d.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&keyFile, "key", "", "PEM file of the private key")
	f.StringVar(&secretFile, "secret-file", "", "file with a secret of at least 32 bytes, in place of a key")
	f.StringVar(&s.KeyID, "key-id", "", "id by which verifiers find the key")
	f.StringVar(&s.Scope, "scope", "", "scope of the signature, for verifiers that want one")
	f.StringVar(&expires, "expires-in", "", "when the signature ends: 90d, 36h, or a time (default: never)")
	f.StringVarP(&file, "file", "f", "", "where the signed bundle is written (default: BUNDLE itself)")
	exclusive(cmd, "key", "secret-file")
	outputFlag(cmd, &output)
	return cmd
}

// writeBundle writes a bundle. A new one can be read by whatever serves it: a policy is
// no secret.
func writeBundle(name string, raw []byte) error {
	_, err := os.Stat(name)
	if werr := replaceFile(name, string(raw)); werr != nil || err == nil {
		return werr
	}
	return os.Chmod(name, 0o644) //nolint:gosec // see above
}

// maxSigningKey bounds a key file, in bytes.
const maxSigningKey = 1 << 20

func readSigner(s *bundle.Signature, keyFile, secretFile, expires string) error {
	read := func(name string) ([]byte, error) {
		info, err := os.Stat(name)
		if err == nil && info.Size() > maxSigningKey {
			err = fmt.Errorf("%s is too large for a key", name)
		}
		if err != nil {
			return nil, err
		}
		return os.ReadFile(name)
	}
	switch {
	case keyFile == "" && secretFile == "":
		return errors.New("say what to sign with: --key, or --secret-file")
	case s.KeyID == "":
		return errors.New("give the key a name: --key-id")
	case keyFile != "":
		text, err := read(keyFile)
		if err != nil {
			return err
		}
		s.Key = text
	default:
		text, err := read(secretFile)
		if err != nil {
			return err
		}
		s.Secret = policy.NewSecret(strings.TrimSpace(string(text)))
	}
	if expires == "" {
		return nil
	}
	end, err := parseTime(expires, s.Issued, false)
	if err != nil {
		return fmt.Errorf("--expires-in: %w", err)
	}
	s.Expires = end
	return nil
}
