package rig

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Clock is what a process of this machine believes the time to be. A program asks the
// kernel for it in a page of code that the kernel puts into each process, the vDSO, so
// neither a library in its way nor a namespace can tell it something else. Here that
// page is written over in the one process: the program stays as it was built, and finds
// other times from one instruction to the next.
type Clock struct {
	mem  *os.File // of the process
	at   int64    // where the two shifts are
	wall time.Duration
	mono time.Duration
}

// clockCode asks the kernel by a system call and adds a shift, by which clock was asked
// for: clock_gettime(2), arguments in edi and rsi.
var clockCode = []byte{
	0xb8, 228, 0, 0, 0, // mov eax, SYS_clock_gettime
	0x0f, 0x05, // syscall; leaves edi and rsi
	0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
	0x75, 0x0b, // jne +11
	0x48, 0x8b, 0x0d, 0x16, 0, 0, 0, // mov rcx, [rip+22]: wall
	0x48, 0x01, 0x0e, // add [rsi], rcx: the seconds
	0xc3,             // ret
	0x83, 0xff, 0x01, // cmp edi, CLOCK_MONOTONIC
	0x75, 0x0a, // jne +10
	0x48, 0x8b, 0x0d, 0x0e, 0, 0, 0, // mov rcx, [rip+14]: mono
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3,       // ret
	0x90, 0x90, // so that what follows is aligned, and written at once
}

// ClockOf takes the clock of a process in hand, of which only an owner of that process is
// capable. Nothing moves yet.
func ClockOf(pid int) (*Clock, error) {
	own, end, err := vdso("self")
	if err != nil {
		return nil, err
	}
	function, err := clockFunction(own, end)
	if err != nil {
		return nil, err
	}
	its, _, err := vdso(fmt.Sprint(pid))
	if err != nil {
		return nil, err
	}
	c := &Clock{at: its + function + int64(len(clockCode))}
	if c.mem, err = os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if err := c.write(pid, its+function); err != nil {
		return nil, errors.Join(err, c.mem.Close())
	}
	return c, nil
}

// write puts the code in the place of the kernel's, while the process stands still and
// none of its threads is in there.
func (c *Clock) write(pid int, place int64) (err error) {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, syscall.Kill(pid, syscall.SIGCONT)) }()
	for range 100 {
		if outside(pid, place, c.at+16) {
			_, err := c.mem.WriteAt(append(slices.Clone(clockCode), make([]byte, 16)...), place) // both shifts are none
			return err
		}
		_ = syscall.Kill(pid, syscall.SIGCONT)
		time.Sleep(time.Millisecond)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
	}
	return errors.New("the process never stands still outside of the vDSO")
}

// outside reports whether all threads stand still, and none between two places.
func outside(pid int, from, to int64) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, name := range threads {
		text, err := os.ReadFile(name) // "running", or numbers of which the last is where it is: proc(5)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		fields := strings.Fields(string(text))
		if err != nil || len(fields) < 2 {
			return false
		}
		at, err := strconv.ParseInt(fields[len(fields)-1], 0, 64)
		if err != nil || at >= from && at < to {
			return false
		}
	}
	return len(threads) > 0
}

// Shift moves the process's clocks to so far from the machine's: the wall clock, which
// tells what time it is and may go back, and the monotonic one, which timers and timeouts
// run by and which must not. Whole seconds.
func (c *Clock) Shift(wall, mono time.Duration) error {
	if mono < c.mono {
		return errors.New("a monotonic clock does not go back")
	}
	for i, d := range []time.Duration{wall, mono} {
		seconds := binary.LittleEndian.AppendUint64(nil, uint64(int64(d/time.Second)))
		if _, err := c.mem.WriteAt(seconds, c.at+int64(8*i)); err != nil {
			return err
		}
	}
	c.wall, c.mono = wall, mono
	return nil
}

// Set moves the wall clock alone to so far from the machine's.
func (c *Clock) Set(wall time.Duration) error { return c.Shift(wall, c.mono) }

// Pass lets so much time pass at once.
func (c *Clock) Pass(d time.Duration) error { return c.Shift(c.wall+d, c.mono+d) }

// Close lets go of the process, whose clocks stay where they are.
func (c *Clock) Close() error { return c.mem.Close() }

// vdso finds the page in a process.
func vdso(process string) (begin, end int64, err error) {
	maps, err := os.ReadFile("/proc/" + process + "/maps")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			_, err = fmt.Sscanf(line, "%x-%x", &begin, &end)
			return begin, end, err
		}
	}
	return 0, 0, errors.New("the process has no vDSO")
}

// clockFunction is where clock_gettime begins in the page, which is the same for all
// processes but for where it lies.
func clockFunction(begin, end int64) (int64, error) {
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		return 0, err
	}
	defer memory.Close()
	page := make([]byte, end-begin)
	if _, err := memory.ReadAt(page, begin); err != nil {
		return 0, err
	}
	program, err := elf.NewFile(bytes.NewReader(page))
	if err != nil {
		return 0, err
	}
	symbols, err := program.DynamicSymbols()
	if err != nil {
		return 0, err
	}
	for _, s := range symbols {
		if s.Name != "__vdso_clock_gettime" {
			continue
		}
		if need := len(clockCode) + 16; s.Size < uint64(need) {
			return 0, fmt.Errorf("the vDSO's clock_gettime has %d bytes, %d are needed", s.Size, need)
		}
		return int64(s.Value), nil
	}
	return 0, errors.New("the vDSO has no clock_gettime")
}
