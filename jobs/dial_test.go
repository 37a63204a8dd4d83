package jobs

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ringback/db/dbtest"
	"ringback/jobs/pacing"
	"ringback/jobs/webhook"
)

// serveNames starts a DNS server. reply completes the answer to a question, and tells whether
// there is one.
func serveNames(t *testing.T, reply func(question dnsmessage.Question, answer *dnsmessage.Message) bool) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { conn.Close(); running.Wait() })
	running.Go(func() {
		packet := make([]byte, 512)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(packet)
			if err != nil {
				return
			}
			var message dnsmessage.Message
			if message.Unpack(packet[:n]) != nil || len(message.Questions) != 1 {
				continue
			}
			answer := dnsmessage.Message{Header: dnsmessage.Header{ID: message.ID, Response: true}, Questions: message.Questions}
			if !reply(message.Questions[0], &answer) {
				continue
			}
			packed, err := answer.Pack()
			if err != nil {
				t.Errorf("answering a question: %v", err)
				return
			}
			_, _ = conn.WriteToUDPAddrPort(packed, from)
		}
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func addressOf(question dnsmessage.Question, address [4]byte) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: address},
	}
}

// serveChangingNames starts a DNS server of which each name has an address of its own at the
// first question, and 127.0.0.1 from then on.
func serveChangingNames(t *testing.T) netip.AddrPort {
	t.Helper()
	known := map[string]bool{}
	return serveNames(t, func(question dnsmessage.Question, answer *dnsmessage.Message) bool {
		if question.Type == dnsmessage.TypeA {
			address := [4]byte{127, 0, 0, 1}
			if name := question.Name.String(); !known[name] {
				known[name] = true
				address = [4]byte{127, 1, 0, byte(len(known))}
			}
			answer.Answers = []dnsmessage.Resource{addressOf(question, address)}
		}
		return true
	})
}

// Strangers count at the address that their callbacks go to, whatever DNS said before. Who is
// turned away at the dial made no attempt.
func TestStrangersCountWhereTheirCallbacksGo(t *testing.T) {
	t.Parallel()
	times := make(chan time.Time, 1000)
	victim := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		times <- time.Now()
	})
	port := netip.MustParseAddrPort(victim[len("http://") : len(victim)-1]).Port()
	url := dbtest.New(t)
	q := newQueueBy(t, url, url, doNothing, 80, webhook.Policy{
		Local: true, Ports: []uint16{port}, Resolvers: []netip.AddrPort{serveChangingNames(t)},
	})
	const names = 80
	for n := range names {
		q.accept(t, newRequest(fmt.Sprintf("http://n%d.evil.com:%d/", n, port)))
	}
	q.start(t)
	first := <-times
	for range names/2 - 1 {
		<-times
	}
	// 20 a second; taking longer does no harm.
	if took, least := (<-times).Sub(first), time.Second; took < least {
		t.Errorf("got %d callbacks at one address within %v, want it to take %v at least", names/2+1, took, least)
	}
	waitUntil(t, func() bool {
		return q.holds(t, "SELECT count(*) > $1 FROM callback_attempts", names/2)
	})
	// On a busy machine an answer may come too late.
	if q.holds(t, "SELECT EXISTS (SELECT FROM callback_attempts WHERE http_status IS DISTINCT FROM 404 AND outcome <> 'timeout')") {
		t.Error("a callback that was turned away stands in the log of attempts")
	}
	if !q.holds(t, "SELECT EXISTS (SELECT FROM river_job WHERE metadata ? 'snoozes')") {
		t.Error("no callback was postponed")
	}
}

// serveBusyNames starts a DNS server that takes most questions at a time, and refuses all others,
// as dnsmasq does. A question for a name with silent in it stays open. It counts the questions
// that it refused.
func serveBusyNames(t *testing.T, most int) (address netip.AddrPort, refused *atomic.Int32) {
	t.Helper()
	open := 0
	refused = new(atomic.Int32)
	return serveNames(t, func(question dnsmessage.Question, answer *dnsmessage.Message) (answers bool) {
		switch {
		case open == most:
			refused.Add(1)
			answer.RCode = dnsmessage.RCodeRefused
		case strings.Contains(question.Name.String(), "silent"):
			open++
			return false
		case question.Type == dnsmessage.TypeA:
			answer.Answers = []dnsmessage.Resource{addressOf(question, [4]byte{127, 0, 0, 1})}
		}
		return true
	}), refused
}

// The name server is shared by all clients: a client whose names nobody answers for leaves
// questions to the others.
func TestNamesThatNobodyAnswersForHoldUpNoOtherClient(t *testing.T) {
	t.Parallel()
	receiver := newServer(t, func(http.ResponseWriter, *http.Request) {})
	port := netip.MustParseAddrPort(receiver[len("http://") : len(receiver)-1]).Port()
	address, refused := serveBusyNames(t, 150)
	url := dbtest.New(t)
	q := newQueueBy(t, url, url, doNothing, 400, webhook.Policy{Local: true, Ports: []uint16{port}, Resolvers: []netip.AddrPort{address}})
	q.pacing = pacing.New(pacing.Config{Workers: 400, Shared: true, Logger: slog.New(slog.DiscardHandler), Outside: q.outside(q.callbackWorker.sender)})
	for n := range 100 {
		request := newRequest(fmt.Sprintf("http://silent%d.evil.com:%d/", n, port))
		request.Client = "mallory"
		q.accept(t, request)
	}
	q.start(t)
	waitUntil(t, func() bool {
		return refused.Load() > 0 || q.holds(t, "SELECT EXISTS (SELECT FROM river_job WHERE metadata -> 'output' ->> 'waits_for' = 'lookups')")
	})
	request := newRequest(fmt.Sprintf("http://alice.com:%d/", port))
	q.accept(t, request)
	q.waitFor(t, request.ID, "attempt > 0")
	if got := q.outcomes(t, request.ID); !slices.Equal(got, []string{"delivered"}) || refused.Load() > 0 {
		t.Errorf("got the attempts %v, and %d questions that the name server refused; want one attempt, and none refused", got, refused.Load())
	}
}
