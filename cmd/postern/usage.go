package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

func usageCommand() *cobra.Command {
	return group("usage", "Report what requests have used", usageSettleCommand())
}

// settlement is what `postern usage settle` reports.
type settlement struct {
	connection
	use    []string
	output format
}

func usageSettleCommand() *cobra.Command {
	var s settlement
	cmd := &cobra.Command{
		Use:   "settle RECEIPT",
		Short: "Replace what a request has reserved by what it used",
		Long: `Tells the server what a request that it allowed has truly used. The receipt is the
reservation of the decision, which the upstream got in x-postern-reservation; @FILE
reads it from a file, and - from standard input.

The same report again does nothing and succeeds.`,
		Example: `  postern usage settle @receipt.txt --use tokens=812
  postern usage settle - --use input_tokens=300 --use output_tokens=512 < receipt.txt`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			res, err := s.settle(cmd, args[0])
			if err != nil {
				return err
			}
			return render(cmd.OutOrStdout(), s.output, res, func() []row {
				return append([]row{{"settled", "yes"}, {"repeated", yes(res.GetRepeated())}}, limitRows(res.GetBudgets())...)
			})
		},
	}
	s.flags(cmd, "server", defaultServer)
	f := cmd.Flags()
	f.StringArrayVar(&s.use, "use", nil, "what was used, as tokens=812: tokens, input_tokens, output_tokens or micros; repeatable (default: what was reserved)")
	completions(cmd, "use", "tokens=", "input_tokens=", "output_tokens=", "micros=")
	outputFlag(cmd, &s.output)
	return cmd
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func (s *settlement) settle(cmd *cobra.Command, receipt string) (*posternv1.SettleResponse, error) {
	receipt, err := readReceipt(cmd.InOrStdin(), receipt)
	if err != nil {
		return nil, err
	}
	use, err := amounts("--use", s.use)
	if err != nil {
		return nil, err
	}
	conn, err := s.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel, err := s.Context(cmd.Context())
	if err != nil {
		return nil, err
	}
	defer cancel()
	res, err := posternv1.NewUsageServiceClient(conn).Settle(ctx, &posternv1.SettleRequest{Reservation: receipt, Use: use})
	if err == nil {
		return res, nil
	}
	if st := status.Convert(err); slices.Contains(refusals, st.Code()) {
		if info, _ := details(st); info != nil { // or it is of the list of callers
			return nil, &refusalError{errors.New(printable(st.Message()) + because(info.GetReason())), st.Code()}
		}
	}
	return nil, s.ExplainRPC(err)
}

// readReceipt reads a receipt from where it is said to be.
func readReceipt(stdin io.Reader, text string) (string, error) {
	name, isFile := strings.CutPrefix(text, "@")
	switch {
	case text == "-" || name == "-":
	case isFile:
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		stdin = f
	default:
		return text, nil
	}
	content, err := io.ReadAll(io.LimitReader(stdin, maxHeaderFile))
	return strings.TrimSpace(string(content)), err
}

// amounts reads what something costs: tokens=812 and the like.
func amounts(flag string, texts []string) (map[string]int64, error) {
	var all map[string]int64
	for _, text := range texts {
		unit, amount, ok := strings.Cut(text, "=")
		n, err := strconv.ParseInt(amount, 10, 64)
		if !ok || unit == "" || err != nil {
			return nil, fmt.Errorf("%s %s: write a unit and a number, as tokens=812", flag, printable(text))
		}
		if _, again := all[unit]; again {
			return nil, fmt.Errorf("%s: %s is said twice", flag, printable(unit))
		}
		if all == nil {
			all = map[string]int64{}
		}
		all[unit] = n
	}
	return all, nil
}

// limitRows say what is left of budgets and rates.
func limitRows(states []*posternv1.BudgetState) (rows []row) {
	for _, s := range states {
		text := fmt.Sprintf("%d of %d %s left", s.GetRemaining(), s.GetLimit(), cmp.Or(s.GetUnit(), "requests"))
		if d := s.GetResetDelay(); d != nil {
			text += ", full again in " + formatDuration(d.AsDuration().Round(1e9))
		}
		rows = append(rows, row{s.GetBudget(), text})
	}
	return rows
}
