package main

import (
	"encoding/json"
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
	"ringback/cmd/internal/stage"
)

// show is a stage with a database of the demo's own, a server and a receiver.
type show struct {
	*stage.Stage
	options
	out      io.Writer
	database postgres.Database
	logs     string // folder
	server   *program.Server
	receiver *receiver
}

// newShow starts everything.
func newShow(s *stage.Stage, o options, out io.Writer) *show {
	cluster, err := postgres.Open(s.Ctx, o.databaseURL)
	s.Must(err)
	s.AtEnd(func() error { cluster.Close(); return nil })
	d := s.Database(cluster, fmt.Sprintf("ringback_demo_%d", os.Getpid()), "")
	receiver, err := newReceiver()
	s.Must(err)
	s.AtEnd(func() error { receiver.Close(); return nil })
	show := &show{Stage: s, options: o, out: out, database: d, logs: s.Folder(), receiver: receiver}
	show.server = show.start("server", o.address, o.adminAddress)
	s.AtEnd(show.server.Stop)
	show.title("Ringback: the same work inline and with a callback, on nothing but Postgres")
	if !o.fast { // else they are gone before anybody looks
		show.say("The operator's pages show all of this live: http://%s/", o.adminAddress)
	}
	show.pause(4)
	return show
}

// workLimit is how many runs go on at a time. It keeps the server's capacity small, so that
// a storm of five times that capacity needs no large machine.
const workLimit = 8

// start starts a server in local mode. Its log is told where it fails.
func (s *show) start(name, address, adminAddress string) *program.Server {
	s.Must(checkFree(address, adminAddress))
	log, err := os.Create(filepath.Join(s.logs, name+".log"))
	s.Must(err)
	defer log.Close()
	command := exec.Command(s.options.server, "--dev")
	command.Env = append(os.Environ(), "DATABASE_URL="+s.database.URL, "HTTP_ADDR="+address, "ADMIN_ADDR="+adminAddress,
		fmt.Sprintf("WORK_LIMIT=%d", workLimit), "WORK_URL=", "WORKS=", "DEFAULT_WORK=") // the sample's work
	command.Stdout, command.Stderr = log, log
	started, err := program.Start(command, address)
	s.Must(err)
	if err := started.WaitHealthy(s.Ctx); err != nil {
		started.Signal(os.Kill)
		told, _ := os.ReadFile(log.Name())
		s.Must(fmt.Errorf("%w\n%s", err, told))
	}
	return started
}

// checkFree finds out that another server would answer in place of the demo's.
func checkFree(addresses ...string) error {
	for _, wanted := range addresses {
		if wanted == "none" {
			continue
		}
		listener, err := net.Listen("tcp", wanted)
		if err != nil {
			return fmt.Errorf("%w: another ringback may be running, such as that of make run: stop it, or choose other addresses by HTTP_ADDR and ADMIN_ADDR", err)
		}
		listener.Close()
	}
	return nil
}

func (s *show) title(text string) {
	fmt.Fprintf(s.out, "\n\n%s\n%s\n\n", text, strings.Repeat("─", len([]rune(text))))
}

func (s *show) say(format string, args ...any) { fmt.Fprintf(s.out, "  "+format+"\n", args...) }

// pause leaves seconds to read in.
func (s *show) pause(seconds float64) {
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
func (s *show) call(server *program.Server, method, path string, body any) (status int, answer request, took time.Duration) {
	sent := time.Now()
	status, content, err := program.Call(s.Ctx, http.DefaultClient, method, server.URL+path, body)
	took = time.Since(sent)
	s.Must(err)
	s.Must(json.Unmarshal(content, &answer))
	return status, answer, took
}

func asyncBody(in jsontext.Value, callbackURL string) map[string]any {
	return map[string]any{"input": json.RawMessage(in), "callback_url": callbackURL}
}

// accept makes an async request that has to be acknowledged.
func (s *show) accept(server *program.Server, in jsontext.Value) (answer request, took time.Duration) {
	status, answer, took := s.call(server, http.MethodPost, "/async", asyncBody(in, s.receiver.URL))
	if status != http.StatusAccepted {
		s.Must(fmt.Errorf("POST /async: got %d (%s), want 202", status, answer.Detail))
	}
	return answer, took
}

// called returns the time when the callback of a request was taken.
func (s *show) called(id string) time.Time {
	select {
	case at := <-s.receiver.of(id):
		return at
	case <-time.After(patience):
		s.Must(fmt.Errorf("waiting for the callback of %s took more than %v", id, patience))
	case <-s.Ctx.Done():
		s.Must(s.Ctx.Err())
	}
	return time.Time{}
}

// patience is how long each wait may take.
const patience = time.Minute
