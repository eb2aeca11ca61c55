package rig

import (
	"syscall"
	"time"
)

// nap sleeps to about 50 µs. Go's own timers are up to a millisecond late where
// nothing else runs: it waits for them in epoll_wait, which counts in milliseconds.
func nap(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&t, nil) // woken early, the caller is a little early
}
