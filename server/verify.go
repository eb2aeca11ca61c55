package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/postern-auth/postern/policy/bundle"
)

// Verify reads a configuration and everything on disk that it names, and says all
// that is wrong. Nothing is fetched: it returns the bundles of which nothing is on disk, as
// "policy: shop".
func Verify(ctx context.Context, path string) (absent []string, err error) {
	cfg, err := LoadConfig(path)
	if err != nil {
		return nil, err
	}
	var errs []error
	if cfg.TLS != nil {
		_, err := newCertificates(*cfg.TLS)
		errs = append(errs, err)
	}
	if cfg.Policy.Path == "" && len(cfg.Policy.Bundles) == 0 {
		errs = append(errs, errors.New("policy.path: there is no policy, and everything would be denied"))
	}
	quiet := surroundings{log: slog.New(slog.DiscardHandler), now: time.Now}
	own := ownPolicy(cfg)
	lacks, err := verifyPolicy(ctx, "policy", &own, quiet)
	absent, errs = append(absent, lacks...), append(errs, err)
	if cfg.Policy.Shadow != nil {
		own := ownShadow(cfg)
		lacks, err := verifyPolicy(ctx, "policy.shadow", &own, quiet)
		absent, errs = append(absent, lacks...), append(errs, err)
	}
	signs, err := assembleSigner(cfg, &parts{cfg: &Config{}})
	errs = append(errs, err)
	_, err = assembleKeys(cfg, &parts{cfg: &Config{}}, signs, quiet)
	errs = append(errs, err)
	errs = append(errs, verifyIssuers(cfg, quiet), verifyKinds(cfg, quiet), verifyTracing(cfg))
	if cfg.AdminAPI.Roles != "" {
		_, err := adminRoles(ctx, cfg)
		errs = append(errs, err)
	}
	return absent, errors.Join(errs...)
}

// verifyPolicy reads a policy, from a directory or of the bundles that are on disk.
func verifyPolicy(ctx context.Context, at string, own *OnePolicy, quiet surroundings) (absent []string, err error) {
	s := &policySource{cfg: *own, env: quiet}
	if len(own.Bundles) == 0 {
		err = s.load(ctx, nil)
	} else {
		absent, err = bundle.Inspect(ctx, own.source(), bundle.Deps{Rego: own.Config, Options: s.options(), Now: quiet.now})
	}
	for i, name := range absent {
		absent[i] = at + ": " + name
	}
	if err != nil && (len(own.Bundles) > 0 || at != "policy") { // else it names a file and a line
		err = fmt.Errorf("%s: %w", at, err)
	}
	return absent, err
}

// verifyKinds reads what is on disk of the kinds that ask nobody.
func verifyKinds(cfg *Config, quiet surroundings) error {
	p := &parts{cfg: cfg}
	defer func() { p.closeUnlessIn(nil) }()
	var errs []error
	for _, add := range []func(*Config, kinds, surroundings) error{p.addMTLS, p.addDPoP, p.addBasic} {
		errs = append(errs, add(cfg, nil, quiet))
	}
	return errors.Join(errs...)
}

// verifyIssuers reads the key sets on disk.
func verifyIssuers(cfg *Config, quiet surroundings) error {
	all := &parts{cfg: cfg, sources: keySources{}}
	local := *cfg
	local.Issuers = slices.DeleteFunc(slices.Clone(cfg.Issuers), func(i Issuer) bool {
		return !i.UsesSecret() && i.keysFile() == ""
	})
	defer func() { all.closeUnlessIn(nil) }()
	err := all.assembleTokens(&local, &parts{cfg: &Config{}}, quiet)
	return err
}
