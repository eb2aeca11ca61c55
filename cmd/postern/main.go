// Command postern runs Postern and talks to it: who is calling, and may they?
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses. A deny is an answer, a fault is none.
const (
	exitOK    = 0
	exitDeny  = 1
	exitFault = 2
)

// exitError ends the command with a status of its own. An empty text prints
// nothing: the output has said it already.
type exitError struct {
	status int
	text   string
}

func (e *exitError) Error() string { return e.text }

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var exit *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		if exit.text != "" {
			fmt.Fprintln(os.Stderr, "postern: "+exit.text)
		}
		return exit.status
	}
	fmt.Fprintln(os.Stderr, "postern: "+err.Error())
	return exitFault
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "postern",
		Short: "Who is calling, and may they?",
		Long: `Postern answers two questions for every request that a gateway or a service
brings to it: who is calling, and may they? It verifies the credential, asks the
Rego policy, and says allow or deny, and why.

  postern serve --dev            try it: loopback, a sample policy, a demo key
  postern serve -c postern.yaml  run it`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		serveCommand(),
		checkCommand(),
		explainCommand(),
		configCommand(),
		keyCommand(),
		tokenCommand(),
		versionCommand(),
	)
	return root
}
