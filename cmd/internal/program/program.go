// Package program runs a server as a separate process, for the tools that measure or
// break it.
package program

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

// Server is a server that was started, and may have ended.
type Server struct {
	URL     string
	command *exec.Cmd
	ended   chan struct{} // closed when the process has ended
}

// Start runs a command that serves HTTP on address.
func Start(command *exec.Cmd, address string) (*Server, error) {
	s := &Server{URL: "http://" + address, command: command, ended: make(chan struct{})}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("starting server: %w", err)
	}
	go func() {
		defer close(s.ended)
		_ = command.Wait() // ProcessState has what the error says
	}()
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

// WaitHealthy returns when the server is healthy, after its migrations: a minute at most.
func (s *Server) WaitHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		status, _, err := Call(ctx, http.DefaultClient, http.MethodGet, s.URL+"/healthz", nil)
		if err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("the server ended at once (%v): its log says why", s.command.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("waiting for the server: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Call sends JSON, or nothing where body is nil, and returns the whole answer. header holds
// names, each followed by its value; a header with an empty value isn't sent.
func Call(ctx context.Context, client *http.Client, method, url string, body any, header ...string) (status int, answer []byte, err error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return 0, nil, fmt.Errorf("encoding a call: %w", err)
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return 0, nil, fmt.Errorf("making a call: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	for pair := range slices.Chunk(header, 2) {
		if pair[1] != "" {
			request.Header.Set(pair[0], pair[1])
		}
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("calling a server: %w", err)
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// Pid is the id of the process.
func (s *Server) Pid() int { return s.command.Process.Pid }

// Signal sends the process a signal. It ignores a process that has ended.
func (s *Server) Signal(signal os.Signal) { _ = s.command.Process.Signal(signal) }

// Wait returns nil when the process has ended, or an error when ctx has.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop lets the server drain, and kills it when draining takes too long. It returns an error
// for a server that it had to kill, or that had ended by itself.
func (s *Server) Stop() error {
	select {
	case <-s.ended:
		return fmt.Errorf("the server ended by itself (%v)", s.command.ProcessState)
	default:
	}
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
