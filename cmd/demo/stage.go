package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/cmd/internal/postgres"
	"ringback/cmd/internal/program"
)

// stage is the set of the scenes: a database of the demo's own, a server and a receiver.
type stage struct {
	options
	out      io.Writer
	postgres *postgres.Server
	database postgres.Database
	folder   string // for logs and reports
	server   *program.Server
	receiver *receiver
}

// newStage starts everything. Where it fails, it leaves nothing behind.
func newStage(ctx context.Context, o options, out io.Writer) (s *stage, err error) {
	s = &stage{options: o, out: out}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.folder, err = os.MkdirTemp("", "ringback-demo-"); err != nil {
		return s, fmt.Errorf("making a folder for logs: %w", err)
	}
	if s.postgres, err = postgres.Open(ctx, s.databaseURL); err != nil {
		return s, err
	}
	if s.database, err = s.postgres.Create(ctx, fmt.Sprintf("ringback_demo_%d", os.Getpid()), ""); err != nil {
		return s, err
	}
	if s.receiver, err = newReceiver(); err != nil {
		return s, err
	}
	if s.server, err = s.startServer(ctx, "server", s.address, s.adminAddress); err != nil {
		return s, err
	}
	s.title("Ringback: the same work inline and with a callback, on nothing but Postgres")
	s.say("The operator's pages show all of this live: http://%s/", s.adminAddress)
	s.pause(4)
	return s, nil
}

// workLimit is how many runs go on at a time. It keeps the server's capacity small, so that
// a storm of five times that capacity needs no large machine.
const workLimit = 8

// startServer starts a server in local mode, with its log in the folder.
func (s *stage) startServer(ctx context.Context, name, address, adminAddress string) (*program.Server, error) {
	for _, wanted := range []string{address, adminAddress} {
		if wanted == "none" {
			continue
		}
		listener, err := net.Listen("tcp", wanted)
		if err != nil { // another server would answer in its place
			return nil, fmt.Errorf("%w: stop what listens there, or choose other addresses by HTTP_ADDR and ADMIN_ADDR", err)
		}
		listener.Close()
	}
	log, err := os.Create(filepath.Join(s.folder, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("making a log: %w", err)
	}
	defer log.Close()
	command := exec.Command(s.options.server, "--dev")
	command.Env = append(os.Environ(), "DATABASE_URL="+s.database.URL, "HTTP_ADDR="+address, "ADMIN_ADDR="+adminAddress,
		fmt.Sprintf("WORK_LIMIT=%d", workLimit), "WORK_URL=", "WORKS=", "DEFAULT_WORK=") // the sample's work
	command.Stdout, command.Stderr = log, log
	started, err := program.Start(command, address)
	if err != nil {
		return nil, err
	}
	if err := started.WaitHealthy(ctx); err != nil {
		started.Signal(os.Kill)
		told, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w\n%s", err, told)
	}
	return started, nil
}

// close stops servers and receiver, and removes the database and the folder.
func (s *stage) close() (err error) {
	if s.server != nil {
		err = s.server.Stop()
	}
	if s.receiver != nil {
		s.receiver.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if s.postgres != nil {
		err = errors.Join(err, s.postgres.Drop(ctx, s.database))
		s.postgres.Close()
	}
	if s.folder != "" {
		err = errors.Join(err, os.RemoveAll(s.folder))
	}
	return err
}

func (s *stage) title(text string) {
	fmt.Fprintf(s.out, "\n\n%s\n%s\n\n", text, strings.Repeat("─", len([]rune(text))))
}

func (s *stage) say(format string, args ...any) { fmt.Fprintf(s.out, "  "+format+"\n", args...) }

// pause leaves seconds to read in.
func (s *stage) pause(seconds float64) {
	if !s.fast {
		time.Sleep(time.Duration(seconds * float64(time.Second)))
	}
}

// request is a request as the API shows it.
type request struct {
	ID       string          `json:"id"`
	Result   json.RawMessage `json:"result"`
	Attempts []struct {
		Outcome    string `json:"outcome"`
		HTTPStatus int    `json:"http_status"`
	} `json:"attempts"`
	Detail string `json:"detail"` // of a problem
	Errors []struct {
		Detail string `json:"detail"`
	} `json:"errors"`
}

// call makes a call, and returns how long its answer took.
func (s *stage) call(ctx context.Context, server *program.Server, method, path string, body any) (status int, answer request, took time.Duration, err error) {
	sent := time.Now()
	status, content, err := program.Call(ctx, http.DefaultClient, method, server.URL+path, body)
	took = time.Since(sent)
	if err == nil {
		err = json.Unmarshal(content, &answer)
	}
	return status, answer, took, err
}

func asyncBody(in jsontext.Value, callbackURL string) map[string]any {
	return map[string]any{"input": json.RawMessage(in), "callback_url": callbackURL}
}

// accept makes an async request that has to be acknowledged.
func (s *stage) accept(ctx context.Context, server *program.Server, in jsontext.Value, callbackURL string) (answer request, took time.Duration, err error) {
	status, answer, took, err := s.call(ctx, server, http.MethodPost, "/async", asyncBody(in, callbackURL))
	if err == nil && status != http.StatusAccepted {
		err = fmt.Errorf("POST /async: got %d (%s), want 202", status, answer.Detail)
	}
	return answer, took, err
}

// until asks until the answer is yes, for a minute at most.
func until(ctx context.Context, what string, is func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		done, err := is(ctx)
		if err != nil || done {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
