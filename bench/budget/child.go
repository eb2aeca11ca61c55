package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store/postgres"
)

const (
	// childVariable holds the address of the database for a process that is a replica,
	// socketVariable where it listens, limitVariable and waitVariable what it is told.
	childVariable  = "POSTERN_BUDGET_STORE"
	socketVariable = "POSTERN_BUDGET_SOCKET"
	limitVariable  = "POSTERN_BUDGET_LIMIT"
	waitVariable   = "POSTERN_BUDGET_WAIT"

	budgetName = "bench"
	// reserveFor is longer than a run: nothing expires meanwhile.
	reserveFor = 4 * time.Hour
)

func config(limit int64, wait time.Duration) budget.Config {
	return budget.Config{
		Budgets: []budget.Budget{{Name: budgetName, Unit: budget.UnitTokens, Limit: limit, Per: []budget.Per{budget.PerTenant}, ReserveFor: reserveFor}},
		Ledger:  budget.Sharing{Wait: wait},
	}
}

func deps() (budget.Deps, error) {
	secret := policy.NewSecret("a pepper for this bench, of no use to anybody else")
	peppers, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: secret}})
	return budget.Deps{Peppers: peppers}, err
}

// child is a replica: it answers lines with lines until its standard input ends.
//
//	reserve AMOUNT          yes RECEIPT, no REASON
//	settle RECEIPT AMOUNT   yes, no ERROR
func child(address string) error {
	ctx := context.Background()
	limit, err := strconv.ParseInt(os.Getenv(limitVariable), 10, 64)
	if err != nil {
		return err
	}
	wait, err := time.ParseDuration(os.Getenv(waitVariable))
	if err != nil {
		return err
	}
	st, err := postgres.Open(ctx, address, postgres.Options{})
	if err != nil {
		return err
	}
	d, err := deps()
	if err != nil {
		return err
	}
	d.Ledger = st
	all, err := budget.New(config(limit, wait), d)
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", os.Getenv(socketVariable))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn, all)
		}
	}()
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	if err := all.Close(ctx); err != nil {
		return err
	}
	if err := st.Close(); err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

func serve(conn net.Conn, all *budget.Budgets) {
	defer conn.Close()
	ctx := context.Background()
	p := &policy.Principal{ID: "agent", Kind: policy.KindAgent, Tenant: "bench", Issuer: "bench", CredentialID: "c"}
	c := &policy.Charge{Principal: p, Route: &policy.Route{}, Request: &policy.Request{}, Cost: map[string]int64{}}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		answer := "no such verb"
		switch verb {
		case "reserve":
			c.Cost["tokens"], _ = strconv.ParseInt(rest, 10, 64)
			c.Now = time.Now()
			if s := all.Spend(ctx, c); s.Reason == policy.ReasonAllowed {
				answer = "yes " + s.Reservation
			} else {
				answer = "no " + s.Reason.String() + " " + s.Detail
			}
		case "settle":
			receipt, amount, _ := strings.Cut(rest, " ")
			used, _ := strconv.ParseInt(amount, 10, 64)
			if _, err := all.Settle(ctx, receipt, map[string]int64{"tokens": used}, true); err == nil {
				answer = "yes"
			} else {
				answer = "no " + err.Error()
			}
		}
		if _, err := fmt.Fprintln(conn, strings.ReplaceAll(answer, "\n", " ")); err != nil {
			return
		}
	}
}
