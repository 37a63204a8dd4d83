package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"

	"ringback/api/contract"
	"ringback/db/dbtest"
	"ringback/work"
	"ringback/work/fingerprint"
)

// asProgram in the environment makes the test binary the server itself, so
// that tests can start, signal and kill a real process.
const asProgram = "RINGBACK_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	http.DefaultTransport = patient{http.DefaultTransport}
	contract.Install()
	os.Exit(m.Run())
}

// program is a running server.
type program struct {
	url, adminURL string
	process       *os.Process // nil when it runs inside the test
	stop          func()      // asks it to stop
	ended         chan struct{}
	err           error // how it ended, once ended is closed
	log           transcript
}

// transcript is a program's log so far.
type transcript struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (t *transcript) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintln(&t.lines, line)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lines.String()
}

// listening finds the addresses in the text log and in the JSON log, also of a program
// that waits for its database.
var listening = regexp.MustCompile(`(?:msg=(?:listening|waiting_for_database) addr=|"msg":"(?:listening|waiting_for_database)","addr":")([^\s"]+)(?: admin_addr=|","admin_addr":")([^\s"]+)`)

func environment(databaseURL string, settings map[string]string) map[string]string {
	environ := map[string]string{
		"DATABASE_URL": databaseURL, "HTTP_ADDR": "127.0.0.1:0", "ADMIN_ADDR": "127.0.0.1:0", "WORKERS": "20",
	}
	for name, value := range settings {
		environ[name] = value
	}
	return environ
}

// startHere runs the program inside the test, in local mode, with work of the
// test's own.
func startHere(t *testing.T, databaseURL string, settings map[string]string, do work.Plain) *program {
	t.Helper()
	return startRun(t, []string{"--dev"}, environment(databaseURL, settings), offering(do))
}

// startStrict runs the program inside the test, as in production.
func startStrict(t *testing.T, environ map[string]string) *program {
	t.Helper()
	return startRun(t, nil, environ, works)
}

// offering is the sample with another way to do it.
func offering(do work.Plain) work.Set {
	return work.Set{defaultWork: {Check: fingerprint.Check, Do: do.Do, Schema: fingerprint.Work.Schema}}
}

func startRun(t *testing.T, args []string, environ map[string]string, set work.Set) *program {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, in := io.Pipe()
	p := &program{stop: stop, ended: make(chan struct{})}
	go func() {
		p.err = run(ctx, args, environ, io.Discard, in, set)
		in.Close()
		close(p.ended)
	}()
	p.await(t, out)
	p.bePatient(t, environ["DATABASE_URL"])
	return p
}

// startProcess runs the program as a process of its own.
func startProcess(t *testing.T, databaseURL string, settings map[string]string, args ...string) *program {
	t.Helper()
	command := exec.Command(os.Args[0], append([]string{"--dev"}, args...)...)
	command.Env = append(os.Environ(), asProgram+"=1")
	for name, value := range environment(databaseURL, settings) {
		command.Env = append(command.Env, name+"="+value)
	}
	out, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	p := &program{
		process: command.Process, ended: make(chan struct{}),
		stop: func() { _ = command.Process.Signal(os.Interrupt) },
	}
	drained := p.await(t, out)
	p.bePatient(t, databaseURL)
	go func() {
		<-drained // Wait closes the pipe
		p.err = command.Wait()
		close(p.ended)
	}()
	return p
}

// await reads the log until the program listens, and keeps reading; the
// channel is closed at its end. The program is stopped when the test ends.
func (p *program) await(t *testing.T, log io.Reader) (drained chan struct{}) {
	t.Helper()
	found := make(chan []string, 2) // a program may wait before it listens
	drained = make(chan struct{})
	go func() {
		defer close(drained)
		for scanner := bufio.NewScanner(log); scanner.Scan(); {
			p.log.add(scanner.Text())
			if match := listening.FindStringSubmatch(scanner.Text()); match != nil {
				found <- match
			}
		}
	}()
	t.Cleanup(func() {
		p.stop()
		select {
		case <-p.ended:
		case <-time.After(dbtest.Patience):
			t.Error("the program does not stop")
		}
		if t.Failed() {
			t.Logf("the program's log:\n%s", &p.log)
		}
	})
	select {
	case match := <-found:
		p.url, p.adminURL = "http://"+match[1], "http://"+match[2]
		contract.Watch(t, p.url)
	case <-drained:
		t.Fatal("the program ended before it listened")
	case <-time.After(dbtest.Patience):
		t.Fatal("the program does not listen")
	}
	return drained
}

// waitStopped asks the program to stop and returns how it ended.
func (p *program) waitStopped(t *testing.T) error {
	t.Helper()
	p.stop()
	select {
	case <-p.ended:
		return p.err
	case <-time.After(dbtest.Patience):
		t.Fatal("the program does not stop")
		return nil
	}
}

// request is a request as the API answers it.
type request struct {
	ID            string          `json:"id"`
	Status        string          `json:"status"`
	Result        json.RawMessage `json:"result"`
	CallbackState string          `json:"callback_state"`
	WaitsFor      string          `json:"callback_waits_for"`
	Error         struct{ Code string }
	Attempts      []struct {
		Outcome    string
		HTTPStatus int `json:"http_status"`
	}
	Timeline []struct{ Event string }

	problem string // its type, where the answer is a problem
}

