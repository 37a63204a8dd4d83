package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"ringback/cmd/internal/program"
)

// servers are the processes under test. Each is started again whenever it
// ends, on the same address.
type servers struct {
	path        string    // of the server's program
	programs    []started // by which each is started
	databaseURL string
	settings    []string // besides each server's own settings
	logs        []*logReader
	roles       []string
	addresses   []string
	admins      []string // addresses of the pages that operators use
	supervisors sync.WaitGroup

	mu      sync.Mutex
	running []*program.Server // nil for a server that is down
	lives   []life
}

// started is a program as a server runs it.
type started struct {
	path  string
	ahead time.Duration // its clock of this machine's
}

// life is a process from its start.
type life struct {
	server  int
	ahead   time.Duration
	started time.Time
	healthy time.Time // zero if it never was
	ended   time.Time // zero while it runs
}

// startServers returns once all servers are healthy. They start one after the other,
// since find tells them apart by their start times.
func startServers(ctx context.Context, path string, programs []started, databaseURL, logs string, roles, settings []string) (*servers, error) {
	s := &servers{
		path: path, programs: programs, databaseURL: databaseURL, settings: settings, logs: newLogReaders(logs, len(roles)), roles: roles,
		running: make([]*program.Server, len(roles)),
	}
	for range roles {
		for _, addresses := range []*[]string{&s.addresses, &s.admins} {
			address, err := program.FreeAddress()
			if err != nil {
				return nil, err
			}
			*addresses = append(*addresses, address)
		}
	}
	for i := range roles {
		s.supervisors.Go(func() { s.supervise(ctx, i) })
		if err := s.waitServer(ctx, i); err != nil {
			return s, err
		}
	}
	return s, nil
}

// supervise keeps a server running until ctx ends, and then stops it.
func (s *servers) supervise(ctx context.Context, number int) {
	for ctx.Err() == nil {
		process, err := s.start(number)
		if err == nil {
			s.attend(ctx, number, process)
		}
		wait(ctx, 300*time.Millisecond)
	}
}

// attend returns when the process has ended.
func (s *servers) attend(ctx context.Context, number int, process *program.Server) {
	s.set(number, process)
	go s.noteHealthy(ctx, number, process)
	defer s.noteEnd(number)
	if process.Wait(ctx) != nil {
		process.Signal(syscall.SIGCONT)
		_ = process.Stop() // of a run that is over
	}
	s.set(number, nil)
}

func (s *servers) start(number int) (*program.Server, error) {
	s.mu.Lock()
	runs := s.programs[number]
	s.mu.Unlock()
	command := exec.Command(runs.path, "--dev", "--role="+s.roles[number])
	command.Env = append([]string{
		"DATABASE_URL=" + s.databaseURL, "HTTP_ADDR=" + s.addresses[number], "ADMIN_ADDR=" + s.admins[number],
		fmt.Sprintf("%s=%.0f", clockSetting, runs.ahead.Seconds()),
	}, s.settings...)
	log, err := s.logs[number].open()
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	command.Stderr = log
	s.mu.Lock()
	s.lives = append(s.lives, life{server: number, ahead: runs.ahead, started: time.Now()})
	s.mu.Unlock()
	return program.Start(command, s.addresses[number])
}

func (s *servers) set(number int, process *program.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[number] = process
}

// noteHealthy notes when a process was first healthy, which is when it is in
// the database under a name of its own.
func (s *servers) noteHealthy(ctx context.Context, number int, process *program.Server) {
	if process.WaitHealthy(ctx) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest(number).healthy = time.Now()
}

func (s *servers) noteEnd(number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest(number).ended = time.Now()
}

// latest is the life of a server that was started last.
func (s *servers) latest(number int) *life {
	for i := len(s.lives) - 1; i > 0; i-- {
		if s.lives[i].server == number {
			return &s.lives[i]
		}
	}
	return &s.lives[0]
}

// deaths are the times at which processes ended.
func (s *servers) deaths() (times []time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, life := range s.lives {
		if !life.ended.IsZero() {
			times = append(times, life.ended)
		}
	}
	return times
}

// waitHealthy returns when all are there.
func (s *servers) waitHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for number := range s.roles {
		if err := s.waitServer(ctx, number); err != nil {
			return err
		}
	}
	return nil
}

func (s *servers) waitServer(ctx context.Context, number int) error {
	for ctx.Err() == nil {
		if process := s.process(number); process != nil && process.WaitHealthy(ctx) == nil {
			return nil
		}
		wait(ctx, 20*time.Millisecond)
	}
	return fmt.Errorf("waiting for server %d: %w", number, ctx.Err())
}

// process is nil for a server that is down.
func (s *servers) process(number int) *program.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[number]
}

// errDown says that the fault needs a running server.
var errDown = errors.New("that server is down")

func (s *servers) terminate(number int) error {
	process := s.process(number)
	if process == nil {
		return errDown
	}
	process.Signal(syscall.SIGTERM)
	return nil
}

// pause stops a server for a while, unless it is another by then.
func (s *servers) pause(ctx context.Context, number int, length time.Duration) error {
	process := s.process(number)
	if process == nil {
		return errDown
	}
	process.Signal(syscall.SIGSTOP)
	wait(ctx, length)
	process.Signal(syscall.SIGCONT)
	return nil
}

func (s *servers) url(number int) string { return "http://" + s.addresses[number] }

// ui is where a server has River UI.
func (s *servers) ui(number int) string { return "http://" + s.admins[number] + "/riverui" }

// pick draws a server that takes calls.
func (s *servers) pick(random *rand.Rand) int { return s.callable(random.IntN(len(s.roles))) }

// callable returns the number of the first server from there on, going round,
// that takes calls.
func (s *servers) callable(from int) int {
	number := from % len(s.roles)
	for s.roles[number] == "worker" {
		number = (number + 1) % len(s.roles)
	}
	return number
}

// find tells which server a River client is, by the time in its id: it was
// made between the start of the process and its being healthy.
func (s *servers) find(client string) (number int, known bool) {
	const layout = "2006_01_02T15_04_05.000000"
	if len(client) < len(layout) {
		return 0, false
	}
	stamp := client[len(client)-len(layout):]
	point := strings.LastIndex(stamp, "_")
	born, err := time.Parse(layout, stamp[:point]+"."+stamp[point+1:])
	if err != nil {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := 0
	for _, life := range s.lives {
		at := born.Add(-life.ahead)
		if !at.Before(life.started) && !life.healthy.IsZero() && !at.After(life.healthy) {
			number, found = life.server, found+1
		}
	}
	return number, found == 1
}
