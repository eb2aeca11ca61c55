package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"postern": func() { os.Exit(run(os.Args[1:])) }})
}

// TestScripts runs the command line as a user does and looks at what it prints.
// Among others, key_mint shows G-09, token and config show G-15. The scripts know these commands besides testscript's own:
//
//	ports NAME...          put a free loopback address into each variable
//	ready ADDRESS          wait until the admin listener says that it is ready
//	until-readyz ADDR RE   wait until what /readyz says matches
//	eventually [!] CMD...  run a command until it succeeds (or fails)
//	status N CMD...        run a command, which must exit with N
//	get URL                print what is there, whatever its status
//	capture NAME REGEXP    put the first group of a match in stdout into a variable
//	signal NAME            send a signal to what runs in the background
//	base62 SIZE FILE       write as many random digits, in lines of 100
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Vars = append(env.Vars, hurry)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ports": scriptPorts, "ready": scriptReady, "eventually": scriptEventually, "status": scriptStatus, "until-readyz": scriptUntilReadyz,
			"get": scriptGet, "capture": scriptCapture, "signal": scriptSignal, "base62": scriptBase62,
		},
	})
}

// hurry keeps the race detector from waiting for a second at the end of every
// process.
const hurry = "GORACE=atexit_sleep_ms=0"

// patience is how long a script waits for what must happen.
const patience = 20 * time.Second

// until calls f until it is true. Nothing here depends on how long that takes.
func until(f func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return true
		}
	}
	return false
}

var nextPort atomic.Int32

// freePort returns an address that nobody listens on. It lies below the ports
// that systems give to clients, which would otherwise be taken until it is used,
// and each process begins elsewhere.
func freePort() (string, error) {
	const low, high = 10_000, 32_000
	nextPort.CompareAndSwap(0, rand.Int32N(high-low))
	for range 1_000 {
		at := "127.0.0.1:" + strconv.Itoa(low+int(nextPort.Add(1))%(high-low))
		if l, err := net.Listen("tcp", at); err == nil {
			return at, l.Close()
		}
	}
	return "", fmt.Errorf("no port is free")
}

func scriptPorts(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		at, err := freePort()
		ts.Check(err)
		ts.Setenv(name, at)
	}
}

func fetchText(url string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// ready waits for /readyz; ! ready waits until there is an answer that says no.
func scriptReady(ts *testscript.TestScript, neg bool, args []string) {
	if !until(func() bool {
		status, _, err := fetchText("http://" + args[0] + "/readyz")
		return err == nil && (status == http.StatusOK) != neg
	}) {
		ts.Fatalf("%s was not ready in time", args[0])
	}
}

func scriptUntilReadyz(ts *testscript.TestScript, _ bool, args []string) {
	pattern, last := regexp.MustCompile(args[1]), ""
	if !until(func() bool {
		_, last, _ = fetchText("http://" + args[0] + "/readyz")
		return pattern.MatchString(last)
	}) {
		ts.Fatalf("/readyz still says %s", last)
	}
}

func scriptEventually(ts *testscript.TestScript, _ bool, args []string) {
	want := true
	if args[0] == "!" {
		want, args = false, args[1:]
	}
	if !until(func() bool { return (ts.Exec(args[0], args[1:]...) == nil) == want }) {
		ts.Fatalf("it did not happen in time")
	}
}

func scriptStatus(ts *testscript.TestScript, _ bool, args []string) {
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

func scriptGet(ts *testscript.TestScript, _ bool, args []string) {
	status, body, err := fetchText(args[0])
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "HTTP %d\n%s\n", status, body)
}

func scriptCapture(ts *testscript.TestScript, _ bool, args []string) {
	match := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if match == nil {
		ts.Fatalf("nothing matches %s", args[1])
	}
	ts.Setenv(args[0], match[1])
}

func scriptSignal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(signals[args[0]]))
	}
}

func scriptBase62(ts *testscript.TestScript, _ bool, args []string) {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	size, err := strconv.Atoi(args[0])
	ts.Check(err)
	random := rand.NewChaCha8([32]byte{})
	text := slices.Repeat([]byte{'\n'}, size)
	for i := range text {
		if i%101 != 100 {
			text[i] = alphabet[random.Uint64()%62]
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), text, 0o600))
}
