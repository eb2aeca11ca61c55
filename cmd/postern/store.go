package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/server"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/postgres"
	"github.com/postern-auth/postern/server/store/sqlite"
	"github.com/postern-auth/postern/server/store/table"
)

func storeCommand() *cobra.Command {
	return group("store", "Look after the store: schema, damage, backups, the first key",
		storeMigrateCommand(), storeCheckCommand(), storeBackupCommand(), storeRestoreCommand(), storeBootstrapCommand())
}

// offline is a command that works on the store itself, without a server.
func offline(cmd *cobra.Command, run func(cmd *cobra.Command, args []string, cfg *server.Config) error) *cobra.Command {
	var path string
	configFlag(cmd, &path, "postern.yaml", "the configuration file, which says where the store is")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := loadConfig(path)
		if err != nil {
			return err
		}
		return run(cmd, args, cfg)
	}
	return cmd
}

// openStore opens the store of a configuration.
func openStore(ctx context.Context, cfg *server.Config, o table.Options) (store.Store, error) {
	switch s := cfg.Store; s.Driver {
	case server.DriverSQLite:
		return sqlite.Open(ctx, string(s.Path), o)
	case server.DriverPostgres:
		return postgres.Open(ctx, s.DSN.Reveal(), o)
	default:
		return nil, fmt.Errorf("store.driver is %s: there is nothing to look after", s.Driver)
	}
}

// withStore runs a function on the store and closes it.
func withStore(ctx context.Context, cfg *server.Config, o table.Options, run func(store.Store) error) error {
	s, err := openStore(ctx, cfg, o)
	if err != nil {
		return err
	}
	return errors.Join(run(s), s.Close())
}

func storeMigrateCommand() *cobra.Command {
	return offline(&cobra.Command{
		Use: "migrate", Short: "Bring the schema of the store up to date, or make an empty store",
		Long: `Brings the schema up to date. "postern serve" does so by itself when it starts; run
this first where its role in PostgreSQL must not change the schema.`,
		Example: `  postern store migrate -c postern.yaml`,
		Args:    arguments(0, 0),
	}, func(cmd *cobra.Command, _ []string, cfg *server.Config) error {
		return withStore(cmd.Context(), cfg, table.Options{}, func(store.Store) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "the store has schema %d\n", table.Schema())
			return err
		})
	})
}

func storeCheckCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use: "check", Short: "Read the whole store and report all that is wrong with it",
		Long: `Reads everything that is stored and prints what is there and what is wrong. The
exit status is 0 if all is well, 1 if something is damaged, and 2 if the store
could not be read. A server may use the store meanwhile.`,
		Example: `  postern store check -c postern.yaml
  postern store check -c postern.yaml -o json`,
		Args: arguments(0, 0),
	}
	outputFlag(cmd, &output)
	return offline(cmd, func(cmd *cobra.Command, _ []string, cfg *server.Config) error {
		err := withStore(cmd.Context(), cfg, table.Options{MustExist: true, NoMigrate: true}, func(s store.Store) error {
			report, err := s.Check(cmd.Context())
			if err != nil {
				return err
			}
			return reportStore(cmd, output, report)
		})
		if errors.Is(err, store.ErrCorrupt) {
			return &refusalError{error: err}
		}
		return err
	})
}

func reportStore(cmd *cobra.Command, f format, r store.Report) error {
	var err error
	if f == "table" {
		err = printRows(cmd.OutOrStdout(), reportRows(r))
	} else {
		err = encodeValue(cmd.OutOrStdout(), f, reportValue(r))
	}
	if err != nil {
		return err
	}
	if len(r.Faults) > 0 {
		return &exitError{exitDeny}
	}
	return nil
}

// reportValue gives JSON and YAML the same names.
func reportValue(r store.Report) (v map[string]any) {
	text, _ := json.Marshal(r) // of texts and numbers
	_ = json.Unmarshal(text, &v)
	return v
}

func reportRows(r store.Report) []row {
	rows := []row{
		{"engine", r.Engine}, {"schema", strconv.Itoa(r.Schema)}, {"epoch", r.Epoch},
		{"last change", strconv.FormatInt(r.Head, 10)},
		{"size", fmt.Sprintf("%.1f MiB", float64(r.Bytes)/(1<<20))},
		{"audit entries", strconv.FormatInt(r.Audit, 10)},
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Records)) {
		rows = append(rows, row{string(kind) + "s", strconv.Itoa(r.Records[kind])})
	}
	for _, fault := range r.Faults {
		rows = append(rows, row{"fault", fault})
	}
	if len(r.Faults) == 0 {
		rows = append(rows, row{"faults", "none"})
	}
	return rows
}

