package main

import (
	"bytes"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// Go's garbage collector lets the heap grow to twice what is in use, whatever room there
// is: in a container it would be killed with half of its memory full of garbage. It keeps
// within GOMEMLIMIT, which is set here to three quarters of what the control group allows,
// unless somebody has set it. The rest is for what is not the collector's: SQLite, the
// stacks of a burst of requests, and the program itself.

// boundMemory tells the collector of the memory that there is.
func boundMemory(log *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	most, limited := memoryLimit(os.DirFS("/"))
	if !limited {
		return
	}
	most = most / 4 * 3
	debug.SetMemoryLimit(most)
	log.Info("the garbage collector keeps within three quarters of the memory of the control group; GOMEMLIMIT sets another limit", "bytes", most)
}

// memoryLimit is the least that a control group which this process is in allows, in
// bytes, by the files of version 2 and of version 1 (cgroups(7)).
func memoryLimit(root fs.FS) (most int64, limited bool) {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false // not Linux
	}
	most = math.MaxInt64
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // 0::/path, 4:memory:/path
		if len(parts) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		switch {
		case parts[1] == "memory":
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case parts[1] != "":
			continue
		}
		for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) { // and those around it
			if n, ok := readLimit(root, path.Join(mount, group, file)); ok {
				most = min(most, n)
			}
			if group == "/" {
				break
			}
		}
	}
	return most, most < 1<<60 // version 1 writes a number of pages that nobody has for no limit
}

func readLimit(root fs.FS, name string) (int64, bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64) // or "max"
	return n, err == nil && n > 0
}
