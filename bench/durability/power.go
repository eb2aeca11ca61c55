package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// A power cut takes from a disk what was written and not synced: all of it, parts of it,
// in any order, and of a single write those sectors that had not arrived. So a child's
// system calls are recorded with strace, and for moments between them disks are made up
// as they may have been found:
//
//	synced with fsync         is there
//	written since             none, all, some, some in another order, or sectors of some
//	names made or removed     as of their directory's fsync, and any number of those since
//
// Each disk is opened as a store and has to hold what had been acknowledged by then.

// errNoTracer says that nothing can be recorded here.
var errNoTracer = errors.New("strace is not installed, or may not trace (Debian: apt-get install strace)")

// sector is what a disk writes as one.
const sector = 512

// call is what a child did to its files, or said.
type call struct {
	name string // write, truncate, sync, create, link, remove, say
	path string
	to   string // of a link
	at   int64  // where it writes, or how long the file is then
	data []byte
	file *inode // that it creates
}

// record runs a child for some time and returns what it did below its directory.
func record(dir string, lasts time.Duration) ([]call, error) {
	tracer, err := exec.LookPath("strace")
	if err != nil {
		return nil, errNoTracer
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	home, trace := filepath.Join(dir, "disk"), filepath.Join(dir, "trace")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	cmd := exec.Command(tracer, "-f", "-qq", "-xx", "-y", "-s", "1048576", "-o", trace, "-e", "signal=none",
		"-e", "trace=open,openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,link,linkat,unlink,unlinkat", self)
	cmd.Env = append(os.Environ(), childVariable+"=sqlite:"+filepath.Join(home, "store"), roundVariable+"=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	timer := time.AfterFunc(lasts, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	_ = cmd.Wait() // it was killed
	if timer.Stop() {
		return nil, fmt.Errorf("%w: %s", errNoTracer, &complaint)
	}
	text, err := os.Open(trace)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	return parse(bufio.NewReaderSize(text, 4<<20), home)
}

var (
	whole   = regexp.MustCompile(`^\d+ +(\w+)\((.*)\) += (\d+)`)
	begun   = regexp.MustCompile(`^(\d+) +(.*) <unfinished \.\.\.>$`)
	resumed = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)$`)
	file    = regexp.MustCompile(`^(\d+)<([^>]*)>`)
	quoted  = regexp.MustCompile(`"([^"]*)"`)
)

// parse reads what strace wrote. A call that another thread interrupts is one when it
// ends. The last line is cut off as a rule.
func parse(trace *bufio.Reader, home string) (calls []call, err error) {
	open := map[string]string{}
	known := map[string]bool{}
	for {
		line, err := trace.ReadString('\n')
		if err != nil {
			return calls, nil //nolint:nilerr // it ends where strace was killed
		}
		line = strings.TrimSuffix(line, "\n")
		if m := begun.FindStringSubmatch(line); m != nil {
			open[m[1]] = m[2]
			continue
		}
		if m := resumed.FindStringSubmatch(line); m != nil {
			line = m[1] + " " + open[m[1]] + m[2]
		}
		m := whole.FindStringSubmatch(line)
		if m == nil {
			continue // it failed
		}
		c, ok := understand(m[1], m[2], known)
		if ok && (c.name == "say" || strings.HasPrefix(c.path, home)) && !strings.HasSuffix(c.path, "-shm") {
			calls = append(calls, c)
		}
	}
}

