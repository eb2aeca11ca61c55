package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

func readyCommand() *cobra.Command {
	var c connection
	var quiet bool
	var output format
	cmd := &cobra.Command{
		Use:   "ready",
		Short: "Ask a server whether it can decide",
		Long: `Asks the health service (grpc.health.v1) of a server, which is open to everybody.
For containers that have neither shell nor curl: the status is 0 if the server is
ready, 1 if it says that it is not, and 2 if there is no answer. What it is that is
not ready, /readyz on the admin listener says.`,
		Example: `  postern ready
  postern ready --server unix:///run/postern/check.sock
  postern ready -o json
  postern ready -q --server 10.0.0.7:9191 --ca ca.pem`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := c.Dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel, err := c.Context(cmd.Context())
			if err != nil {
				return err
			}
			defer cancel()
			res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
			if status.Code(err) == codes.NotFound {
				return fmt.Errorf("%s knows nothing of health: it is no Postern", c.Address)
			}
			if err != nil {
				return c.ExplainRPC(err)
			}
			switch {
			case quiet:
			case output == "table":
				fmt.Fprintln(cmd.OutOrStdout(), strings.ToLower(strings.ReplaceAll(res.GetStatus().String(), "_", " ")))
			default:
				if err := render(cmd.OutOrStdout(), output, res, nil); err != nil {
					return err
				}
			}
			if res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				return &exitError{exitDeny}
			}
			return nil
		},
	}
	c.flags(cmd, "server", defaultServer)
	outputFlag(cmd, &output)
	exclusive(cmd, "quiet", "output")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing: the exit status says it")
	return cmd
}
