package jobs

import (
	"context"
	"net"
	"net/url"
	"time"

	"ringback/db"
	"ringback/jobs/webhook"
)

// originIO is how origins asks and remembers.
type originIO struct {
	load func(ctx context.Context, name string) (db.CallbackOrigin, error)
	ask  func(ctx context.Context, url string, perMinute int) (webhook.Consent, error)
	save func(ctx context.Context, origins []db.CallbackOrigin) error
}

// enter lets a callback leave, which must call leave with what came of it, the
// zero Attempt if that says nothing about the receiver. Or it returns how long
// to put the callback off, which charges no attempt. When ctx ends, it does
// neither.
func (s *origins) enter(ctx context.Context, callbackURL string, cameBack bool) (leave func(webhook.Attempt), putOff time.Duration) {
	name, deadline := originOf(callbackURL), time.Now().Add(slotPatience)
	for ctx.Err() == nil {
		o, next, now := s.next(name, cameBack, deadline)
		switch {
		case next.leave != nil:
			return func(sent webhook.Attempt) { s.leave(next.leave, sent) }, 0
		case next.load:
			if !s.loadOrigin(ctx, o) {
				return nil, faultDelay()
			}
		case next.ask != nil:
			s.askOrigin(ctx, next.ask, callbackURL)
		case next.wait != nil:
			s.wait(ctx, o, next.wait, deadline)
		default:
			return nil, next.until.Sub(now)
		}
	}
	return nil, 0
}

// next decides, and counts who begins to find something out or to wait for it.
func (s *origins) next(name string, cameBack bool, deadline time.Time) (*origin, verdict, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	o := s.meet(name)
	next := s.decide(o, now, cameBack, now.Before(deadline))
	if next.load || next.ask != nil {
		o.meeting, o.meetingSince = make(chan struct{}), now
	}
	if next.wait != nil {
		o.waiting++
	}
	return o, next, now
}

func (s *origins) wait(ctx context.Context, o *origin, wait <-chan struct{}, deadline time.Time) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-wait:
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o.waiting--
}

// loadOrigin reads what the database remembers of an origin.
func (s *origins) loadOrigin(ctx context.Context, o *origin) (ok bool) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	row, err := s.load(ctx, o.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		o.recall(row)
	}
	o.endMeeting()
	return err == nil
}

// askOrigin asks a receiver for its consent. What others find out meanwhile goes
// on: only a first answer is waited for.
func (s *origins) askOrigin(ctx context.Context, asking *pass, callbackURL string) {
	limited, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	answer, err := s.ask(limited, callbackURL, ratePerMinute)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveBack(asking)
	if ctx.Err() == nil { // otherwise it was us who cut it off
		s.answered(asking.origin, answer, err, time.Now())
	}
	asking.origin.endMeeting()
}

func (o *origin) endMeeting() {
	close(o.meeting)
	o.meeting = nil
}

func (s *origins) leave(p *pass, sent webhook.Attempt) {
	s.mu.Lock()
	s.giveBack(p)
	before, after := p.origin.breaker, p.origin.breaker
	if sent.Outcome != "" {
		s.conclude(p.origin, sent, time.Now())
		after = p.origin.breaker
	}
	s.mu.Unlock()
	switch {
	case after.openings > before.openings:
		s.logger.Warn("callback_origin_opened", "origin", p.origin.name, "failures", after.failures, "until", after.until)
	case after.openings < before.openings:
		s.logger.Info("callback_origin_closed", "origin", p.origin.name)
	}
}

// originOf returns the host and port of a URL in canonical form.
func originOf(callbackURL string) string {
	parsed, err := url.Parse(callbackURL)
	if err != nil {
		return "" // the sender will refuse it
	}
	if parsed.Port() != "" {
		return parsed.Host
	}
	if parsed.Scheme == "http" {
		return net.JoinHostPort(parsed.Hostname(), "80")
	}
	return net.JoinHostPort(parsed.Hostname(), "443")
}