// understand makes a call of a line's parts.
func understand(name, args string, known map[string]bool) (call, bool) {
	c := call{path: unhex(first(file.FindStringSubmatch(args), 2))}
	texts := quoted.FindAllStringSubmatch(args, -1)
	numbers := strings.Split(args[strings.LastIndexByte(args, '"')+1:], ", ")
	switch name {
	case "write", "pwrite64":
		c.name, c.data = "write", []byte(unhex(texts[0][1]))
		if name == "write" {
			c.name = "say"
			return c, strings.HasPrefix(args, "1<")
		}
		c.at, _ = strconv.ParseInt(numbers[len(numbers)-1], 10, 64)
	case "fsync", "fdatasync":
		c.name = "sync"
	case "ftruncate":
		c.name = "truncate"
		c.at, _ = strconv.ParseInt(args[strings.LastIndexByte(args, ' ')+1:], 10, 64)
	case "open", "openat":
		c.name, c.path = "create", unhex(texts[0][1])
		if known[c.path] || !strings.Contains(args, "O_CREAT") {
			return c, false
		}
		known[c.path] = true
	case "link", "linkat", "rename", "renameat", "renameat2":
		c.name, c.path, c.to = "link", unhex(texts[0][1]), unhex(texts[1][1])
		if known[c.to] = true; strings.HasPrefix(name, "rename") {
			c.name = "rename"
			delete(known, c.path)
		}
	case "unlink", "unlinkat":
		c.name, c.path = "remove", unhex(texts[0][1])
		delete(known, c.path)
	}
	return c, c.name != ""
}

func first(found []string, n int) string {
	if len(found) <= n {
		return ""
	}
	return found[n]
}

// unhex reads a text as strace -xx writes it.
func unhex(text string) string {
	raw, err := hex.DecodeString(strings.ReplaceAll(text, `\x`, ""))
	if err != nil {
		return text
	}
	return string(raw)
}

// inode is a file: what is on disk for certain, and what was done to it since.
type inode struct {
	synced []byte
	since  []call
}

// machine is a computer that can lose its power.
type machine struct {
	names   map[string]*inode // as its processes see them
	synced  map[string]*inode // as they are on disk for certain
	renamed []call            // what was done to names since
}

func newMachine() *machine {
	return &machine{names: map[string]*inode{}, synced: map[string]*inode{}}
}

// do carries out a call.
func (m *machine) do(c call, home string) {
	switch f := m.names[c.path]; {
	case c.name == "create", c.name == "link", c.name == "rename", c.name == "remove":
		if c.name == "create" {
			c.file = &inode{}
		}
		m.renamed = append(m.renamed, c)
		rename(m.names, c)
	case c.name == "sync" && c.path == home:
		for _, c := range m.renamed {
			rename(m.synced, c)
		}
		m.renamed = nil
	case f == nil:
	case c.name == "sync":
		f.synced = after(f.synced, f.since)
		f.since = nil
	default:
		f.since = append(f.since, c)
	}
}

// rename applies a change of names.
func rename(names map[string]*inode, c call) {
	switch c.name {
	case "create":
		names[c.path] = c.file
	case "link", "rename":
		names[c.to] = names[c.path]
		if c.name == "rename" {
			delete(names, c.path)
		}
	case "remove":
		delete(names, c.path)
	}
}

// after is a file's content after some calls.
func after(content []byte, calls []call) []byte {
	content = slices.Clone(content)
	for _, c := range calls {
		end := int(c.at) + len(c.data)
		if len(content) < end {
			content = append(content, make([]byte, end-len(content))...)
		}
		if c.name == "truncate" {
			content = content[:c.at]
			continue
		}
		copy(content[c.at:], c.data)
	}
	return content
}

// ways are those in which what was not synced may have reached the disk.
var ways = []func(*rand.Rand, []call) []call{
	func(*rand.Rand, []call) []call { return nil },
	func(_ *rand.Rand, all []call) []call { return all },
	some,
	func(r *rand.Rand, all []call) []call {
		kept := some(r, all)
		r.Shuffle(len(kept), func(i, j int) { kept[i], kept[j] = kept[j], kept[i] })
		return kept
	},
	torn,
}

func some(r *rand.Rand, all []call) []call {
	return slices.DeleteFunc(slices.Clone(all), func(call) bool { return r.IntN(2) == 0 })
}

