package pacing

import (
	"context"
	"net"
	"net/url"
	"time"

	"ringback/db"
	"ringback/jobs/limit"
)

// word is what the operator said of a receiver, the zero word for nothing.
type word struct{ db.ReceiverWord }

func (w word) isAllowed() bool { return w.Word == db.ReceiverAllowed }
func (w word) isDenied() bool  { return w.Word == db.ReceiverDenied }

// rate is what the operator allowed: without a number, no limit.
func (w word) rate() limit.Rate {
	return limit.Rate{PerSecond: w.Rate, Burst: burst(w.Rate)}
}

// wordOf returns what the operator said of a receiver: of its host and port, or
// else of its host.
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

// WordFor is under which name callback_origins has the operator's word for a host
// and port, whatever the scheme; for all ports where that is empty.
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

// wordsInterval is how old the operator's words are at most while the database
// answers.
const wordsInterval = 2 * time.Second

// Run keeps up with the operator's words, and saves what is to be remembered, until
// ctx ends. The words are read once before it returns.
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
		if ctx.Err() == nil && !db.IsUnavailable(err) {
			p.logger.ErrorContext(ctx, "receiver_words_not_read", "error", err)
		}
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.words
	p.words = make(map[string]word, len(rows))
	for _, row := range rows {
		p.words[row.Target] = word{row}
		if row.Word == db.ReceiverForgotten && !row.At.Equal(before[row.Target].At) {
			p.forget(row.Target)
		}
	}
}

// forget drops what this process knows of the receivers that a word is for. What is
// under way ends with what it began with.
func (p *Pacing) forget(target string) {
	for name, r := range p.receivers {
		parsed, err := url.Parse(name)
		if err == nil && r.memory.loaded && (WordFor(parsed.Hostname(), parsed.Port()) == target || WordFor(parsed.Hostname(), "") == target) {
			delete(p.receivers, name)
			delete(p.unsaved, name)
		}
	}
}
