package load

import (
	"fmt"
	"strings"
)

// Breaches are the reasons why the run is broken, the worst first.
func (r *Report) Breaches() []string {
	if unanswered := r.unanswered(); unanswered != "" {
		return []string{unanswered}
	}
	var breaches []string
	add := func(count, of int, text string) {
		if count > 0 {
			breaches = append(breaches, fmt.Sprintf("%d of %d %s", count, of, text))
		}
	}
	add(r.Async.Missing, r.Async.Acked, "acknowledged requests were not called back")
	if r.Async.Acked > 0 && r.Async.Missing == 0 && r.Async.Delivered+r.Async.Attempts == 0 {
		breaches = append(breaches, fmt.Sprintf("not one of %d acknowledged requests was called back, nor was that tried", r.Async.Acked))
	}
	called := r.Async.Delivered + r.Async.Unacknowledged
	add(r.Async.Mismatched, called, "requests were called back wrongly")
	add(r.Async.BadSignatures, called, "requests were called back without a valid signature")
	add(r.Async.OutOfOrder, called, "requests were called back out of order")
	// Some may be unsuccessful, as while a server restarts. Where most are, the run shows
	// nothing.
	if unsuccessful := r.unsuccessful(); unsuccessful > r.Sync.OK+r.Async.OK {
		breaches = append(breaches, fmt.Sprintf("%d of %d requests were rejected, failed or got no answer", unsuccessful, r.sent()))
	}
	if unsent := r.Unsent(); unsent > 0 {
		breaches = append(breaches, fmt.Sprintf("%d requests could not be sent in time", unsent))
	}
	return breaches
}

// unanswered names an endpoint that answered no request.
func (r *Report) unanswered() string {
	switch {
	case r.Sync.OK+r.Async.OK == 0:
		return "not one request was answered ok"
	case r.Sync.Sent > 0 && r.Sync.OK == 0:
		return "not one sync request was answered ok"
	case r.Async.Sent > 0 && r.Async.OK == 0:
		return "not one async request was acknowledged"
	}
	return ""
}

func (r *Report) sent() int { return r.Sync.Sent + r.Async.Sent }

// unsuccessful is how many requests were neither answered as they should be nor shed.
func (r *Report) unsuccessful() int {
	return r.sent() - r.Sync.OK - r.Async.OK - r.Sync.Shed - r.Async.Shed
}

// IsLate tells whether the generator, not the server, spoils the figures: a tenth of a second
// is more than scheduling jitter.
func (r *Report) IsLate() bool { return r.Generator.Late.P99 > 100 }

// Unsent is how many requests could not be sent in time.
func (r *Report) Unsent() int { return r.Sync.Unsent + r.Async.Unsent }

// Endpoints are sync and async.
func (r *Report) Endpoints() [2]Endpoint { return [2]Endpoint{r.Sync, r.Async.Endpoint} }

// Missed are the objectives that were not met.
func (r *Report) Missed() []string {
	var missed []string
	for _, objective := range r.Objectives {
		if !objective.Met {
			missed = append(missed, objective.String())
		}
	}
	return missed
}

// Verdict is the result of the run, in a sentence.
func (r *Report) Verdict() string {
	finding := r.finding()
	return strings.ToUpper(finding[:1]) + finding[1:] + "."
}

func (r *Report) finding() string {
	breaches, missed := r.Breaches(), r.Missed()
	switch {
	case len(breaches) > 0:
		return "broken: " + strings.Join(append(breaches, missed...), "; ")
	case len(missed) > 0:
		return "objectives missed: " + strings.Join(missed, "; ") + " (otherwise " + r.kept() + ")"
	case r.Async.Acked > 0:
		return "kept its word: " + r.kept()
	}
	return r.kept()
}

// kept describes the result of a run that isn't broken.
func (r *Report) kept() string {
	if r.Async.Acked == 0 {
		if r.Sync.OK == r.sent() {
			return fmt.Sprintf("all %d requests were answered as they should be", r.sent())
		}
		return fmt.Sprintf("of %d requests, %d were answered as they should be", r.sent(), r.Sync.OK) +
			besides(r.Sync.Shed+r.Async.Shed, ", %d were shed") + besides(r.unsuccessful(), ", %d were rejected, failed or got no answer")
	}
	text := fmt.Sprintf("all %d acknowledged requests were called back", r.Async.Acked)
	if r.Async.Delivered < r.Async.Acked {
		text = fmt.Sprintf("of %d acknowledged requests, %d were called back", r.Async.Acked, r.Async.Delivered) +
			besides(r.Async.Dead, ", %d went to receivers that take nothing") + besides(r.Async.Pending, ", %d are still to come at slow or flaky ones")
	}
	if unsuccessful := r.unsuccessful(); unsuccessful > 0 {
		text += fmt.Sprintf("; %d of %d requests were rejected, failed or got no answer", unsuccessful, r.sent())
	}
	return text
}

// besides formats a count, and is empty where the count is 0.
func besides(count int, format string) string {
	if count == 0 {
		return ""
	}
	return fmt.Sprintf(format, count)
}
