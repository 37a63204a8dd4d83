package pacing

import (
	"context"
	"errors"
	"net"
	"net/url"
	"time"

	"ringback/db"
	"ringback/jobs/limit"
)

// ruling is the operator's decision about a receiver. The zero ruling is no decision.
type ruling struct{ db.Ruling }

// decides tells whether the ruling says more than that an earlier ruling is forgotten.
func (r ruling) decides() bool   { return r.isAllowed() || r.isDenied() }
func (r ruling) isAllowed() bool { return r.Effect == db.ReceiverAllowed }
func (r ruling) isDenied() bool  { return r.Effect == db.ReceiverDenied }

// rate is the rate that the operator allowed. A ruling without a number sets no limit.
func (r ruling) rate() limit.Rate {
	return limit.Rate{PerSecond: r.Rate, Burst: burst(r.Rate)}
}

func (p *Pacing) rulingOf(name string) ruling { return rulingOf(p.rulings, name) }

// rulingOf returns the operator's ruling on a receiver's host and port, or else the ruling
// on its host. Of two that decide nothing, it returns the later.
func rulingOf(rulings map[string]ruling, name string) ruling {
	if len(rulings) == 0 {
		return ruling{}
	}
	parsed, err := url.Parse(name)
	if err != nil {
		return ruling{}
	}
	onPort, onHost := rulings[RulingTarget(parsed.Hostname(), parsed.Port())], rulings[RulingTarget(parsed.Hostname(), "")]
	if onPort.decides() || !onHost.decides() && !onHost.At.After(onPort.At) {
		return onPort
	}
	return onHost
}

// Govern writes into each receiver of a list the ruling of the list that is on it. A denied
// receiver has no pace any more.
func Govern(listed []db.ListedReceiver) {
	rulings := map[string]ruling{}
	for _, row := range listed {
		if row.IsRuling() {
			rulings[row.Target] = ruling{row.Ruling}
		}
	}
	for i := range listed {
		row := &listed[i]
		if row.IsRuling() {
			continue
		}
		said := rulingOf(rulings, row.Name)
		row.Effect, row.Ruling.Rate, row.Concurrency = said.Effect, said.Rate, said.Concurrency
		if said.isDenied() {
			row.Receiver.Rate, row.InFlight = 0, 0
		}
	}
}

// RulingTarget is the name in callback_origins of a ruling on a host and port, for any
// scheme. An empty port stands for all ports.
func RulingTarget(host, port string) string {
	if port == "" {
		port = "*"
	}
	return "*://" + net.JoinHostPort(host, port)
}

// IsDenied tells whether the operator denied the receiver of a callback.
func (p *Pacing) IsDenied(callbackURL string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rulingOf(ReceiverOf(callbackURL)).isDenied()
}

// LatestRuling is when the operator last decided, by the database's clock. It is zero where the
// operator has not. A ruling after now was made by a clock that has been set back since, or has
// a time that somebody wrote by hand: it hides no other ruling.
func (p *Pacing) LatestRuling(now time.Time) (latest time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, said := range p.rulings {
		if !said.At.After(now) {
			latest = limit.Latest(latest, said.At)
		}
	}
	return latest
}

// Concern is the effect of a ruling on a callback that waits.
type Concern int

// All concerns.
const (
	Nothing Concern = iota
	Frees           // the callback may leave earlier: the ruling may have ended its reason to wait
	Ends            // the callback becomes a dead letter
)

// Concerns tells the effect of the ruling on a waiting callback's receiver. A denial always
// ends the callback; any other ruling frees it if the operator decided after since.
func (p *Pacing) Concerns(callbackURL string, since time.Time) Concern {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch said := p.rulingOf(ReceiverOf(callbackURL)); {
	case said.isDenied():
		return Ends
	case said.At.After(since):
		return Frees
	}
	return Nothing
}

// LineUpAnew lets the callbacks that wait for a receiver reserve their times anew, since all of them
// are about to come back. Behind the times that they have now, the receiver would get nothing for
// as long as they would have taken.
func (p *Pacing) LineUpAnew(callbackURL string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.receivers[ReceiverOf(callbackURL)]; r != nil {
		for _, c := range r.parties {
			c.line = limit.Line{}
		}
	}
}

// rulingsInterval is how old this process's copy of the rulings is at most, while the
// database answers.
const rulingsInterval = 2 * time.Second

// Start reads the operator's rulings, and returns. Until ctx ends, goroutines of its own read the
// rulings again and again, and save changed receivers.
func (p *Pacing) Start(ctx context.Context) {
	p.readRulings(ctx)
	go p.remember(ctx)
	go func() {
		tick := time.NewTicker(rulingsInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.readRulings(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// readRulings reads all rulings, which are few. While the database is away, the rulings of
// the last reading stand.
func (p *Pacing) readRulings(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	rows, err := p.outside.Rulings(ctx)
	if err != nil {
		if ctx.Err() == nil && (!db.IsUnavailable(err) || db.IsDenied(err)) {
			p.logger.ErrorContext(ctx, "rulings_not_read", "error", err)
		}
		return
	}
	if forgotten := p.takeRulings(rows); len(forgotten) > 0 {
		p.forgetStored(ctx, forgotten)
	}
}

// forgetStored removes the stored receivers of rulings that forget receivers. This process may have
// saved such a receiver after the ruling, or may be saving it: the receiver's closings would come
// back with the row. After a failure the next reading takes the ruling for a new ruling.
func (p *Pacing) forgetStored(ctx context.Context, targets []string) {
	p.writing <- struct{}{}
	defer func() { <-p.writing }()
	for _, target := range targets {
		err := p.outside.Forget(ctx, target)
		if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			p.logger.WarnContext(ctx, "receiver_not_forgotten", "receiver", target, "error", err, "remedy", "none needed: it is tried again")
		}
		p.mu.Lock()
		p.forget(target) // the receiver may have been loaded meanwhile
		if err != nil {
			delete(p.rulings, target)
		}
		p.mu.Unlock()
	}
}

// takeRulings replaces the rulings, and returns the targets of new rulings that forget
// receivers.
func (p *Pacing) takeRulings(rows []db.Ruling) (forgotten []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.rulings
	p.rulings = make(map[string]ruling, len(rows))
	for _, row := range rows {
		p.rulings[row.Target] = ruling{row}
		if row.Effect == db.ReceiverForgotten && !row.At.Equal(before[row.Target].At) {
			p.forget(row.Target)
			forgotten = append(forgotten, row.Target)
		}
	}
	return forgotten
}

// forget drops this process's knowledge of a ruling's receivers. Callbacks under way keep
// the receiver that they began with.
func (p *Pacing) forget(target string) {
	for name, r := range p.receivers {
		parsed, err := url.Parse(name)
		if err == nil && r.memory.loaded && (RulingTarget(parsed.Hostname(), parsed.Port()) == target || RulingTarget(parsed.Hostname(), "") == target) {
			delete(p.receivers, name)
			delete(p.unsaved, name)
		}
	}
}
