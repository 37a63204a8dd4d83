package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringback/db/dbtest"
	"ringback/internal/bubble"
)

// TestLogReader runs the program with a log whose reader is stopped, or gone.
func TestLogReader(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(io.Closer){"ThatIsStopped": func(io.Closer) {}, "ThatIsGone": func(r io.Closer) { r.Close() }} {
		t.Run(name+"HoldsNothingUp", func(t *testing.T) {
			t.Parallel()
			p, reader := startWithPipes(t, dbtest.New(t))
			// A pipe holds 64 KiB, which some lines fill.
			leave(reader)
			long := strings.Repeat("x", 100)
			for range 500 {
				call, _ := http.NewRequest(http.MethodPost, p.url+"/sync", strings.NewReader(`{"input":{"text":"x"}}`))
				call.Header.Set("Content-Type", "application/json")
				call.Header.Set("X-Request-Id", long)
				response, err := http.DefaultClient.Do(call)
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				if response.StatusCode != http.StatusOK {
					t.Fatalf("got %s, want 200", response.Status)
				}
			}
			if err := p.waitStopped(t); err != nil {
				t.Errorf("the program ended with %v, want no error", err)
			}
		})
	}
}

// startWithPipes starts the program as a process whose output nobody reads once it
// listens. The reader's ends are closed when the test ends.
func startWithPipes(t *testing.T, databaseURL string) (*program, io.Closer) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	command := exec.Command(os.Args[0], "--dev")
	command.Env = append(os.Environ(), asProgram+"=1")
	for name, value := range environment(databaseURL, map[string]string{"STOP_TIMEOUT": "1s"}) {
		command.Env = append(command.Env, name+"="+value)
	}
	command.Stdout, command.Stderr = writer, writer
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	p := &program{process: command.Process, ended: make(chan struct{}), stop: func() { _ = command.Process.Signal(syscall.SIGTERM) }}
	go func() {
		p.err = command.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() { _ = command.Process.Kill(); <-p.ended })
	var seen bytes.Buffer
	chunk := make([]byte, 4<<10)
	defer p.bePatient(t, databaseURL)
	for p.url == "" {
		n, err := reader.Read(chunk)
		if err != nil {
			t.Fatalf("the program ended before it listened: %v\n%s", err, &seen)
		}
		seen.Write(chunk[:n])
		if match := listening.FindStringSubmatch(seen.String()); match != nil {
			p.url, p.adminURL = "http://"+match[1], "http://"+match[2]
		}
	}
	return p, reader
}

func TestHangupDrains(t *testing.T) {
	t.Parallel()
	// Handled here, the signal is no longer ignored in programs started from here, as it
	// is where the tests run under nohup.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	p := startProcess(t, dbtest.New(t), nil)
	p.stop = func() { _ = p.process.Signal(syscall.SIGHUP) }
	if err := p.waitStopped(t); err != nil || !strings.Contains(p.log.String(), "msg=stopped") {
		t.Errorf("got %v and the log\n%s\nwant that it drained", err, &p.log)
	}
}

func TestLongestStop(t *testing.T) {
	t.Parallel()
	config, err := readConfig(nil, options{dev: true}, works)
	if err != nil {
		t.Fatal(err)
	}
	if got := longestStop(config.StopTimeout); got > 25*time.Second {
		t.Errorf("with the default a stop takes %v at most, want 25s at most", got)
	}
}

// stuck is a log reader that takes nothing until it is let go.
type stuck struct {
	let   chan error
	taken bytes.Buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	if err := <-s.let; err != nil {
		return 0, err
	}
	return s.taken.Write(p)
}

func TestLogBuffer(t *testing.T) {
	t.Parallel()

	t.Run("WritesAllInOrder", func(t *testing.T) {
		t.Parallel()
		var out bytes.Buffer
		b := newLogBuffer(&out)
		for range 1000 {
			_, _ = b.Write([]byte("a\n"))
			_, _ = b.Write([]byte("b\n"))
		}
		b.flush()
		if want := strings.Repeat("a\nb\n", 1000); out.String() != want || b.lost() != 0 {
			t.Errorf("got %d bytes, %v lost, want %d", out.Len(), b.lost(), len(want))
		}
	})

	t.Run("DropsAndCountsWhatDoesNotFit", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			reader := &stuck{let: make(chan error)}
			b := newLogBuffer(reader)
			line := []byte(strings.Repeat("x", 1<<10-1) + "\n")
			_, _ = b.Write(line)
			bubble.Wait() // the first line is being written
			for range logBytes>>10 + 7 {
				_, _ = b.Write(line)
			}
			if got := b.lost(); got != 7 {
				t.Errorf("got %v lines lost, want 7", got)
			}
			if got := b.fullness(); got != 1 {
				t.Errorf("got %v full, want 1", got)
			}
			start := time.Now()
			b.flush()
			if waited := time.Since(start); waited != logFlushTimeout {
				t.Errorf("flush waited %v, want %v", waited, logFlushTimeout)
			}
			reader.let <- nil
			reader.let <- errors.New("nobody reads")
			b.flush()
			if got := b.lost(); got != 7+logBytes>>10 || reader.taken.Len() != len(line) {
				t.Errorf("got %v lines lost and %d bytes taken, want the second write lost", got, reader.taken.Len())
			}
			if got := b.fullness(); got != 0 {
				t.Errorf("got %v full after all was written, want 0", got)
			}
			close(b.more)
		})
	})

	t.Run("CountsWhatADiskThatIsFullDidNotTakeAndBeginsWithAWholeLine", func(t *testing.T) {
		t.Parallel()
		disk := &full{room: len("first\nsec")}
		b := newLogBuffer(disk)
		for _, lines := range []string{"first\nsecond\nthird\n", "fourth\n"} {
			_, _ = b.Write([]byte(lines))
			b.flush()
		}
		if got := b.lost(); got != 3 {
			t.Errorf("got %v lines lost, want 3", got)
		}
		disk.room = 1 << 10
		_, _ = b.Write([]byte("fifth\n"))
		b.flush()
		if got, want := disk.taken.String(), "first\nsec\nfifth\n"; got != want || b.lost() != 3 {
			t.Errorf("got %q and %v lost, want %q and 3", got, b.lost(), want)
		}
	})
}

// full is a disk with little room.
type full struct {
	room  int
	taken bytes.Buffer
}

func (f *full) Write(p []byte) (int, error) {
	if len(p) > f.room {
		f.taken.Write(p[:f.room])
		n := f.room
		f.room = 0
		return n, syscall.ENOSPC
	}
	f.room -= len(p)
	return f.taken.Write(p)
}

func TestSeldom(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		logger := slog.New(newSeldom(slog.NewTextHandler(&out, nil)))
		for range 30 {
			logger.Error("fetching failed")
			logger.With("queue", "work").Error("fetching failed")
		}
		logger.Error("something else")
		time.Sleep(repeatInterval)
		logger.Error("fetching failed")
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 3 || !strings.Contains(lines[2], "repeated=59") {
			t.Errorf("got %q, want three lines, the last of which counts 59", lines)
		}
	})
}
