package pacing

import (
	"context"
	"time"

	"ringback/jobs/limit"
)

// Why tells why a due callback of a client waits, empty where it doesn't have to. It asks
// this process's knowledge of the receiver, or else the database.
func (p *Pacing) Why(ctx context.Context, client, callbackURL string) (limit.Reason, error) {
	name, now := ReceiverOf(callbackURL), time.Now()
	if reason, known := p.why(name, client, now); known {
		return reason, nil
	}
	row, err := p.outside.Load(ctx, name)
	if err != nil {
		return "", err
	}
	r := newReceiver(name, now)
	r.recall(row, now)
	return r.closed(r.party(client, now), now).Reason, nil
}

func (p *Pacing) why(name, client string, now time.Time) (reason limit.Reason, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.receivers[name]
	if p.wordOf(name).isDenied() {
		return Denied, true
	}
	if r == nil || !r.memory.loaded {
		return "", false
	}
	ahead := now.Add(limit.Horizon)
	c := r.party(client, now)
	closed := r.closed(c, now)
	switch {
	case !closed.OK():
		return closed.Reason, true
	case p.mustAsk(r, now) && !r.consent.due(now):
		return Consent, true
	case c.line.Due(now, ahead):
		return Pace, true
	case p.clientele(client).line.Due(now, ahead):
		return Workers, true
	case !r.proven && p.strangers.line(client).Due(now, ahead):
		return Strangers, true
	}
	return "", true
}
