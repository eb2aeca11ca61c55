package rig

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// childVariable has this test's program tell the time instead, a line for each that it
// reads.
const childVariable = "POSTERN_RIG_TELLS_THE_TIME"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(m.Run())
	}
	began := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		now := time.Now()
		fmt.Println(now.Unix(), int(now.Sub(began).Seconds()))
	}
}

// One process believes that it is later, or earlier, and this one does not.
func TestClock(t *testing.T) {
	t.Parallel()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Stderr = os.Stderr
	child.Env = append(os.Environ(), childVariable+"=1")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = child.Wait() })
	answers := bufio.NewScanner(out)
	ask := func() (off time.Duration, passed time.Duration) {
		t.Helper()
		if _, err := fmt.Fprintln(in); err != nil || !answers.Scan() {
			t.Fatal("the child has ended: ", err)
		}
		var wall, mono int64
		if _, err := fmt.Sscan(answers.Text(), &wall, &mono); err != nil {
			t.Fatal(err)
		}
		return time.Until(time.Unix(wall, 0)).Round(time.Minute), (time.Duration(mono) * time.Second).Round(time.Minute)
	}
	ask()
	clock, err := ClockOf(child.Process.Pid)
	if err != nil {
		t.Skip("its clock cannot be moved: ", err)
	}
	defer clock.Close()
	for _, step := range []struct{ wall, mono time.Duration }{{}, {time.Hour, 0}, {-time.Hour, 0}, {0, 3 * time.Hour}, {24 * time.Hour, 5 * time.Hour}} {
		if err := clock.Shift(step.wall, step.mono); err != nil {
			t.Fatal(err)
		}
		if off, passed := ask(); off != step.wall || passed != step.mono {
			t.Errorf("%v: the clock is off by %v, and %v have passed", step, off, passed)
		}
	}
	if err := clock.Pass(time.Hour); err != nil {
		t.Fatal(err)
	}
	if off, passed := ask(); off != 25*time.Hour || passed != 6*time.Hour {
		t.Errorf("an hour later it is off by %v, and %v have passed", off, passed)
	}
	if clock.Shift(0, 0) == nil {
		t.Error("a monotonic clock goes back")
	}
}
