package bundle

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Failure is the step at which a bundle failed: a closed set, for metrics.
type Failure string

// The steps, in their order.
const (
	FailedDownload Failure = "download"
	FailedRead     Failure = "read"
	FailedVerify   Failure = "verify"
	FailedRollback Failure = "rollback"
	FailedRoots    Failure = "roots"
	FailedPolicy   Failure = "policy"
	FailedPersist  Failure = "persist"
)

// Failures returns all of them, in their order.
func Failures() []Failure {
	return []Failure{FailedDownload, FailedRead, FailedVerify, FailedRollback, FailedRoots, FailedPolicy, FailedPersist}
}

// Error is what is wrong with a bundle, and at which step that was seen.
type Error struct {
	Step Failure
	Err  error
}

// Error says what is wrong.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Step, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func failed(step Failure, err error) error {
	if err == nil {
		return nil
	}
	return &Error{step, err}
}

func stageOf(err error) Failure {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Step
	}
	return ""
}

// Status says how one bundle is doing. Times are zero for what did not happen.
type Status struct {
	// Name is the bundle's.
	Name string
	// Revision and Digest (SHA-256, hexadecimal) are those of the bundle in force,
	// and ETag is what the server calls it. Empty if there is none.
	Revision, Digest, ETag string
	// Size is that of the packed bundle, in bytes.
	Size int
	// Verified says that its signature is verified.
	Verified bool
	// FromDisk says that it comes from disk and that the server did not confirm it
	// yet.
	FromDisk bool
	// Waiting says that no bundle of this name is in force.
	Waiting bool
	// Downloaded is when bytes last came that were read and verified.
	Downloaded time.Time
	// Activated is when the bundle in force was put there.
	Activated time.Time
	// Checked is when the server last said that what is in force is the newest. A
	// bundle that is refused does not count.
	Checked time.Time
	// Err is why the newest bundle is not in force; nil if it is. It holds no
	// secrets. Since is when that began, and Failed at which step it fails now.
	Err    error
	Failed Failure
	Since  time.Time
	// Activations counts bundles that were put in force, and Refusals answers that
	// failed, by step.
	Activations uint64
	Refusals    map[Failure]uint64
}

func (st *Status) clear() { st.Err, st.Failed, st.Since, st.FromDisk = nil, "", time.Time{}, false }

func (st *Status) activated(c *content, now time.Time) {
	st.Revision, st.Digest, st.Size, st.ETag = c.revision, hex.EncodeToString(c.digest[:]), len(c.raw), c.etag
	st.Activated, st.Checked, st.Waiting = now, c.confirmed, false
	st.Activations++
	if !c.recalled {
		st.clear()
	}
}

// Status returns how each bundle is doing, in the order of the configuration.
func (s *Source) Status() []Status {
	all := make([]Status, len(s.feeds))
	for i, f := range s.feeds {
		all[i] = s.statusOf(f)
	}
	return all
}

// Problem is nil when all bundles are in force and nothing newer was refused; else
// it says why not. Readiness needs less: that something is in force and not Stale.
func (s *Source) Problem() error {
	var all []error
	for _, st := range s.Status() {
		switch {
		case st.Err != nil:
			all = append(all, fmt.Errorf("bundle %s: %w", st.Name, st.Err))
		case st.Waiting:
			all = append(all, fmt.Errorf("bundle %s: not here yet", st.Name))
		}
	}
	return errors.Join(all...)
}

func (s *Source) statusOf(f *feed) Status {
	s.view.RLock()
	defer s.view.RUnlock()
	st := f.status
	st.Refusals = make(map[Failure]uint64, len(f.status.Refusals))
	for step, n := range f.status.Refusals {
		st.Refusals[step] = n
	}
	return st
}

func (s *Source) note(f *feed, change func(*Status)) {
	s.view.Lock()
	defer s.view.Unlock()
	change(&f.status)
}

// refuse notes why an answer is not in force, and says so once.
func (s *Source) refuse(f *feed, err error) {
	step, news := stageOf(err), false
	s.note(f, func(st *Status) {
		if st.Refusals == nil {
			st.Refusals = map[Failure]uint64{}
		}
		st.Refusals[step]++
		news = st.Err == nil || st.Err.Error() != err.Error()
		if st.Err == nil {
			st.Since = s.deps.Now()
		}
		st.Err, st.Failed = err, step
	})
	if news {
		s.deps.Logger.Error("a bundle is not in force; what was stays", "bundle", f.bundle.Name, "step", string(step), "error", err)
	}
}
