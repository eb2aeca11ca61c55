package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/postern-auth/postern/server"
)

func serveCommand() *cobra.Command {
	var path string
	var dev bool
	var addresses listenFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run Postern",
		Long: `Runs Postern with a configuration file, until it is told to stop (SIGTERM or
SIGINT; requests under way are finished). Files that the configuration names are
watched; SIGHUP reads all of them again. What is wrong is logged, and what was in
force stays.

With --dev it needs no file: it listens on loopback, makes a sample policy and a
demo key in a temporary directory, and prints calls to try.`,
		Example: `  postern serve --dev
  postern serve -c /etc/postern/postern.yaml
  postern serve -c postern.yaml --grpc 127.0.0.1:0 --admin off`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dev {
				return serveDev(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), addresses)
			}
			return serve(cmd.Context(), path, addresses, cmd.ErrOrStderr(), nil)
		},
	}
	configFlag(cmd, &path, "postern.yaml", "the configuration file")
	cmd.Flags().BoolVar(&dev, "dev", false, "try it: loopback, sample policy, demo key, nothing kept")
	cmd.Flags().StringVar(&addresses.grpc, "grpc", "", "listen here instead of at the configuration's listen.grpc; port 0 takes a free one")
	cmd.Flags().StringVar(&addresses.http, "http", "", "listen here instead of at the configuration's listen.http, unless that is off; off turns it off")
	cmd.Flags().StringVar(&addresses.gateway, "gateway", "", "listen here instead of at the configuration's listen.gateway; off turns it off")
	cmd.Flags().StringVar(&addresses.admin, "admin", "", "listen here instead of at the configuration's listen.admin; off turns it off")
	exclusive(cmd, "dev", "config")
	return cmd
}

// listenFlags replace addresses of the configuration.
type listenFlags struct{ grpc, admin, http, gateway string }

// load reads the configuration as the flags change it.
func (f listenFlags) load(path string) (*server.Config, error) {
	cfg, err := loadConfig(path)
	if err != nil {
		return nil, err
	}
	return cfg, cfg.Relocate(f.grpc, f.admin, f.http, f.gateway)
}

// serve runs a server with a configuration file until ctx ends.
func serve(ctx context.Context, path string, addresses listenFlags, stderr io.Writer, onReady func(server.Addresses)) error {
	cfg, err := addresses.load(path)
	if err != nil {
		return err
	}
	log := newLogger(stderr, cfg.Log)
	boundMemory(log)
	manager := newNotify(log)
	endNotices := func() {} // to the service manager, which OnReady begins
	defer func() { endNotices() }()
	s, err := server.New(ctx, server.Options{
		Load:       func() (*server.Config, error) { return addresses.load(path) },
		ConfigPath: path,
		Logger:     log,
		OnReady: func(a server.Addresses) {
			attrs := []any{"grpc", a.GRPC.String(), "version", buildVersion()}
			if a.Admin != nil {
				attrs = append(attrs, "admin", a.Admin.String())
			}
			if a.HTTP != nil {
				attrs = append(attrs, "http", a.HTTP.String())
			}
			if a.Gateway != nil {
				attrs = append(attrs, "gateway", a.Gateway.String())
			}
			log.Info("ready", attrs...)
			endNotices = manager.ready(ctx)
			if onReady != nil {
				onReady(a)
			}
		},
	})
	if err != nil {
		return err
	}
	defer reloadOnHangup(ctx, s)()
	err = s.Run(ctx)
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w; stop what listens there, or take another place with --grpc and --admin", err)
	}
	return errors.Join(err, s.Close())
}

// reloadOnHangup reloads at each SIGHUP until the returned function is called.
func reloadOnHangup(ctx context.Context, s *server.Server) func() {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-hangup:
				_ = s.Reload(ctx) // it logs what it does
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(hangup); close(done) }
}

func newLogger(w io.Writer, c server.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // the configuration allows only what parses
	opts := &slog.HandlerOptions{Level: level}
	f, isFile := w.(*os.File)
	if c.Format == "text" || c.Format == "auto" && isFile && term.IsTerminal(int(f.Fd())) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}
