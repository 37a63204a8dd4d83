package program

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

func TestOwnProcess(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc here")
	}
	for CPU(os.Getpid()) == 0 { // until the kernel's clock has ticked
	}
	if own, family := CPU(os.Getpid()), FamilyCPU(os.Getpid()); family < own {
		t.Errorf("CPU of the family: got %v, want the process's own %v at least", family, own)
	}
	if memory := PeakMemory(os.Getpid()); memory < 1<<20 {
		t.Errorf("peak memory is %v bytes", memory)
	}
	if got := Postmaster(os.Getpid()); got != 0 {
		t.Errorf("postmaster of a process that is none of Postgres: got %d, want 0", got)
	}
}

// A child's time counts while it runs.
func TestFamilyOfAProcess(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc here")
	}
	parent := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done & echo $!; wait")
	output, err := parent.StdoutPipe()
	if err == nil {
		err = parent.Start()
	}
	var child int
	if err == nil {
		_, err = fmt.Fscan(output, &child)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGKILL) })
	for CPU(child) == 0 {
		runtime.Gosched()
	}
	if least, family := CPU(child), FamilyCPU(parent.Process.Pid); family < least {
		t.Errorf("got %v, want the child's %v at least", family, least)
	}
}
