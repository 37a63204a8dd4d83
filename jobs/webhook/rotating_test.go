package webhook

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

func TestConnectionsThatAreAlwaysUsedAreRenewed(t *testing.T) {
	t.Parallel()
	enter, leave := make(chan struct{}), make(chan struct{})
	gone := make(chan string, 8)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			enter <- struct{}{}
			<-leave
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			gone <- conn.RemoteAddr().String()
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	sender := localSender(t)
	send := func(path string) Attempt {
		got := sender.Send(t.Context(), message(server.URL+path))
		expect(t, got, Attempt{Outcome: Delivered, Status: http.StatusNoContent})
		return got
	}

	first, second := send("/"), send("/")
	if first.Conn != second.Conn {
		t.Fatalf("got connections %s and %s, want it kept", first.Conn, second.Conn)
	}
	sender.kept.Rotate()
	third := send("/")
	if third.Conn == first.Conn {
		t.Fatalf("got connection %s again after %s, want another, which the name leads to now", third.Conn, renewal)
	}
	if got := <-gone; got != first.Conn {
		t.Errorf("got %s closed, want the idle connection %s", got, first.Conn)
	}
	var slow Attempt
	var sent sync.WaitGroup
	sent.Go(func() { slow = send("/slow") }) // on the kept connection
	<-enter
	sender.kept.Rotate()
	send("/")
	close(leave)
	sent.Wait()
	if slow.Conn != third.Conn {
		t.Errorf("got connection %s for the attempt under way, want %s, undisturbed", slow.Conn, third.Conn)
	}
	if got := <-gone; got != third.Conn {
		t.Errorf("got %s closed, want %s, once its attempt had ended", got, third.Conn)
	}
}
