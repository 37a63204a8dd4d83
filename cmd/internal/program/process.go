package program

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Process is what /proc/PID/stat tells (proc(5)). Without /proc it is empty.
type Process struct {
	Name   string
	Parent int
	Own    time.Duration // user and system time
	Reaped time.Duration // the same of its children that have ended
}

// tick is the unit of CPU times in /proc: USER_HZ, 100 a second on every
// architecture that Go runs on.
const tick = 10 * time.Millisecond

// ReadProcess reads the state of a process.
func ReadProcess(pid int) (Process, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, fmt.Errorf("reading a process: %w", err)
	}
	return parseProcess(content)
}

// parseProcess looks for the last parenthesis, because the name may hold some.
func parseProcess(stat []byte) (Process, error) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return Process{}, fmt.Errorf("reading a process: no name in %q", stat)
	}
	fields := strings.Fields(string(stat[end+1:])) // from field 3, the state, on
	if len(fields) < 15 {
		return Process{}, fmt.Errorf("reading a process: too few fields in %q", stat)
	}
	number := func(field int) int {
		n, _ := strconv.Atoi(fields[field-3]) // the kernel writes numbers
		return n
	}
	return Process{
		Name:   string(stat[open+1 : end]),
		Parent: number(4),
		Own:    time.Duration(number(14)+number(15)) * tick,
		Reaped: time.Duration(number(16)+number(17)) * tick,
	}, nil
}

// FamilyCPU is the CPU time of a process and of all its children, ended children
// included.
func FamilyCPU(pid int) time.Duration {
	head, err := ReadProcess(pid)
	if err != nil {
		return 0
	}
	total := head.Own + head.Reaped
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		if child, err := parseProcess(content); err == nil && child.Parent == pid {
			total += child.Own
		}
	}
	return total
}

// PeakMemory is the most that a process has had in memory, in bytes, or 0.
func PeakMemory(pid int) float64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kib * 1024
		}
	}
	return 0
}
