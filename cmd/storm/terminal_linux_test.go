package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
)

var cursorUp = regexp.MustCompile(`\x1b\[\d*A`)

// The panel moves the cursor, which not every terminal can, and needs its rows.
func TestTerminals(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		term  string
		rows  uint16
		moves bool
	}{
		"OfTheUsualSize":    {"xterm", 24, true},
		"Dumb":              {"dumb", 24, false},
		"WithoutAName":      {"", 24, false},
		"OfEightRows":       {"xterm", 8, false},
		"ThatTellsNoSize":   {"xterm", 0, false},
		"OfARowMore":        {"xterm", 9, true},
		"DumbAndTooLowToo":  {"dumb", 8, false},
		"OfAnUnknownFamily": {"vt52-of-tomorrow", 24, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := start(t, &service{})
			shown := onTerminal(t, test.term, test.rows, against(service, "-duration", "1500ms")...)
			if moves := cursorUp.Match(shown); moves != test.moves {
				t.Errorf("moves the cursor: got %v, want %v, in\n%q", moves, test.moves, shown)
			}
			if test.term == "dumb" && bytes.ContainsRune(shown, '\x1b') {
				t.Errorf("got escape sequences, want none, in\n%q", shown)
			}
		})
	}
}

// onTerminal runs storm with a terminal, and returns what came to be shown.
func onTerminal(t *testing.T, name string, rows uint16, args ...string) []byte {
	t.Helper()
	near, far := openTerminal(t, rows)
	program := exec.CommandContext(t.Context(), os.Args[0], args...)
	program.Env = append(os.Environ(), "STORM_TEST_RUNS_MAIN=1", "TERM="+name)
	program.Stdin, program.Stdout, program.Stderr = far, far, far
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	far.Close()
	shown, _ := io.ReadAll(near) // ends with an error once nobody has the terminal
	if err := program.Wait(); err != nil {
		t.Errorf("got %v, want it to end well:\n%s", err, shown)
	}
	return shown
}

// openTerminal returns both ends of a terminal of 120 columns.
func openTerminal(t *testing.T, rows uint16) (near, far *os.File) {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if err := unix.IoctlSetPointerInt(int(near.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(near.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(near.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: 120}); err != nil {
		t.Fatal(err)
	}
	far, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}