// torn keeps sectors.
func torn(r *rand.Rand, all []call) (kept []call) {
	for _, c := range all {
		if c.name == "truncate" {
			kept = append(kept, c)
			continue
		}
		for from := 0; from < len(c.data); {
			to := min(len(c.data), from+sector-int(c.at+int64(from))%sector)
			if r.IntN(2) == 0 {
				kept = append(kept, call{name: "write", at: c.at + int64(from), data: c.data[from:to]})
			}
			from = to
		}
	}
	return kept
}

// found makes a directory of what is found when the power is back.
func (m *machine) found(dir, home string, r *rand.Rand, way int) error {
	names := maps.Clone(m.synced)
	kept := len(m.renamed)
	if way != 1 {
		kept = r.IntN(len(m.renamed) + 1)
	}
	for _, c := range m.renamed[:kept] {
		rename(names, c)
	}
	for name, f := range names {
		content := after(f.synced, ways[way](r, f.since))
		if err := os.WriteFile(filepath.Join(dir, strings.TrimPrefix(name, home)), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// cutPower makes disks and looks at each.
func cutPower(ctx context.Context, s settings) (t tally, err error) {
	dir, err := os.MkdirTemp("", "durability")
	if err != nil {
		return t, err
	}
	defer os.RemoveAll(dir)
	calls, err := record(dir, s.lasts)
	if err != nil {
		return t, err
	}
	return cutAll(ctx, s, calls, filepath.Join(dir, "disk"))
}

// cutAll cuts the power at moments of what was recorded below home.
func cutAll(ctx context.Context, s settings, calls []call, home string) (t tally, err error) {
	fast := "/dev/shm" // nothing is lost with it that is not lost on purpose
	if _, err := os.Stat(fast); err != nil {
		fast = ""
	}
	dir, err := os.MkdirTemp(fast, "durability")
	if err != nil {
		return t, err
	}
	defer os.RemoveAll(dir)
	r := rand.New(rand.NewPCG(s.seed, 0))
	cuts := moments(calls, s.rounds, r)
	m, acks := newMachine(), map[string]ack{}
	for i, c := range calls {
		for ; len(cuts) > 0 && cuts[0] == i && ctx.Err() == nil && !t.bad(); cuts = cuts[1:] {
			if err := t.cut(ctx, m, filepath.Join(dir, "found"), home, r, acks); err != nil {
				return t, fmt.Errorf("power cut before call %d of %d: %w", i, len(calls), err)
			}
		}
		if c.name == "say" {
			if err := t.note(acks, c.data); err != nil {
				return t, err
			}
			continue
		}
		m.do(c, home)
	}
	return t, ctx.Err()
}

// moments are the calls before which the power is cut, in order: half of them around
// a sync, when most is to be lost or has just been saved.
func moments(calls []call, n int, r *rand.Rand) (all []int) {
	var syncs []int
	for i, c := range calls {
		if c.name == "sync" {
			syncs = append(syncs, i, i+1)
		}
	}
	for i := range n {
		switch {
		case len(syncs) > 0 && i%2 == 0:
			all = append(all, syncs[r.IntN(len(syncs))])
		case len(calls) > 0:
			all = append(all, r.IntN(len(calls)))
		}
	}
	slices.Sort(all)
	return all
}

// cut looks at what one power cut leaves.
func (t *tally) cut(ctx context.Context, m *machine, dir, home string, r *rand.Rand, acks map[string]ack) error {
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	way := t.rounds % len(ways)
	t.rounds++
	if err := m.found(dir, home, r, way); err != nil {
		return err
	}
	path := filepath.Join(dir, "store")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if len(acks) > 0 {
			t.lost = append(t.lost, "the store is gone")
		}
		return nil
	}
	err := t.verify(ctx, "sqlite:"+path, acks)
	if errors.Is(err, store.ErrCorrupt) { // clearly said, and nothing was lost silently
		t.refused++
		return nil
	}
	return err
}
