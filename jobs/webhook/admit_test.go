package webhook

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// doorman notes the questions of a sender, and answers them.
type doorman struct {
	admits func(address string, keeps bool) bool

	mu    sync.Mutex
	asked []string
}

func (d *doorman) admit(address netip.Addr, keeps bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	question := address.String()
	if keeps {
		question += " to keep"
	}
	d.asked = append(d.asked, question)
	return d.admits(address.String(), keeps)
}

func (d *doorman) expect(t *testing.T, want ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.asked, want) {
		t.Errorf("it was asked about %q, want %q", d.asked, want)
	}
}

// A name server goes on with a question that nobody answers. So a share of its questions for each
// client must know which are over.
func TestAdmissionOfALookup(t *testing.T) {
	t.Parallel()
	server := serveDNS(t, records)
	sender := NewSender(Policy{Resolvers: []netip.AddrPort{server.address}}, "test")
	beUnhurried(sender)
	var mayAsk bool
	var told []bool // of each lookup that was over, whether it was answered
	asked := func(context.Context) (func(bool), bool) {
		return func(answered bool) { told = append(told, answered) }, mayAsk
	}
	send := func(name string) Attempt {
		m := message("https://" + name + "/")
		m.Admission.Lookup = asked
		return sender.Send(t.Context(), m)
	}
	if got := send("public.example.com"); !got.NotAdmitted || server.questions.Load() != 0 || len(told) != 0 {
		t.Errorf("turned away, got %+v and %d questions, want neither an attempt nor a question", got, server.questions.Load())
	}
	if _, err := sender.Ask(t.Context(), "https://public.example.com/", 60, Admission{Lookup: asked}); !errors.Is(err, ErrTurnedAway) {
		t.Errorf("the question for consent was turned away with %v, want %v", err, ErrTurnedAway)
	}
	mayAsk = true
	send("nowhere.example.com")
	send("mapped.example.com")
	sender.guard.resolveLimit = 10 * time.Millisecond
	send("silent.example.com")
	if want := []bool{true, true, false}; !slices.Equal(told, want) {
		t.Errorf("got %v, want %v: answered are a name that isn't there and one that is", told, want)
	}
}

func TestAdmission(t *testing.T) {
	t.Parallel()
	// serve counts connections and requests.
	serve := func(t *testing.T) (target *receiver, requests *atomic.Int32) {
		requests = new(atomic.Int32)
		return receive(t, func(conn net.Conn) {
			for reader := bufio.NewReader(conn); ; requests.Add(1) {
				request, err := http.ReadRequest(reader)
				if err != nil {
					return
				}
				if request.Body.Close(); request.Close {
					_, _ = conn.Write([]byte("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"))
					requests.Add(1)
					return
				}
				_, _ = conn.Write([]byte("HTTP/1.1 204 No Content\r\n\r\n"))
			}
		}), requests
	}

	t.Run("IsAskedForOnceWhereTheConnectionIsKept", func(t *testing.T) {
		t.Parallel()
		target, _ := serve(t)
		door, sender := &doorman{admits: func(_ string, keeps bool) bool { return keeps }}, localSender(t)
		m := message(target.url)
		m.Admission.Dial = door.admit
		for range 3 {
			expect(t, sender.Send(t.Context(), m), Attempt{Outcome: Delivered, Status: 204})
		}
		door.expect(t, "127.0.0.1 to keep")
	})

	t.Run("IsAskedForEachTimeWhereItMayNotBeKept", func(t *testing.T) {
		t.Parallel()
		target, _ := serve(t)
		door, sender := &doorman{admits: func(_ string, keeps bool) bool { return !keeps }}, localSender(t)
		m := message(target.url)
		m.Admission.Dial = door.admit
		for range 2 {
			expect(t, sender.Send(t.Context(), m), Attempt{Outcome: Delivered, Status: 204})
		}
		door.expect(t, "127.0.0.1 to keep", "127.0.0.1", "127.0.0.1 to keep", "127.0.0.1")
		if got := target.connections.Load(); got != 2 {
			t.Errorf("got %d connections, want one for each message", got)
		}
	})

	t.Run("AndWithoutItNothingIsDialled", func(t *testing.T) {
		t.Parallel()
		target, requests := serve(t)
		door, sender := &doorman{admits: func(string, bool) bool { return false }}, localSender(t)
		m := message(target.url)
		m.Admission.Dial = door.admit
		if got := sender.Send(t.Context(), m); !got.NotAdmitted || got.Address != "" || got.AboutReceiver().Outcome != "" {
			t.Errorf("got %+v, want it turned away", got)
		}
		if _, err := sender.Ask(t.Context(), target.url, 60, Admission{Dial: door.admit}); !errors.Is(err, ErrTurnedAway) {
			t.Errorf("asking for consent: got %v, want it turned away", err)
		}
		door.expect(t, "127.0.0.1 to keep", "127.0.0.1", "127.0.0.1")
		if got := target.connections.Load() + requests.Load(); got != 0 {
			t.Errorf("got %d connections, want none", got)
		}
	})

	t.Run("IsAskedForByNameWhereTheDialGoes", func(t *testing.T) {
		t.Parallel()
		target, _ := serve(t)
		port := netip.MustParseAddrPort(target.address).Port()
		server := serveDNS(t, map[string][]netip.Addr{"several.example.com.": addresses("127.0.0.1 127.0.0.2")})
		door, sender := &doorman{}, NewSender(Policy{Local: true, Ports: []uint16{port}, Resolvers: []netip.AddrPort{server.address}}, "test")
		beUnhurried(sender)
		door.admits = func(address string, keeps bool) bool { return address == "127.0.0.1" && !keeps }
		m := message(fmt.Sprintf("http://several.example.com:%d/", port))
		m.Admission.Dial = door.admit
		got := sender.Send(t.Context(), m)
		expect(t, got, Attempt{Outcome: Delivered, Status: 204})
		if got.Address != target.address {
			t.Errorf("got it sent to %s, want the admitted address", got.Address)
		}
		door.admits = func(address string, _ bool) bool { return address == "127.0.0.2" } // where nobody listens
		if got := sender.Send(t.Context(), m); got.NotAdmitted || got.Outcome != ConnectionFailed || !strings.Contains(got.Cause, "refused") {
			t.Errorf("got %+v, want an attempt at the admitted address", got)
		}
	})

	t.Run("ThatIsMissingAfterAKeptConnectionFailedMakesItFail", func(t *testing.T) {
		t.Parallel()
		sender := localSender(t)
		k := keep(t, sender, false)
		k.onKept = func(_ net.Conn, reader *bufio.Reader) { readPost(reader) }
		door := &doorman{admits: func(string, bool) bool { return false }}
		m := large(k.url)
		m.Admission.Dial = door.admit
		if got := sender.Send(t.Context(), m); got.NotAdmitted || got.Outcome != ConnectionFailed || got.Address == "" || strings.Contains(got.Cause, again) {
			t.Errorf("got %+v, want the failure of the kept connection", got)
		}
		k.expect(t, 1)
		door.expect(t, "127.0.0.1")
	})
}
