// Command postern runs Postern and talks to it: who is calling, and may they?
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/postern-auth/postern/server/strictyaml"
)

// Exit statuses. A deny is an answer, and so is a refusal of the admin API: nothing
// was done, and it would not be the next time. A fault is no answer: a mistake on the
// command line, or a server that cannot be reached.
const (
	exitOK    = 0
	exitDeny  = 1
	exitFault = 2
)

// exitError ends the command with a status of its own and prints nothing: the
// output has said it already.
type exitError struct{ status int }

func (e *exitError) Error() string { return "exit status " + strconv.Itoa(e.status) }

// refusalError is the admin API's no.
type refusalError struct {
	error
	code codes.Code
}

// Unwrap lets each of its errors be printed on a line of its own.
func (e *refusalError) Unwrap() error { return e.error }

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var exit *exitError
	var no *refusalError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		return exit.status
	case errors.As(err, &no):
		lastWords(no.error)
		return exitDeny
	}
	lastWords(err)
	return exitFault
}

// lastWords complains and does not wait for long: nobody may be reading, and a process that
// was told to end ends.
func lastWords(err error) {
	said := make(chan struct{})
	go func() { complain(os.Stderr, err); close(said) }()
	select {
	case <-said:
	case <-time.After(time.Second):
	}
}

// complain prints an error: mistakes in files as compilers do, so that editors
// find the place, and the rest with the name of the program in front.
func complain(w io.Writer, err error) {
	if err == nil {
		return
	}
	for _, e := range single(err) {
		var placed *strictyaml.Error
		var problem problemError
		if errors.As(e, &placed) || errors.As(e, &problem) {
			fmt.Fprintln(w, e)
			continue
		}
		fmt.Fprintln(w, "postern: "+e.Error())
	}
}

// single takes a joined error apart, unless it says more than its parts.
func single(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var texts []string
	for _, e := range joined.Unwrap() {
		texts = append(texts, e.Error())
	}
	if err.Error() != strings.Join(texts, "\n") {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, single(e)...)
	}
	return all
}

func newRoot() *cobra.Command {
	root := group("postern", "Who is calling, and may they?",
		serveCommand(),
		initCommand(),
		readyCommand(),
		checkCommand(),
		watchCommand(),
		explainCommand(),
		benchCommand(),
		configCommand(),
		doctorCommand(),
		keyCommand(),
		patCommand(),
		tokenCommand(),
		userCommand(),
		principalCommand(),
		agentCommand(),
		sessionCommand(),
		approvalCommand(),
		consentCommand(),
		tenantCommand(),
		denylistCommand(),
		budgetCommand(),
		usageCommand(),
		auditCommand(),
		policyCommand(),
		storeCommand(),
		devCommand(),
		versionCommand(),
	)
	root.Long = `Postern answers two questions for every request that a gateway or a service
brings to it: who is calling, and may they? It verifies the credential, asks the
Rego policy, and says allow or deny, and why.`
	root.Example = `  postern serve --dev                                   try it: a sample policy, a demo key
  postern serve -c postern.yaml                         run it
  postern check https://api.example.com/orders/7        would this be allowed?
  postern config check -c postern.yaml                  is anything wrong with it?`
	root.SilenceUsage, root.SilenceErrors = true, true
	root.Version = buildVersion()
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	})
	return root
}

// group is a command that only holds others. Cobra would take a misspelt one for
// a wish to read the help, and succeed.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := fmt.Sprintf("see %s --help", cmd.CommandPath())
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = fmt.Sprintf("did you mean \"%s\"?", strings.Join(near, `" or "`))
			}
			return fmt.Errorf("unknown command %q; %s", args[0], hint)
		},
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(children...)
	return cmd
}

// exclusive refuses a flag together with certain others.
func exclusive(cmd *cobra.Command, one string, others ...string) {
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if before != nil {
			if err := before(cmd, args); err != nil {
				return err
			}
		}
		for _, other := range others {
			if cmd.Flags().Changed(one) && cmd.Flags().Changed(other) {
				return fmt.Errorf("--%s and --%s do not go together; see %s --help", one, other, cmd.CommandPath())
			}
		}
		return nil
	}
}

// arguments demands a number of arguments and says what they are.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if least <= len(args) && (len(args) <= most || most < 0) {
			return nil
		}
		usage := strings.TrimSuffix(cmd.UseLine(), " [flags]")
		switch {
		case most == 0:
			return fmt.Errorf("%s takes no arguments, and there is %q", cmd.Name(), args[0])
		case len(args) < least:
			return fmt.Errorf("an argument is missing: %s", usage)
		}
		return fmt.Errorf("there are too many arguments: %s", usage)
	}
}
