package jobs

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	dto "github.com/prometheus/client_model/go"

	"ringback/work"
)

// catalogWith offers work that returns its name.
func catalogWith(t *testing.T, names ...string) *work.Catalog {
	t.Helper()
	set := work.Set{}
	for _, name := range names {
		set[name] = work.Work{Do: func(context.Context, work.Call) (jsontext.Value, error) { return jsontext.Value(`"` + name + `"`), nil }}
	}
	catalog, err := work.NewCatalog(set, names[0], 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return catalog
}

func TestNamedWorksAreDone(t *testing.T) {
	t.Parallel()
	q, receiver := newQueue(t, doNothing), newReceiver(t, always(http.StatusOK))
	q.runner.catalog = catalogWith(t, "first", "second")
	for name, want := range map[string]string{"first": "first", "second": "second", "": "first"} {
		request := newRequest(receiver.URL)
		request.Work = name
		q.accept(t, request)
		if name == "" {
			q.start(t) // both ways, by River and born running
		}
		defer func() {
			q.waitFor(t, request.ID, "callback_state = 'delivered'")
			if got := q.get(t, request.ID); string(got.Result) != `"`+want+`"` || got.Work != name {
				t.Errorf("work %q: got %s as %q, want %q", name, got.Result, got.Work, want)
			}
		}()
	}
}

func TestUnknownWorkWaitsForAProcessThatOffersIt(t *testing.T) {
	t.Parallel()
	old := newQueue(t, doNothing)
	seldom := make(chan string, 1000)
	old.seldom = slog.New(recorder{slog.DiscardHandler, seldom}) // thousands may wait
	request := newRequest("http://127.0.0.1:9/")
	request.Work, request.AcceptedAt = "new", time.Now().UTC().Truncate(time.Microsecond)
	old.accept(t, request)
	old.start(t)
	old.waitFor(t, request.ID, "status = 'accepted' AND work_job_state IN ('scheduled', 'available') AND work_job_attempt = 0")
	select {
	case got := <-seldom:
		if got != "work_unknown" {
			t.Errorf("got a line %s, want work_unknown", got)
		}
	case <-time.After(patience):
		t.Error("got no line, want work_unknown among the lines that may come for thousands of jobs")
	}
	var postponed dto.Metric
	if err := old.metrics.waits[workUnknown].Write(&postponed); err != nil || postponed.GetCounter().GetValue() == 0 {
		t.Errorf("got %v jobs postponed, %v, want them counted", postponed.GetCounter().GetValue(), err)
	}

	late := newRequest("http://127.0.0.1:9/")
	late.Work, late.AcceptedAt = "gone", time.Now().Add(-maxUnknownAge)
	old.accept(t, late)
	old.waitFor(t, late.ID, "status = 'failed' AND error_code = 'unknown_work'")
}
