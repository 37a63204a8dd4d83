package program

import (
	"fmt"
	"time"

	"github.com/prometheus/procfs"
)

// tick is the unit of CPU times in /proc: USER_HZ, 100 a second on every
// architecture that Go runs on.
const tick = 10 * time.Millisecond

// Postmaster returns the pid of a Postgres backend's parent, or 0 where the backend runs on
// another machine or in another namespace of pids.
func Postmaster(backend int) (pid int) {
	if stat, err := read(backend); err == nil && stat.Comm == "postgres" {
		return stat.PPID
	}
	return 0
}

// CPU is the user and system time of a process, or 0.
func CPU(pid int) time.Duration {
	stat, _ := read(pid) // zero without such a process
	return time.Duration(stat.UTime+stat.STime) * tick
}

// FamilyCPU is the CPU time of a process and of its children, also of ended children, or 0.
func FamilyCPU(pid int) time.Duration {
	head, err := read(pid)
	if err != nil {
		return 0
	}
	total := CPU(pid) + time.Duration(head.CUTime+head.CSTime)*tick
	all, _ := procfs.AllProcs() // none without /proc
	for _, child := range all {
		if stat, err := child.Stat(); err == nil && stat.PPID == pid {
			total += time.Duration(stat.UTime+stat.STime) * tick
		}
	}
	return total
}

// PeakMemory is the most that a process has had in memory, in bytes, or 0.
func PeakMemory(pid int) float64 {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return 0
	}
	status, _ := process.NewStatus() // zero where the process has just ended
	return float64(status.VmHWM)
}

func read(pid int) (procfs.ProcStat, error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return procfs.ProcStat{}, fmt.Errorf("reading a process: %w", err)
	}
	return process.Stat()
}
