//go:build !unix || solaris || illumos || aix

package main

import (
	"io/fs"
	"os"
	"time"
)

// lockDirectory does nothing where directories cannot be locked: two minters at
// the same time may lose an entry, whose key then proves nothing.
func lockDirectory(string) (unlock func(), err error) { return func() {}, nil }

func keepOwner(*os.File, fs.FileInfo) {}

// cpuTime is not known everywhere.
func cpuTime() time.Duration { return 0 }
