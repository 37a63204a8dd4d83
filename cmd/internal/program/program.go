// Package program runs a server as a separate process, for the tools that measure or
// break it.
package program

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Server is a server that was started, and may have ended.
type Server struct {
	URL     string
	command *exec.Cmd
	ended   chan error // holds the process's end
}

// Start runs a command that serves HTTP on address.
func Start(command *exec.Cmd, address string) (*Server, error) {
	s := &Server{URL: "http://" + address, command: command, ended: make(chan error, 1)}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("starting server: %w", err)
	}
	go func() { s.ended <- command.Wait() }()
	return s, nil
}

// FreeAddress returns a loopback address that was free a moment ago.
func FreeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// WaitHealthy returns when the server answers, which takes as long as its
// migrations do: a minute at most.
func (s *Server) WaitHealthy(ctx context.Context) error {
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

func (s *Server) healthy(ctx context.Context) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/healthz", nil)
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

// Pid is the process's.
func (s *Server) Pid() int { return s.command.Process.Pid }

// Signal sends the process a signal. It ignores a process that has ended.
func (s *Server) Signal(signal os.Signal) { _ = s.command.Process.Signal(signal) }

// Running tells whether the started process still runs.
func (s *Server) Running() bool {
	select {
	case err := <-s.ended:
		s.ended <- err
		return false
	default:
		return true
	}
}

// Wait returns when the process has ended, or when ctx has.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case err := <-s.ended:
		s.ended <- err
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop lets the server drain, and kills it when that takes too long.
func (s *Server) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	s.Signal(syscall.SIGTERM)
	if s.Wait(ctx) == nil {
		return nil
	}
	s.Signal(os.Kill)
	_ = s.Wait(context.Background())
	return errors.New("the server did not stop within 40 s and was killed")
}
