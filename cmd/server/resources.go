package main

import (
	"io/fs"
	"math"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

const (
	maxConnections  = 8192     // by default
	minConnections  = 64       // likewise
	connectionBytes = 30 << 10 // that an idle connection takes

	maxWorkers  = 2000      // by default
	minWorkers  = 20        // likewise
	workerBytes = 128 << 10 // that a callback takes with the largest result: the result, the body, buffers
)

// defaultConnections is the number that fits into a quarter of the memory limit and half
// of the open files; limits of 0 are none.
func defaultConnections(memory int64, files uint64) int {
	most := min(maxConnections, memory/4/connectionBytes)
	if files > 0 {
		most = min(most, int64(min(files/2, math.MaxInt64)))
	}
	return int(max(most, minConnections))
}

// defaultWorkers is the number of jobs that fit into a quarter of the memory limit.
func defaultWorkers(memory int64) int {
	return int(max(min(maxWorkers, memory/4/workerBytes), minWorkers))
}

// obeyCgroup makes nine tenths of a container's memory the memory limit of the runtime,
// unless GOMEMLIMIT is set. Budgets follow that limit.
func obeyCgroup(environ map[string]string, files fs.FS) {
	if limit := cgroupMemory(files); environ["GOMEMLIMIT"] == "" && limit > 0 {
		debug.SetMemoryLimit(limit / 10 * 9)
	}
}

// cgroupMemory is the least memory that the control groups of this process allow,
// 0 where none limits it or they can't be read.
func cgroupMemory(files fs.FS) (least int64) {
	groups, _ := fs.ReadFile(files, "proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		switch folder := strings.Trim(fields[2], "/"); {
		case fields[1] == "": // version 2
			least = leastOf(least, limitAbove(files, "sys/fs/cgroup", folder, "memory.max"))
		case fields[1] == "memory":
			least = leastOf(least, limitAbove(files, "sys/fs/cgroup/memory", folder, "memory.limit_in_bytes"))
		}
	}
	return least
}

// limitAbove is the least limit of a group and of the groups that it is in. A container
// may see its own as the root.
func limitAbove(files fs.FS, root, folder, file string) (least int64) {
	for ; ; folder = path.Dir(folder) {
		if text, err := fs.ReadFile(files, path.Join(root, folder, file)); err == nil {
			// Version 1 says none by a number close to the largest there is.
			if limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && limit > 0 && limit < 1<<60 {
				least = leastOf(least, limit)
			}
		}
		if folder == "." || folder == "" {
			return least
		}
	}
}

// leastOf takes 0 for no limit.
func leastOf(a, b int64) int64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
