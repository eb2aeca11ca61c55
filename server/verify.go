package server

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// Verify reads a configuration and everything on disk that it names, and says all
// that is wrong. Nothing is fetched.
func Verify(ctx context.Context, path string) error {
	cfg, err := LoadConfig(path)
	if err != nil {
		return err
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
	decides, err := assemblePolicy(ctx, cfg, &parts{cfg: &Config{}}, quiet)
	if errs = append(errs, err); err == nil {
		decides.close()
	}
	errs = append(errs, verifyShadow(ctx, cfg, quiet))
	signs, err := assembleSigner(cfg, &parts{cfg: &Config{}})
	errs = append(errs, err)
	_, err = assembleKeys(cfg, &parts{cfg: &Config{}}, signs, quiet)
	errs = append(errs, err)
	errs = append(errs, verifyIssuers(cfg, quiet), verifyKinds(cfg, quiet), verifyTracing(cfg))
	if cfg.AdminAPI.Roles != "" {
		_, err := adminRoles(ctx, cfg)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
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
