//go:build unix && !solaris && !illumos && !aix

package main

import (
	"io/fs"
	"os"
	"syscall"
	"time"
)

// lockDirectory keeps other minters out of a directory until unlock is called.
// The lock is on the directory, because the file in it is replaced.
func lockDirectory(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, &fs.PathError{Op: "lock", Path: dir, Err: err}
	}
	return func() { _ = f.Close() }, nil
}

// keepOwner gives a file the owner of another: what root replaces must stay
// readable to the server. Only root can, and only root needs to.
func keepOwner(f *os.File, other fs.FileInfo) {
	if s, ok := other.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(s.Uid), int(s.Gid))
	}
}

// cpuTime is what this process has used of its CPUs; 0 if nobody knows.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
