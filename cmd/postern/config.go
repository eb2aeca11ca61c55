package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/server"
)

func configCommand() *cobra.Command {
	return group("config", "Check, show and describe the configuration",
		configCheckCommand(), configShowCommand(), configSchemaCommand(), configFromOPACommand())
}

// configFlag adds -c to a command.
func configFlag(cmd *cobra.Command, path *string, standard, usage string) {
	cmd.Flags().StringVarP(path, "config", "c", standard, usage)
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
}

// missing says what to do if it is the configuration itself that is not there.
func missing(path string, err error) error {
	if _, lost := os.Stat(path); errors.Is(err, fs.ErrNotExist) && errors.Is(lost, fs.ErrNotExist) {
		return fmt.Errorf("there is no file %s; name the configuration with -c, or try `postern serve --dev`, which needs none", path)
	}
	return err
}

func loadConfig(path string) (*server.Config, error) {
	cfg, err := server.LoadConfig(path)
	return cfg, missing(path, err)
}

func configCheckCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration and everything that it names",
		Long: `Reads the configuration and every file that it names as the server would, and
prints everything that is wrong with them, with line and column. Nothing is
fetched over the network: of bundles that come from there, what is kept of them is
read, and those of which nothing is kept are named. The exit status is 0 if all is well, and 2 otherwise.`,
		Example: `  postern config check -c postern.yaml
  postern config check -c postern.yaml && systemctl reload postern`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			absent, err := server.Verify(cmd.Context(), path)
			if err != nil {
				return missing(path, err)
			}
			if _, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good\n", path); err != nil || len(absent) == 0 {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "not looked at, because they are not on this disk: bundles of %s\n", strings.Join(absent, ", "))
			return err
		},
	}
	configFlag(cmd, &path, "postern.yaml", "the configuration file")
	return cmd
}

func configShowCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration in force, defaults filled in, secrets left out",
		Example: `  postern config show -c postern.yaml
  diff <(postern config show -c old.yaml) <(postern config show -c new.yaml)`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(path)
			if err != nil {
				return err
			}
			text, err := cfg.Redacted()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	configFlag(cmd, &path, "postern.yaml", "the configuration file")
	return cmd
}

func configSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print a JSON Schema of the configuration, for editors",
		Example: `  postern config schema > postern.schema.json
  # first line of postern.yaml, for editors with the YAML language server:
  # yaml-language-server: $schema=./postern.schema.json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(server.Schema())
			return err
		},
	}
}
