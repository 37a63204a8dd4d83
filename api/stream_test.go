package api_test

import (
	"bufio"
	"context"
	"net/http"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"ringback/api"
	"ringback/db/dbtest"
	"ringback/jobs"
	"ringback/jobs/clients"
)

// sent is an event, or a comment where it has no name.
type sent struct{ event, id, data string }

// events is a stream that is open.
type events struct {
	header http.Header
	sent   chan sent // closed when the stream ends
	leave  context.CancelFunc
}

// follow opens a stream; header holds pairs of names and values.
func (s *service) follow(t *testing.T, location string, header ...string) *events {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), dbtest.Patience)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, "GET", s.url+location, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	for err == nil && response.StatusCode == http.StatusServiceUnavailable { // on a busy machine
		response.Body.Close()
		response, err = http.DefaultClient.Do(request)
	}
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %d with %q, want a stream", response.StatusCode, response.Header.Get("Content-Type"))
	}
	e := &events{response.Header, make(chan sent, 1000), cancel}
	go func() {
		defer close(e.sent)
		defer response.Body.Close()
		var next sent
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ":")
			switch value = strings.TrimPrefix(value, " "); {
			case name == "event":
				next.event = value
			case name == "id":
				next.id = value
			case name == "data":
				next.data += value
			case lines.Text() == ":":
				e.sent <- sent{}
			case lines.Text() == "" && next.event != "":
				e.sent <- next
				next = sent{}
			}
		}
	}()
	return e
}

// next is the next event, not a comment; the zero value where the stream ended.
func (e *events) next() sent {
	for event := range e.sent {
		if event.event != "" {
			return event
		}
	}
	return sent{}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	const endElsewhere = `
		UPDATE requests
		SET status = 'succeeded', result = '{"a":
1}', started_at = now(), finished_at = now(), callback_state = 'pending', callback_job_id = 1`

	t.Run("TellStateAndEndAcrossProcesses", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		location := s.call(t, "POST", "/async", asyncBody).header.Get("Location")
		stream, second := s.follow(t, location), s.follow(t, location, "Accept", "application/json;q=0.5, text/event-stream;q=0.9")
		for _, e := range []*events{stream, second} {
			if got := e.next(); got.event != "state" || got.id != "0" || !strings.Contains(got.data, `"status":"accepted"`) || strings.Contains(got.data, `"input"`) {
				t.Errorf("got %+v, want the request as it is, without its input", got)
			}
		}
		if _, err := s.pool.Exec(t.Context(), endElsewhere); err != nil {
			t.Fatal(err)
		}
		for _, e := range []*events{stream, second} {
			if got := e.next(); got.event != "end" || got.id != "end" || !strings.Contains(got.data, `"result":{"a":1}`) {
				t.Errorf("got %+v, want the request as it ended", got)
			}
			if got := e.next(); got != (sent{}) {
				t.Errorf("got %+v after the end", got)
			}
		}
	})

	t.Run("BeginAtTheEndWhereItHasEnded", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		location := s.call(t, "POST", "/sync", syncBody).header.Get("Location")
		if got := s.follow(t, location).next(); got.event != "end" {
			t.Errorf("got %+v, want its end", got)
		}
	})

	t.Run("GoOnAfterLastEventID", func(t *testing.T) {
		t.Parallel()
		s := newService(t, nil)
		location := s.call(t, "POST", "/async", asyncBody).header.Get("Location")
		again := s.follow(t, location, "Last-Event-ID", "0")
		s.call(t, "POST", location+"/cancel", "")
		if got := again.next(); got.event != "end" || !strings.Contains(got.data, `"status":"cancelled"`) {
			t.Errorf("got %+v, want the end and no state", got)
		}
		got := s.call(t, "GET", location, "", "Accept", "text/event-stream", "Last-Event-ID", "end")
		if got.status != http.StatusNoContent {
			t.Errorf("after the end: got %d, want 204, after which nobody reconnects", got.status)
		}
	})

	t.Run("ShowThatTheyLive", func(t *testing.T) {
		t.Parallel()
		s := newService(t, func(c *api.Config) { c.Heartbeat = time.Millisecond })
		stream := s.follow(t, s.call(t, "POST", "/async", asyncBody).header.Get("Location"))
		stream.next()
		for range 3 {
			if got, open := <-stream.sent; !open || got != (sent{}) {
				t.Fatalf("got %+v, open %v, want comments", got, open)
			}
		}
	})

	t.Run("EndWhenTheProcessStops", func(t *testing.T) {
		t.Parallel()
		var config *api.Config
		s := newService(t, func(c *api.Config) { config = c })
		location := s.call(t, "POST", "/async", asyncBody).header.Get("Location")
		stream := s.follow(t, location)
		stream.next()
		config.Queue.EndWaits()
		if got := stream.next(); got != (sent{}) {
			t.Errorf("got %+v, want that the stream breaks off", got)
		}
		s.wantProblem(t, s.call(t, "GET", location, "", "Accept", "text/event-stream"), http.StatusServiceUnavailable, "unavailable")
	})

	t.Run("AreForOwnersOnly", func(t *testing.T) {
		t.Parallel()
		s := newService(t, keyed(map[string]string{"m-key": "mallory", "a-key": "alice"}))
		location := s.call(t, "POST", "/async", asyncBody, "Authorization", "Bearer a-key").header.Get("Location")
		s.wantProblem(t, s.call(t, "GET", location, "", "Accept", "text/event-stream", "Authorization", "Bearer m-key"), http.StatusNotFound, "not-found")
		s.wantProblem(t, s.call(t, "GET", "/requests/x", "", "Accept", "text/event-stream", "Authorization", "Bearer m-key"), http.StatusBadRequest, "invalid-parameter", "id")
		s.wantProblem(t, s.call(t, "GET", location, "", "Accept", "text/event-stream"), http.StatusUnauthorized, "unauthorized")
	})

	for _, accept := range []string{"", "*/*", "application/json", "text/event-stream;q=0", "text/event-stream; q", "text/html"} {
		t.Run("AreNotSentFor/"+accept, func(t *testing.T) {
			t.Parallel()
			s := newService(t, nil)
			location := s.call(t, "POST", "/async", asyncBody).header.Get("Location")
			if got := s.call(t, "GET", location, "", "Accept", accept); got.header.Get("Content-Type") != "application/json" {
				t.Errorf("got %q with %s, want JSON", got.header.Get("Content-Type"), got.body)
			}
		})
	}
}

