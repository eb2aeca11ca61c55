package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/pgtest"
)

const (
	// generation is how many rounds write to the same store; then a new one is begun,
	// so that looking through it stays quick.
	generation = 25
	// longest is how long a child may write after its first change.
	longest = 120 * time.Millisecond
)

// tally is what was found.
type tally struct {
	rounds, acknowledged int
	refused              int // stores that said they were damaged
	lost, half, other    []string
}

func (t tally) bad() bool { return len(t.lost)+len(t.half)+len(t.other) > 0 }

func (t tally) String() string {
	s := fmt.Sprintf("rounds %d, changes acknowledged %d, refused as damaged %d, lost %d, half %d, other faults %d",
		t.rounds, t.acknowledged, t.refused, len(t.lost), len(t.half), len(t.other))
	for _, fault := range append(append(t.lost, t.half...), t.other...) {
		s += "\n" + fault
	}
	return s
}

// ack is a change that the store acknowledged.
type ack struct {
	n, change int64
	gone      bool
}

// run kills as often as it was told to.
func run(ctx context.Context, s settings) (t tally, err error) {
	dir, err := os.MkdirTemp("", "durability")
	if err != nil {
		return t, err
	}
	defer os.RemoveAll(dir)
	var cluster *pgtest.Cluster
	if s.engine == "postgres" {
		if cluster, err = pgtest.Start(true); err != nil {
			return t, err
		}
		defer cluster.Close()
	}
	random := rand.New(rand.NewPCG(s.seed, 0))
	var address string
	var acks map[string]ack
	for t.rounds < s.rounds && !t.bad() && ctx.Err() == nil {
		if t.rounds%generation == 0 {
			acks = make(map[string]ack)
			if address, err = begin(ctx, s, dir, cluster, t.rounds); err != nil {
				return t, err
			}
		}
		t.rounds++
		printed, err := kill(address, t.rounds, random)
		if err == nil && s.server {
			err = errors.Join(cluster.Kill(), cluster.Up())
		}
		if err == nil {
			err = t.note(acks, printed)
		}
		if err == nil {
			err = t.verify(ctx, address, acks)
		}
		if err != nil {
			return t, fmt.Errorf("round %d: %w", t.rounds, err)
		}
	}
	return t, ctx.Err()
}

// begin returns the address of a new store.
func begin(ctx context.Context, s settings, dir string, cluster *pgtest.Cluster, round int) (string, error) {
	switch s.engine {
	case "sqlite":
		return "sqlite:" + filepath.Join(dir, fmt.Sprint(round)), nil
	case "postgres":
		address, err := cluster.Database(ctx)
		return "postgres:" + address, err
	}
	return "", fmt.Errorf("no engine %q: sqlite or postgres", s.engine)
}

// kill lets a child write and returns what it printed until it was killed. One in
// eight is killed before it has written anything.
func kill(address string, round int, random *rand.Rand) ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+address, fmt.Sprintf("%s=%d", roundVariable, round))
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	early := random.IntN(8) == 0
	wait := time.Duration(random.Int64N(int64(longest)))
	reader := bufio.NewReader(out)
	if !early {
		if _, err := reader.Peek(1); err != nil {
			_ = cmd.Wait()
			return nil, fmt.Errorf("the child wrote nothing: %s", &complaint)
		}
	}
	timer := time.AfterFunc(wait, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	printed, err := io.ReadAll(reader) // until it is dead
	if waited := cmd.Wait(); waited == nil || complaint.Len() > 0 {
		return nil, fmt.Errorf("the child ended by itself: %s", &complaint)
	}
	return printed, err
}

// note remembers what was acknowledged last for each pair.
func (t *tally) note(acks map[string]ack, printed []byte) error {
	for line := range strings.Lines(string(printed)) {
		if !strings.HasSuffix(line, "\n") {
			return fmt.Errorf("half a line %q", line)
		}
		var id string
		var a ack
		if _, err := fmt.Sscan(line, &id, &a.n, &a.gone, &a.change); err != nil {
			return err
		}
		acks[id] = a
		t.acknowledged++
	}
	return nil
}

// verify looks through the store.
func (t *tally) verify(ctx context.Context, address string, acks map[string]ack) error {
	s, err := open(ctx, address)
	if err != nil {
		return err
	}
	defer s.Close()
	report, err := s.Check(ctx)
	if err != nil {
		return err
	}
	t.other = append(t.other, report.Faults...)
	records := make(map[string]store.Record)
	for _, after := range []int64{0, min(1, report.Head)} { // the second time with tombstones
		batch, err := s.Changes(ctx, after, math.MaxInt32)
		if err != nil {
			return err
		}
		for _, r := range batch.Records {
			records[r.ID] = r
		}
	}
	t.compare(report, records, acks)
	return nil
}

func (t *tally) compare(report store.Report, records map[string]store.Record, acks map[string]ack) {
	if report.Audit != report.Head {
		t.half = append(t.half, fmt.Sprintf("%d changes have %d audit entries", report.Head, report.Audit))
	}
	if total := t.content(records[all]); report.Head > 0 && total.N != report.Head {
		t.half = append(t.half, fmt.Sprintf("%d changes have added up to %d", report.Head, total.N))
	}
	for id, a := range records {
		if name, is := strings.CutSuffix(id, "/a"); is {
			b := records[name+"/b"]
			if a.Version != b.Version || a.Deleted != b.Deleted || !bytes.Equal(a.Body, b.Body) {
				t.half = append(t.half, fmt.Sprintf("%s: one is %s of %d, the other %s of %d", name, a.Body, a.Version, b.Body, b.Version))
			}
		}
		if !a.Deleted && t.content(a).Change != a.Version {
			t.other = append(t.other, fmt.Sprintf("%s: version %d was written by change %d", id, a.Version, t.content(a).Change))
		}
	}
	for id, want := range acks {
		if r := records[id+"/a"]; !holds(r, want, t.content(r)) {
			t.lost = append(t.lost, fmt.Sprintf("%s: change %d was acknowledged (n %d, deleted %t), there is %s of %d (deleted %t)",
				id, want.change, want.n, want.gone, r.Body, r.Version, r.Deleted))
		}
	}
}

// holds says whether a record is what was acknowledged, or what the one change
// made of it that may have followed without an acknowledgement.
func holds(r store.Record, want ack, have content) bool {
	if r.Version == want.change {
		return r.Deleted == want.gone && (r.Deleted || have.N == want.n)
	}
	return r.Version > want.change && !want.gone && (r.Deleted && want.n == 3 || have.N == want.n+1)
}

// content reads a body; what cannot be read is like nothing that was written.
func (t *tally) content(r store.Record) (c content) {
	if err := json.Unmarshal(r.Body, &c); err != nil && !r.Deleted {
		return content{-1, -1}
	}
	return c
}