// post sends a body and returns the answer's status and body.
func (p *program) post(path, body string) (status int, answer request, err error) {
	return p.postOnce(path, body, "")
}

// postOnce posts with an idempotency key, if any: then the client repeats the call by
// itself where the server closed the connection before reading it.
func (p *program) postOnce(path, body, key string) (status int, answer request, err error) {
	call, err := http.NewRequest(http.MethodPost, p.url+path, strings.NewReader(body))
	if err != nil {
		return 0, answer, err
	}
	call.Header.Set("Content-Type", "application/json")
	if key != "" {
		call.Header.Set("Idempotency-Key", key)
	}
	response, err := http.DefaultClient.Do(call)
	if err != nil {
		return 0, answer, err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusBadRequest {
		var problem struct{ Type string }
		err := json.NewDecoder(response.Body).Decode(&problem)
		answer.problem = problem.Type
		return response.StatusCode, answer, err
	}
	return response.StatusCode, answer, json.NewDecoder(response.Body).Decode(&answer)
}

// accept posts an async request until it is acknowledged.
func (p *program) accept(t *testing.T, input, callbackURL string) (id string) {
	t.Helper()
	return p.served(t, "/async", asyncBody(input, callbackURL), http.StatusAccepted).ID
}

// served posts a call until it is done, which has to be answered with a status. On a
// busy machine the database may take longer than a call waits for it. A sync call may
// then be done more than once.
func (p *program) served(t *testing.T, path, body string, want int) request {
	t.Helper()
	key := ""
	if strings.HasPrefix(path, "/async") {
		key = rand.Text()
	}
	for deadline := time.Now().Add(dbtest.Patience); time.Now().Before(deadline); {
		status, answer, err := p.postOnce(path, body, key)
		if err == nil && (status == http.StatusServiceUnavailable || status == http.StatusConflict) {
			continue
		}
		if err != nil || status != want || answer.ID == "" {
			t.Fatalf("POST %s: got %d, %+v, %v, want %d with an id", path, status, answer, err, want)
		}
		return answer
	}
	t.Fatalf("POST %s: got 503 again and again", path)
	return request{}
}

func asyncBody(input, callbackURL string) string {
	return fmt.Sprintf(`{"input":%s,"callback_url":%q}`, input, callbackURL)
}

func (p *program) get(t *testing.T, id string) (answer request) {
	t.Helper()
	for deadline := time.Now().Add(dbtest.Patience); time.Now().Before(deadline); { // as with served
		response, err := http.Get(p.url + "/requests/" + id)
		if err != nil {
			t.Fatal(err)
		}
		answer = request{}
		err = json.NewDecoder(response.Body).Decode(&answer)
		response.Body.Close()
		switch {
		case response.StatusCode == http.StatusServiceUnavailable:
		case err != nil || response.StatusCode != http.StatusOK:
			t.Fatalf("GET /requests/%s: got %s, %v", id, response.Status, err)
		default:
			return answer
		}
	}
	t.Fatalf("GET /requests/%s: got 503 again and again", id)
	return request{}
}

// waitFor asks for a request until it is as wanted.
func (p *program) waitFor(t *testing.T, id, what string, wanted func(request) bool) request {
	t.Helper()
	var last request
	until(t, func() bool {
		last = p.get(t, id)
		return wanted(last)
	}, func() string { return fmt.Sprintf("%s: the request is %+v", what, last) })
	return last
}

// until asks again and again until done says yes.
func until(t *testing.T, done func() bool, state func() string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(dbtest.Patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", state())
		}
	}
}

// delivery is a callback as it arrived.
type delivery struct {
	path   string
	header http.Header
	body   struct {
		Type string
		Data request
	}
}

// receiver takes callbacks and answers them as the test says.
type receiver struct {
	*httptest.Server
	deliveries chan delivery

	mu   sync.Mutex
	came map[string]int // POSTs by the id of the request
}

// newReceiver answers with answer, 204 if that is nil.
func newReceiver(t *testing.T, answer http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{deliveries: make(chan delivery, 10_000), came: map[string]int{}}
	r.Server = httptest.NewServer(r.handler(t, answer))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) handler(t *testing.T, answer http.HandlerFunc) http.Handler {
	return contract.Receiver(t, func(w http.ResponseWriter, call *http.Request) {
		d := delivery{path: call.URL.RequestURI(), header: call.Header.Clone()}
		if err := json.NewDecoder(call.Body).Decode(&d.body); err != nil {
			t.Errorf("decoding callback: %v", err)
		}
		r.mu.Lock()
		r.came[strings.TrimPrefix(d.header.Get("Webhook-Id"), "req_")]++
		r.mu.Unlock()
		if answer == nil {
			w.WriteHeader(http.StatusNoContent)
		} else {
			answer(w, call)
		}
		r.deliveries <- d
	})
}

// next waits for a callback.
func (r *receiver) next(t *testing.T) delivery {
	t.Helper()
	select {
	case d := <-r.deliveries:
		return d
	case <-time.After(dbtest.Patience):
		t.Fatal("waited in vain for a callback")
		return delivery{}
	}
}

// parsedEnvironment is the environment as main hands it to run.
func parsedEnvironment(values ...string) map[string]string { return env.ToMap(values) }
