package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
)

// server is a server under test. Its process is started again whenever it ends, on the
// same addresses.
type server struct {
	name    string
	role    string
	address string
	admin   string // the address of the operator's pages
	environ []string
	log     *os.File
	gate    sync.Mutex // held while the log isn't read

	path    atomic.Pointer[string]         // of the program to start next
	process atomic.Pointer[program.Server] // nil while the server is down
}

// newServer keeps the server's log in a file of the folder logs, or nowhere if logs is empty.
func newServer(number int, role, path, logs string, environ ...string) (*server, error) {
	s := &server{name: fmt.Sprint("server-", number), role: role}
	s.path.Store(&path)
	file := os.DevNull
	if logs != "" {
		file = filepath.Join(logs, s.name+".log")
	}
	var errs [3]error
	s.address, errs[0] = program.FreeAddress()
	s.admin, errs[1] = program.FreeAddress()
	s.log, errs[2] = os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	s.environ = append(environ, "HTTP_ADDR="+s.address, "ADMIN_ADDR="+s.admin)
	return s, errors.Join(errs[:]...)
}

// supervise keeps the server running until ctx ends, and then stops it.
func (s *server) supervise(ctx context.Context, died func()) {
	for ctx.Err() == nil {
		if process, err := s.start(); err == nil {
			s.process.Store(process)
			if process.Wait(ctx) != nil { // the run is over
				process.Signal(syscall.SIGCONT)
				_ = process.Stop()
			}
			s.process.Store(nil)
			died()
		}
		load.Pause(ctx, 300*time.Millisecond)
	}
	_ = s.log.Close()
}

// start gives the process a pipe for its log. Where that can be set, the pipe holds only a
// page, so that it is soon full.
func (s *server) start() (*program.Server, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("opening a pipe for a log: %w", err)
	}
	defer to.Close()         // the process has its own
	const setPipeSize = 1031 // Linux's F_SETPIPE_SZ, which syscall doesn't name
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, to.Fd(), setPipeSize, uintptr(os.Getpagesize()))
	go func() {
		defer from.Close()
		_, _ = io.Copy(s, from) // until the process has ended
	}()
	command := exec.Command(*s.path.Load(), "--dev", "--role="+s.role)
	command.Env, command.Stderr = s.environ, to
	return program.Start(command, s.address)
}

// Write keeps a piece of the log, once the gate is open. A log file that can't be written must
// not block the server.
func (s *server) Write(piece []byte) (int, error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	_, _ = s.log.Write(piece)
	return len(piece), nil
}

// errDown means that the server has no process at the moment.
var errDown = errors.New("that server is down")

// current is the process that runs.
func (s *server) current() (*program.Server, error) {
	if process := s.process.Load(); process != nil {
		return process, nil
	}
	return nil, errDown
}

// waitHealthy returns when the server is healthy.
func (s *server) waitHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		if process, err := s.current(); err == nil && process.WaitHealthy(ctx) == nil {
			return nil
		}
		load.Pause(ctx, 20*time.Millisecond)
	}
	return fmt.Errorf("waiting for %s: %w", s.name, ctx.Err())
}

// takesCalls tells whether the server has the API.
func (s *server) takesCalls() bool { return s.role != "worker" }

func (s *server) url(path string) string { return "http://" + s.address + path }
