package api

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"ringback/db"
)

const (
	eventStream = "text/event-stream"
	// heartbeat is shorter than the time after which proxies take a connection for dead:
	// 30 s with the most impatient of the common proxies.
	heartbeat = 15 * time.Second
	// reconnectAfter is told to callers whose stream breaks, as when this process stops.
	reconnectAfter = time.Second
)

// The ids of events. A caller that comes back names the last event that it has seen.
const (
	idOfStart = "0"
	idOfEnd   = "end"
)

// wantsStream tells whether a call prefers events (WHATWG HTML, section 9.2) to a single
// answer.
func wantsStream(header http.Header) bool {
	for _, values := range header.Values("Accept") {
		for value := range strings.SplitSeq(values, ",") {
			media, parameters, err := mime.ParseMediaType(value)
			if err != nil || media != eventStream {
				continue
			}
			quality, err := strconv.ParseFloat(parameters["q"], 64)
			return err != nil || quality > 0
		}
	}
	return false
}

// followRequest sends events of a request until its work has ended: state, with the request
// as it is, progress, and end, with the request as it has ended. A caller takes a stream
// that breaks off before its end up again with Last-Event-ID.
func (a *API) followRequest(c *call) {
	id, err := requestID(c)
	if err != nil {
		a.writeProblem(c, err)
		return
	}
	last := c.GetHeader("Last-Event-ID")
	if last == idOfEnd {
		c.Status(http.StatusNoContent) // browsers then stop asking
		return
	}
	known, err := strconv.Atoi(last)
	isNew := err != nil || known < 0
	heard, stop, err := a.Queue.Follow(c.client, id, max(0, known))
	if err != nil {
		a.writeProblem(c, err)
		return
	}
	defer stop()
	whole, err := a.loadFollowed(c, id)
	if err != nil {
		a.writeProblem(c, err)
		return
	}
	s := a.beginStream(c)
	s.known = max(0, known)
	if whole.Status == db.Accepted {
		if isNew {
			s.send("state", idOfStart, whole)
		}
		if !s.await(heard) {
			return
		}
		whole, err = a.loadFollowed(c, id)
	}
	if err == nil && whole.Status != db.Accepted { // else the caller comes back, and finds the end
		s.send("end", idOfEnd, whole)
	}
}

// loadFollowed loads a request without its input, which the caller has.
func (a *API) loadFollowed(c *call, id uuid.UUID) (wholeRequest, error) {
	whole, err := a.load(c, id)
	whole.Input = nil
	return whole, err
}

// stream is an answer of events that is being written.
type stream struct {
	api    *API
	c      *call
	beat   time.Duration
	known  int  // how much progress was told
	broken bool // the caller is gone, or has read nothing for too long
}

func (a *API) beginStream(c *call) *stream {
	c.streams = true
	c.Header("Content-Type", eventStream)
	c.Header("X-Accel-Buffering", "no") // or nginx keeps events back
	c.Status(http.StatusOK)
	s := &stream{api: a, c: c, beat: heartbeat}
	if a.Heartbeat > 0 {
		s.beat = a.Heartbeat
	}
	s.write(fmt.Appendf(nil, "retry: %d\n\n", reconnectAfter.Milliseconds()))
	return s
}

// await tells of progress, and keeps the stream alive, until the work may have ended. It
// is false where the caller is gone.
func (s *stream) await(heard <-chan db.Progress) bool {
	tick := time.NewTicker(s.beat)
	defer tick.Stop()
	for !s.broken {
		select {
		case progress, open := <-heard:
			if !open {
				return true
			}
			s.tell(progress)
		case <-s.c.Request.Context().Done():
			return false
		case <-tick.C:
			s.write([]byte(":\n\n"))
		}
	}
	return false
}

func (s *stream) tell(progress db.Progress) {
	if progress.Number <= s.known {
		return
	}
	s.known = progress.Number
	s.send("progress", strconv.Itoa(progress.Number), progress.Value)
}

// send writes one event.
func (s *stream) send(event, id string, data any) {
	encoded, err := json.Marshal(data, db.AsStored())
	if err != nil {
		_ = s.c.Error(fmt.Errorf("encoding event: %w", err))
		s.broken = true
		return
	}
	encoded = bytes.ReplaceAll(encoded, []byte("\n"), []byte("\ndata: "))
	s.write(fmt.Appendf(nil, "event: %s\nid: %s\ndata: %s\n\n", event, id, encoded))
}

func (s *stream) write(text []byte) {
	if s.broken {
		return
	}
	defer s.api.answers.reserve(s.c.client, cap(text), s.c.expectReader())()
	_, err := s.c.Writer.Write(text)
	if err == nil {
		err = s.c.control().Flush()
	}
	s.broken = err != nil
}
