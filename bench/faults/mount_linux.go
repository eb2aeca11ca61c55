package main

import (
	"os"
	"syscall"
)

// mountSmall mounts a disk of 16 MiB in memory.
func mountSmall(dir string) (disk string, unmount func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		return "", nil, err
	}
	return dir, func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }, nil
}
