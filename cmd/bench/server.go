package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// variant is which service is measured.
type variant string

const (
	ours  variant = "ours"
	naive variant = "naive"
)

func variants() []variant { return []variant{ours, naive} }

// server is one of them, running as a process of its own.
type server struct {
	url     string
	command *exec.Cmd
	ended   chan error // holds the process's end
}

// start starts a server on a database and returns when it is healthy. Its role
// is all or api.
func (b *bench) start(ctx context.Context, v variant, d database, role string, settings ...string) (*server, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	command := exec.Command(b.server, "--dev", "--role="+role)
	if v == naive {
		command = exec.Command(b.self, "naive", "-role="+role)
	}
	// Nothing of the caller's environment: a setting in it would be measured, too.
	command.Env = append([]string{"DATABASE_URL=" + d.url, "HTTP_ADDR=" + address, "ADMIN_ADDR=none"}, settings...)
	if v == ours {
		command.Env = append(command.Env, b.settings...)
	}
	if err := b.openLog(command, string(v), d); err != nil {
		return nil, err
	}
	s := &server{url: "http://" + address, command: command, ended: make(chan error, 1)}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("starting server: %w", err)
	}
	go func() { s.ended <- command.Wait() }()
	if err := s.waitHealthy(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// openLog sends what a child writes to a file in the folder of -logs. Else it
// goes nowhere, where writing costs the least.
func (b *bench) openLog(command *exec.Cmd, name string, d database) error {
	if b.logs == "" {
		return nil
	}
	log, err := os.Create(filepath.Join(b.logs, d.name+"-"+name+".log"))
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	command.Stderr = log // stays open for as long as we run: a few dozen
	return nil
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// waitHealthy returns when the server answers, which takes as long as its
// migrations do.
func (s *server) waitHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if s.healthy(ctx) {
			return nil
		}
		select {
		case err := <-s.ended:
			s.ended <- err
			return fmt.Errorf("the server ended at once, and -logs shows why: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("waiting for the server: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *server) healthy(ctx context.Context) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/healthz", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func (s *server) pid() int { return s.command.Process.Pid }

// running tells whether the process is still the one that was started.
func (s *server) running() bool {
	select {
	case err := <-s.ended:
		s.ended <- err
		return false
	default:
		return true
	}
}

func (s *server) cpu() time.Duration {
	process, _ := readProcess(s.pid())
	return process.own
}

// stop lets the server drain, and kills it when that takes too long.
func (s *server) stop() error {
	_ = s.command.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	select {
	case err := <-s.ended:
		s.ended <- err
		return nil
	case <-time.After(40 * time.Second):
		_ = s.command.Process.Kill()
		<-s.ended
		return errors.New("the server did not stop within 40 s and was killed")
	}
}