func TestStreamsOfAClientLeavePlacesToOthers(t *testing.T) {
	t.Parallel()
	var queue *jobs.Queue
	s := newService(t, func(c *api.Config) {
		keyed(map[string]string{"m-key": "mallory", "a-key": "alice"})(c)
		queue = newQueue(t, c.Pool, jobs.Config{AsyncLimit: 100, UnfinishedLimit: 100, Limits: func(string) clients.Limits { return clients.Limits{Unfinished: 10} }})
		c.Queue = queue
	})
	location := s.call(t, "POST", "/async", asyncBody, "Authorization", "Bearer m-key").header.Get("Location")
	fill := func(client string) (taken int) {
		for {
			_, stop, err := queue.Follow(client, uuid.MustParse(path.Base(location)), 0)
			if err != nil {
				return taken
			}
			t.Cleanup(stop)
			taken++
		}
	}
	if taken := fill("mallory"); taken < 500 {
		t.Errorf("one client alone: got %d slots, want most of a thousand", taken)
	}
	got := s.call(t, "GET", location, "", "Authorization", "Bearer m-key", "Accept", "text/event-stream")
	s.wantProblem(t, got, http.StatusTooManyRequests, "quota-exceeded")
	if got := decode[problem](t, got, http.StatusTooManyRequests); len(got.ViolatedPolicies) != 1 || got.ViolatedPolicies[0] != "event-streams" {
		t.Errorf("got policies %q", got.ViolatedPolicies)
	}
	if got := s.call(t, "GET", location, "", "Authorization", "Bearer m-key"); got.status != http.StatusOK {
		t.Errorf("without a stream: got %d, want the request", got.status)
	}
	hers := s.call(t, "POST", "/async", asyncBody, "Authorization", "Bearer a-key").header.Get("Location")
	if got := s.follow(t, hers, "Authorization", "Bearer a-key").next(); got.event != "state" {
		t.Errorf("another client: got %+v, want that it may follow", got)
	}
	for i := range 100 { // until nothing is left
		fill(string(rune('A' + i)))
	}
	s.wantProblem(t, s.call(t, "GET", hers, "", "Authorization", "Bearer a-key", "Accept", "text/event-stream"), http.StatusServiceUnavailable, "temporary-reduced-capacity")
}
