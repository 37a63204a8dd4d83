package program

import (
	"os"
	"testing"
	"time"
)

func TestParseProcess(t *testing.T) {
	t.Parallel()
	stat := "77 (post (x) gres) S 12 77 77 0 -1 4194560 9 8 0 0 150 25 3000 400 20 0 1 0 99 1 1"
	got, err := parseProcess([]byte(stat))
	if err != nil {
		t.Fatal(err)
	}
	want := Process{Name: "post (x) gres", Parent: 12, Own: 1750 * time.Millisecond, Reaped: 34 * time.Second}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseProcessRefusesOtherFiles(t *testing.T) {
	t.Parallel()
	for _, stat := range []string{"", "1 sh S 0", "1 (sh) S 0", ")("} {
		if got, err := parseProcess([]byte(stat)); err == nil {
			t.Errorf("parseProcess(%q) = %+v, want an error", stat, got)
		}
	}
}

func TestOwnProcess(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc here")
	}
	got, err := ReadProcess(os.Getpid())
	if err != nil || got.Parent != os.Getppid() {
		t.Errorf("got %+v, %v, want the parent %d", got, err, os.Getppid())
	}
	if memory := PeakMemory(os.Getpid()); memory < 1<<20 {
		t.Errorf("peak memory is %v bytes", memory)
	}
}