// errForeign says who copies a PostgreSQL database.
var errForeign = errors.New("PostgreSQL copies its databases itself: take pg_dump or its base backups")

func storeBackupCommand() *cobra.Command {
	return offline(&cobra.Command{
		Use: "backup FILE", Short: "Copy the store to a new file, while it is in use",
		Long: `Writes a consistent copy of a SQLite store. It holds digests and hashes, no secret
that could be used; keep it as safe as the store all the same, and apart from the
pepper.`,
		Example: `  postern store backup -c postern.yaml /backup/postern-$(date +%F).db`,
		Args:    arguments(1, 1),
	}, func(cmd *cobra.Command, args []string, cfg *server.Config) error {
		return withStore(cmd.Context(), cfg, table.Options{MustExist: true, NoMigrate: true}, func(s store.Store) error {
			b, ok := s.(store.Backer)
			if !ok {
				return errForeign
			}
			if err := b.Backup(cmd.Context(), args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "copied to %s\n", printable(args[0]))
			return err
		})
	})
}

func storeRestoreCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "restore [FILE]", Short: "Put a backup in the place of the store",
		Long: `Checks a backup and puts it in the place of the store, which no server may be using.
A store that is there is only replaced with --force. What was changed after the
backup is lost: revocations among it, so revoke again what has to stay revoked.

A database of PostgreSQL is restored with its own tools; then, without FILE, this
tells all replicas that they have to read everything again.`,
		Example: `  postern store restore -c postern.yaml /backup/postern-2026-11-01.db --force
  pg_restore -d postern postern.dump && postern store restore -c postern.yaml`,
		Args: arguments(0, 1),
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace the store that is there")
	return offline(cmd, func(cmd *cobra.Command, args []string, cfg *server.Config) error {
		ctx, out := cmd.Context(), cmd.OutOrStdout()
		if cfg.Store.Driver == server.DriverPostgres && len(args) == 1 {
			return errForeign
		}
		if cfg.Store.Driver == server.DriverSQLite {
			if len(args) == 0 {
				return fmt.Errorf("an argument is missing: %s FILE", cmd.CommandPath())
			}
			report, err := sqlite.Restore(ctx, args[0], string(cfg.Store.Path), force)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, "restored %s up to change %d\n", cfg.Store.Path, report.Head)
			return err
		}
		return withStore(ctx, cfg, table.Options{MustExist: true}, func(s store.Store) error {
			if err := s.(interface{ Renew(context.Context) error }).Renew(ctx); err != nil {
				return err
			}
			_, err := fmt.Fprintln(out, "all replicas will read everything again")
			return err
		})
	})
}

func storeBootstrapCommand() *cobra.Command {
	var force, quiet bool
	cmd := &cobra.Command{
		Use: "bootstrap", Short: "Make the first admin key, and show it once",
		Long: `Makes a key with the role platform-admin, of the principal "bootstrap", and shows
it once. It works on the store itself, so whoever can run it needs no key. Once
there is an admin key it refuses, unless it is forced: for when all are lost.

Use the key to make keys for yourself and others, and revoke it then.`,
		Example: `  postern store bootstrap -c postern.yaml -q > admin.key
  postern tenant create acme --token-file admin.key`,
		Args: arguments(0, 0),
	}
	cmd.Flags().BoolVar(&force, "force", false, "make one although there is an admin key")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the key")
	return offline(cmd, func(cmd *cobra.Command, _ []string, cfg *server.Config) error {
		return withStore(cmd.Context(), cfg, table.Options{}, func(s store.Store) error {
			issued, err := bootstrap(cmd.Context(), cfg, s, force)
			if err != nil {
				return err
			}
			if !quiet {
				fmt.Fprintf(cmd.ErrOrStderr(), "this key may do everything, until %s; keep it now: it cannot be shown again\n", formatTime(issued.ExpiresAt))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), issued.Secret.Reveal())
			return err
		})
	})
}

func bootstrap(ctx context.Context, cfg *server.Config, s store.Store, force bool) (*registry.Issued, error) {
	peppers, err := apikey.NewPeppers(cfg.APIKeys)
	if err != nil {
		return nil, err
	}
	r := registry.New(registry.Config{Prefix: cfg.APIKeys.Prefix, MaxTTL: cfg.Tenants.MaxTTL}, s, registry.Deps{Peppers: peppers})
	issued, _, err := r.Bootstrap(ctx, force)
	var no *registry.Error
	switch {
	case errors.As(err, &no) && no.Reason == registry.AlreadyExists:
		return nil, &refusalError{error: errors.New("there is an admin key already; use it, or give --force if all are lost")}
	case errors.As(err, &no) && no.Reason == registry.NotConfigured:
		return nil, errors.New("there is no pepper, without which no key can be made: set api_keys.pepper")
	}
	return issued, err
}
