package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// kind is how a receiver behaves.
type kind uint8

const (
	kindOK       kind = iota // takes every callback, and knows of nothing but POST
	kindGranting             // takes every callback, and grants any rate when it is asked
	kindSlow                 // takes a callback after slowDelay
	kindFlaky                // answers 500 at first and takes the second attempt
	kindHang                 // answers nothing for hangTime
	kindReset                // resets the connection
	kindGone                 // answers 410
	kinds                    // how many there are
)

// defaultKind is what receives where nothing is said about receivers.
const defaultKind = kindOK

const (
	slowDelay = 2 * time.Second
	hangTime  = 30 * time.Second // three times as long as the service waits
)

func (k kind) String() string {
	return [...]string{"ok", "granting", "slow", "flaky", "hang", "reset", "gone"}[k]
}

// delivers tells whether a receiver of this kind takes callbacks in the end.
func (k kind) delivers() bool { return k <= kindFlaky }

// isPrompt tells whether a receiver of this kind takes each callback at once, so
// that the time until then is the service's alone.
func (k kind) isPrompt() bool { return k == kindOK || k == kindGranting }

// mayBePending tells whether a service may take its time with a receiver of this
// kind: one that fails or is slow is called less and less often.
func (k kind) mayBePending() bool { return k == kindSlow || k == kindFlaky }

// shares is how the callbacks are shared out among the kinds of receivers.
type shares [kinds]int

func allOf(kind kind) shares {
	var all shares
	all[kind] = 1
	return all
}

func (s shares) String() string {
	var parts []string
	for kind, share := range s {
		if share > 0 {
			parts = append(parts, fmt.Sprintf("%v=%d", kindOf(kind), share))
		}
	}
	return strings.Join(parts, ",")
}

func kindOf(index int) kind { return kind(index) }

func (s shares) total() int {
	total := 0
	for _, share := range s {
		total += share
	}
	return total
}

// draw picks a kind with the probability of its share.
func (s shares) draw(random *rand.Rand) kind {
	at := random.IntN(s.total())
	for kind, share := range s {
		if at < share {
			return kindOf(kind)
		}
		at -= share
	}
	return kindOK
}

func parseShares(text string) (shares, error) {
	var parsed shares
	err := eachPair(text, func(name, value string) error {
		share, err := strconv.Atoi(value)
		if err != nil || share < 0 || share > 1000 {
			return fmt.Errorf("%s: want a whole number from 0 to 1000", name)
		}
		for kind := range kinds {
			if kind.String() == name {
				parsed[kind] = share
				return nil
			}
		}
		return fmt.Errorf("%s: want ok, granting, slow, flaky, hang, reset or gone", name)
	})
	if err == nil && parsed.total() == 0 {
		err = errors.New("want a share above 0")
	}
	return parsed, err
}

// behave answers a callback in the way of the kind, but for one that is taken:
// then it answers nothing and returns true. earlier is how many attempts there
// were before this one. What takes long ends when closing is closed.
func (k kind) behave(ctx *fasthttp.RequestCtx, earlier int, closing <-chan struct{}) (takes bool) {
	switch k {
	case kindSlow:
		wait(slowDelay, closing)
	case kindFlaky:
		if earlier == 0 {
			ctx.SetStatusCode(fasthttp.StatusInternalServerError)
			return false
		}
	case kindHang:
		wait(hangTime, closing)
		reset(ctx)
		return false
	case kindReset:
		reset(ctx)
		return false
	case kindGone:
		ctx.SetStatusCode(fasthttp.StatusGone)
		return false
	}
	return true
}

func wait(duration time.Duration, closing <-chan struct{}) {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-closing:
	}
}

// reset ends the connection without an answer, by RST rather than FIN.
func reset(ctx *fasthttp.RequestCtx) {
	if connection, ok := ctx.Conn().(interface{ SetLinger(seconds int) error }); ok {
		_ = connection.SetLinger(0)
	}
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(closeAtOnce)
}
