package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"ringback/db"
)

const (
	sampleInterval = time.Second
	// maxViewers bounds the pages that follow at a time.
	maxViewers = 50
	// stateInterval is the time between two queries for the processes, while a page
	// follows.
	stateInterval = 5 * time.Second
)

// Watch takes a sample each second until ctx ends.
func (c *Console) Watch(ctx context.Context) {
	tick := time.NewTicker(sampleInterval)
	defer tick.Stop()
	for {
		if s, err := takeSample(c.Metrics, time.Now()); err != nil {
			c.Logger.ErrorContext(ctx, "sample_failed", "error", err)
		} else {
			c.history.add(s)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// state is the part of the overview beside the samples.
type state struct {
	Alarms    []string  `json:"alarms"`    // what an operator has to mend, each with its remedy
	Processes []process `json:"processes"` // null where they can't be read
}

// Nobody tells that no process works, as far as the database answers.
func (s state) Nobody() bool { return s.Processes != nil && len(s.Processes) == 0 }

type process struct {
	ID   string `json:"id"`
	Beat string `json:"beat"` // how long ago, or for how long it has been silent
	Lost bool   `json:"lost"`
}

func (c *Console) state(ctx context.Context) state {
	before, latest := c.history.span(alarmSpan)
	faults := faultAlarms(c.Queue.Health().Lasting())
	s := state{Alarms: append([]string{}, faults...)}
	if c.LocalClient == "" && c.NoClients() {
		s.Alarms = append(s.Alarms, noClients)
	}
	if unreadable := c.Unreadable(); len(unreadable) > 0 {
		s.Alarms = append(s.Alarms, unreadableAlarm(unreadable))
	}
	s.Alarms = append(s.Alarms, latest.readings.alarms(before.readings)...)
	processes, err := db.ListProcesses(ctx, c.Reads)
	if err != nil {
		c.unread(ctx, "processes_not_read", err)
		if len(faults) == 0 {
			s.Alarms = append(s.Alarms, noAnswer)
		}
		return s
	}
	s.Processes = []process{}
	for _, p := range processes {
		s.Processes = append(s.Processes, process{p.ID, beat(p), p.Lost()})
	}
	idle, err := db.NobodyWorks(ctx, c.Reads, processes)
	c.unread(ctx, "waiting_jobs_not_read", err)
	if idle {
		s.Alarms = append(s.Alarms, nobodyWorks)
	}
	paused, err := db.PausedQueues(ctx, c.Reads)
	c.unread(ctx, "paused_queues_not_read", err)
	for _, queue := range paused {
		s.Alarms = append(s.Alarms, fmt.Sprintf(queuePaused, queue))
	}
	return s
}

// beat tells of a process's last heartbeat. The row of a killed process stays for an hour.
func beat(p db.WorkingProcess) string {
	if p.Lost() {
		return "silent for " + took(p.Silent) + ": its jobs go to other processes"
	}
	return took(p.Silent) + " ago"
}

// unread logs what can't be read, unless the database is away.
func (c *Console) unread(ctx context.Context, message string, err error) {
	if err != nil && ctx.Err() == nil && !db.IsUnavailable(err) {
		c.Logger.ErrorContext(ctx, message, "error", err)
	}
}

// jobState is a state of jobs that have not ended, and what it means.
type jobState struct{ Name, Means string }

var jobStates = []jobState{
	{"available", "due, or due within seconds: a free worker takes it"},
	{"running", "under way"},
	{"scheduled", "waits for its time: a delay, the next try, or the pace of a receiver or a service"},
	{"retryable", "waits for its next attempt"},
	{"pending", "waits for the callback before it, of the same ordering key"},
}

// overviewPage is the overview before its script runs.
type overviewPage struct {
	Latest sample
	State  state
	Jobs   []jobState
}

func (c *Console) overview(r *http.Request) (view, error) {
	samples, _ := c.history.since(0)
	page := overviewPage{State: c.state(r.Context()), Jobs: jobStates}
	if len(samples) > 0 {
		page.Latest = samples[len(samples)-1]
	}
	return view{page: "overview", title: "Overview", data: page}, nil
}

// live sends samples as server-sent events: first the last ten minutes, then each second.
func (c *Console) live(w http.ResponseWriter, r *http.Request) {
	select {
	case c.viewers <- struct{}{}:
		defer func() { <-c.viewers }()
	default:
		http.Error(w, fmt.Sprintf("%d pages follow already.", maxViewers), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead { // which has no end to wait for
		return
	}
	control, at, asked := http.NewResponseController(w), int64(0), time.Time{}
	for r.Context().Err() == nil {
		samples, changed := c.history.since(at)
		if len(samples) > 0 {
			at = samples[len(samples)-1].At
		}
		event := struct {
			Samples []sample `json:"samples"`
			State   *state   `json:"state,omitempty"`
		}{Samples: samples}
		if time.Since(asked) >= stateInterval {
			asked = time.Now()
			read := c.state(r.Context())
			event.State = &read
		}
		_ = control.SetWriteDeadline(time.Now().Add(pageTimeout))
		if err := writeEvent(w, event); err != nil || control.Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
		}
	}
}

func writeEvent(w http.ResponseWriter, event any) error {
	encoded, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encoding event: %w", err)
	}
	_, err = fmt.Fprintf(w, "data: %s\n\n", encoded)
	return err
}
