package rig

import (
	"os"
	"syscall"
)

// MountMemory mounts a file system in memory at a directory, which it makes: a disk of
// some size, "16m", to fill. Only root may, and only on Linux.
func MountMemory(dir, size string) (unmount func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	return func() error { return syscall.Unmount(dir, syscall.MNT_DETACH) }, nil
}
