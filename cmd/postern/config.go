package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/server"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check, show and describe the configuration",
	}
	cmd.AddCommand(configCheckCommand(), configShowCommand(), configSchemaCommand())
	return cmd
}

func configCheckCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration and everything that it names",
		Long: `Reads the configuration, the keys files and the policy as the server would, and
prints everything that is wrong with them, with line and column. Nothing is
fetched over the network. The exit status is 0 if all is well, and 2 otherwise.`,
		Example: `  postern config check -c postern.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := server.Verify(cmd.Context(), path); err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), err)
				return &exitError{status: exitFault}
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is good\n", path)
			return err
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "postern.yaml", "the configuration file")
	return cmd
}

func configShowCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Print the configuration in force, defaults filled in, secrets left out",
		Example: `  postern config show -c postern.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := server.LoadConfig(path)
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), err)
				return &exitError{status: exitFault}
			}
			text, err := cfg.Redacted()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "postern.yaml", "the configuration file")
	return cmd
}

func configSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print a JSON Schema of the configuration, for editors",
		Example: `  postern config schema > postern.schema.json
  # first line of postern.yaml, for editors with the YAML language server:
  # yaml-language-server: $schema=./postern.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := os.Stdout.Write(server.Schema())
			return err
		},
	}
}
