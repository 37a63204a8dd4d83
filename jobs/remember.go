package jobs

import (
	"context"
	"maps"
	"slices"
	"time"

	"ringback/db"
	"ringback/jobs/webhook"
)

// row is what of an origin outlives the process: who has granted callbacks, and
// who is to be left alone.
func (o *origin) row(now time.Time) db.CallbackOrigin {
	row := db.CallbackOrigin{
		Name: o.name, GrantedUntil: o.consent.until, PerMinute: o.consent.perMinute, Prefixes: o.consent.prefixes,
		ClosedUntil: o.opens(), Openings: o.breaker.openings,
	}
	// A half-open breaker is worth remembering for as long as it might have been
	// open: then its next opening goes on where the last one was.
	row.ExpiresAt = latest(now, row.GrantedUntil, row.ClosedUntil.Add(longestOpening))
	return row
}

// recall takes in what the database remembers.
func (o *origin) recall(row db.CallbackOrigin) {
	o.loaded = true
	if row.Openings > 0 {
		o.breaker = breaker{failures: failuresToOpen, openings: row.Openings, until: row.ClosedUntil}
	} else {
		o.pausedUntil = row.ClosedUntil
	}
	if row.GrantedUntil.IsZero() || len(row.Prefixes) == 0 {
		return
	}
	o.consent = consent{
		until: row.GrantedUntil, perMinute: row.PerMinute, prefixes: row.Prefixes, askAt: row.GrantedUntil.Add(-renewBefore),
	}
	o.address = row.Prefixes[len(row.Prefixes)-1] // until the first callback shows where it goes by now
}

// answered takes in what an origin said to our question, and keeps what changed.
func (s *origins) answered(o *origin, answer webhook.Consent, err error, now time.Time) {
	before := o.consent
	o.consent = before.answered(answer, err, now)
	if prefix := prefixOf(answer.Address); prefix.IsValid() {
		o.address = prefix
	}
	if !o.consent.until.Equal(before.until) || !slices.Equal(o.consent.prefixes, before.prefixes) {
		s.keep(o, now)
	}
}

// saveInterval is how long what is to be remembered waits for company.
const saveInterval = time.Second

// remember saves what is to be remembered, until ctx ends.
func (s *origins) remember(ctx context.Context) {
	for {
		select {
		case <-s.changed:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(saveInterval):
		case <-ctx.Done():
		}
		s.saveAll(context.WithoutCancel(ctx))
	}
}

// saveAll saves what is unsaved. What can't be saved now is tried with the next
// that is.
func (s *origins) saveAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	s.mu.Lock()
	unsaved := s.unsaved
	s.unsaved = map[string]db.CallbackOrigin{}
	s.mu.Unlock()
	if len(unsaved) == 0 {
		return
	}
	err := s.save(ctx, slices.Collect(maps.Values(unsaved)))
	if err == nil {
		return
	}
	s.logger.WarnContext(ctx, "callback_origins_not_saved", "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(unsaved, s.unsaved)
	s.unsaved = unsaved
}

// originIO lets origins use the database and the sender.
func (q *Queue) originIO(sender *webhook.Sender) originIO {
	return originIO{
		load: func(ctx context.Context, name string) (db.CallbackOrigin, error) { return q.meetings.Do(ctx, name) },
		save: func(ctx context.Context, origins []db.CallbackOrigin) error {
			return db.SaveCallbackOrigins(ctx, q.pool, origins)
		},
		ask: sender.Ask,
	}
}

func (q *Queue) loadOrigins(ctx context.Context, names []string) ([]db.CallbackOrigin, error) {
	origins, err := db.LoadCallbackOrigins(ctx, q.pool, names)
	return inOrder(names, origins), err
}
