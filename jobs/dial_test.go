package jobs

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ringback/db/dbtest"
	"ringback/jobs/webhook"
)

// serveChangingNames starts a DNS server of which each name has an address of its own at the
// first question, and 127.0.0.1 from then on.
func serveChangingNames(t *testing.T) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { conn.Close(); running.Wait() })
	running.Go(func() {
		packet, known := make([]byte, 512), map[string]bool{}
		for {
			n, from, err := conn.ReadFromUDPAddrPort(packet)
			if err != nil {
				return
			}
			var message dnsmessage.Message
			if message.Unpack(packet[:n]) != nil || len(message.Questions) != 1 {
				continue
			}
			question := message.Questions[0]
			answer := dnsmessage.Message{Header: dnsmessage.Header{ID: message.ID, Response: true}, Questions: message.Questions}
			if question.Type == dnsmessage.TypeA {
				address := [4]byte{127, 0, 0, 1}
				if name := question.Name.String(); !known[name] {
					known[name] = true
					address = [4]byte{127, 1, 0, byte(len(known))}
				}
				answer.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: address},
				}}
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
