package pacing

import (
	"context"
	"net"
	"net/url"
	"time"

	"ringback/db"
	"ringback/jobs/limit"
)

// word is the operator's word about a receiver, the zero word for none.
type word struct{ db.ReceiverWord }

func (w word) isAllowed() bool { return w.Word == db.ReceiverAllowed }
func (w word) isDenied() bool  { return w.Word == db.ReceiverDenied }

// rate is the rate that the operator allowed: without a number, no limit.
func (w word) rate() limit.Rate {
	return limit.Rate{PerSecond: w.Rate, Burst: burst(w.Rate)}
}

// wordOf returns the operator's word about a receiver: about its host and port, or else
// about its host.
func (p *Pacing) wordOf(name string) word {
	if len(p.words) == 0 {
		return word{}
	}
	parsed, err := url.Parse(name)
	if err != nil {
		return word{}
	}
	if said, ok := p.words[WordFor(parsed.Hostname(), parsed.Port())]; ok {
		return said
	}
	return p.words[WordFor(parsed.Hostname(), "")]
}

// WordFor is the name in callback_origins of the operator's word about a host and port,
// for any scheme; an empty port stands for all ports.
func WordFor(host, port string) string {
	if port == "" {
		port = "*"
	}
	return "*://" + net.JoinHostPort(host, port)
}

// IsDenied tells whether the operator denied the receiver of a callback.
func (p *Pacing) IsDenied(callbackURL string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wordOf(ReceiverOf(callbackURL)).isDenied()
}

// LatestWord is when the operator last said a word, by the database's clock; zero for never.
func (p *Pacing) LatestWord() (latest time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, said := range p.words {
		latest = limit.Latest(latest, said.At)
	}
	return latest
}

// Concern is what the operator's word means for a callback that waits.
type Concern int

// All concerns.
const (
	Nothing Concern = iota
	Frees           // what it waited for may no longer hold
	Ends
)

// Concerns tells what the operator's word about the receiver of a waiting callback means for
// the callback: a denial at any time, another word where it was said since a time.
func (p *Pacing) Concerns(callbackURL string, since time.Time) Concern {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch said := p.wordOf(ReceiverOf(callbackURL)); {
	case said.isDenied():
		return Ends
	case said.At.After(since):
		return Frees
	}
	return Nothing
}

// wordsInterval is how old the operator's words are at most while the database
// answers.
const wordsInterval = 2 * time.Second

// Run keeps up with the operator's words, and saves changed receivers, until ctx ends.
// The words are read once before it returns.
func (p *Pacing) Run(ctx context.Context) {
	p.readWords(ctx)
	go p.remember(ctx)
	go func() {
		tick := time.NewTicker(wordsInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.readWords(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// readWords reads all of the operator's words, which are few. While the database is
// away, the words of the last reading stand.
func (p *Pacing) readWords(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	rows, err := p.outside.Words(ctx)
	if err != nil {
		if ctx.Err() == nil && (!db.IsUnavailable(err) || db.IsDenied(err)) {
			p.logger.ErrorContext(ctx, "receiver_words_not_read", "error", err)
		}
		return
	}
	for _, target := range p.takeWords(rows) {
		// This process may have written what it knew since the operator's word.
		if err := p.outside.Forget(ctx, target); err != nil && ctx.Err() == nil {
			p.logger.WarnContext(ctx, "receiver_not_forgotten", "receiver", target, "error", err, "remedy", "say ringback receiver forget again")
		}
		p.mu.Lock()
		p.forget(target) // which may have been read meanwhile
		p.mu.Unlock()
	}
}

// takeWords replaces the words, and returns those that forget receivers and are new.
func (p *Pacing) takeWords(rows []db.ReceiverWord) (forgotten []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.words
	p.words = make(map[string]word, len(rows))
	for _, row := range rows {
		p.words[row.Target] = word{row}
		if row.Word == db.ReceiverForgotten && !row.At.Equal(before[row.Target].At) {
			p.forget(row.Target)
			forgotten = append(forgotten, row.Target)
		}
	}
	return forgotten
}

// forget drops this process's knowledge of a word's receivers. Callbacks under way keep
// the receiver that they began with.
func (p *Pacing) forget(target string) {
	for name, r := range p.receivers {
		parsed, err := url.Parse(name)
		if err == nil && r.memory.loaded && (WordFor(parsed.Hostname(), parsed.Port()) == target || WordFor(parsed.Hostname(), "") == target) {
			delete(p.receivers, name)
			delete(p.unsaved, name)
		}
	}
}
