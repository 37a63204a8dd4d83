package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"ringback/cmd/internal/program"
)

// variant is which service is measured.
type variant string

const (
	ours   variant = "ours"
	before variant = "before" // Ringback at an earlier commit
	strict variant = "strict" // Ringback with clients, their keys and quotas
)

// server is a variant, running as a separate process.
type server struct {
	*program.Server
	variant variant
}

// onServer runs do on a server of its own, with its default role.
func (b *bench) onServer(ctx context.Context, v variant, d database, settings []string, do func(*server) error) error {
	s, err := b.start(ctx, v, d, "all", settings...)
	if err != nil {
		return err
	}
	err = do(s)
	if !s.Running() {
		err = errors.Join(err, errors.New("the server ended while it was measured"))
	}
	return errors.Join(err, s.Stop())
}

// onFreshServer runs do on our server, on an empty database.
func (b *bench) onFreshServer(ctx context.Context, purpose string, settings []string, do func(database, *server) error) error {
	return b.onFresh(ctx, purpose, func(d database) error {
		return b.onServer(ctx, ours, d, settings, func(s *server) error { return do(d, s) })
	})
}

// start starts a server on a database and returns when it is healthy. Its role
// is all or api.
func (b *bench) start(ctx context.Context, v variant, d database, role string, settings ...string) (*server, error) {
	address, err := program.FreeAddress()
	if err != nil {
		return nil, err
	}
	command := exec.Command(b.server, "--dev", "--role="+role)
	switch v {
	case strict:
		command = exec.Command(b.server, "--role="+role)
	case before:
		command = exec.Command(b.before, "--dev", "--role="+role)
	}
	// Nothing of the caller's environment: a setting in it would be measured, too.
	command.Env = append([]string{"DATABASE_URL=" + d.URL, "HTTP_ADDR=" + address, "ADMIN_ADDR=none"}, settings...)
	if v == ours {
		command.Env = append(command.Env, b.settings...)
	}
	if err := b.openLog(command, string(v), d); err != nil {
		return nil, err
	}
	process, err := program.Start(command, address)
	if err != nil {
		return nil, err
	}
	if err := process.WaitHealthy(ctx); err != nil {
		return nil, errors.Join(err, process.Stop())
	}
	return &server{process, v}, nil
}

// openLog sends a child's output to a file in the folder of -logs. Without a folder the
// output is dropped, which costs the least.
func (b *bench) openLog(command *exec.Cmd, name string, d database) error {
	if b.logs == "" {
		return nil
	}
	log, err := os.Create(filepath.Join(b.logs, d.Name+"-"+name+".log"))
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	command.Stderr = log // stays open for as long as we run: a few dozen
	return nil
}
