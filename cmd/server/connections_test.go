package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ringback/db/dbtest"
	"ringback/work"
)

func TestBoundListener(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") }))
	server.Listener.Close()
	registry := prometheus.NewRegistry()
	server.Listener = newBoundListener(listener, 2, newRefusedConnections(registry))
	server.Start()
	t.Cleanup(server.Close)
	call := func(client *http.Client) (int, http.Header, string) {
		t.Helper()
		response, err := client.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, response.Header, string(body)
	}
	var holders []*http.Client // of a connection each
	for range 2 {
		client := &http.Client{Transport: &http.Transport{}}
		t.Cleanup(client.CloseIdleConnections)
		if status, _, body := call(client); status != http.StatusOK || body != "served" {
			t.Errorf("within the bound: got %d, %q, want it served", status, body)
		}
		holders = append(holders, client)
	}
	late := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(late.CloseIdleConnections)
	status, header, body := call(late)
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || !strings.Contains(body, "temporary-reduced-capacity") {
		t.Errorf("beyond it: got %d, %v, %q, want 503 with Retry-After and a problem", status, header, body)
	}
	if counted, err := registry.Gather(); err != nil || counted[0].Metric[0].Counter.GetValue() != 1 {
		t.Errorf("counted: got %v, %v, want one refusal", counted, err)
	}
	holders[0].CloseIdleConnections()
	until(t, func() bool { status, _, _ := call(late); return status == http.StatusOK }, func() string { return "a place to be free again" })
}

func TestConnectionsThatWaitAreServedBeforeTheListenerCloses(t *testing.T) {
	t.Parallel()
	listener, err := listenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var answers sync.WaitGroup
	for range 20 {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		answers.Go(func() {
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || response.StatusCode != http.StatusNoContent {
				t.Errorf("got %v, %v, want it served", response, err)
			}
		})
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	if err := emptyQueue(t.Context(), listener); err != nil {
		t.Fatal(err)
	}
	listener.Close()
	answers.Wait()
	server.Close()
	<-ended
}

func TestFirstCallIsAnsweredThoughTheListenerIsClosed(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, work.Do)
	address := strings.TrimPrefix(p.url, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p.stop()
	until(t, func() bool {
		late, err := net.DialTimeout("tcp", address, 100*time.Millisecond)
		if err == nil {
			late.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	}, func() string { return "the listener to be closed" })
	fmt.Fprint(conn, "GET /requests HTTP/1.1\r\nHost: localhost\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || response.StatusCode != http.StatusOK || !response.Close {
		t.Errorf("got %v, %v, want an answer, and the connection closed after it", response, err)
	}
	if err := p.waitStopped(t); err != nil {
		t.Errorf("got %v, want it to stop", err)
	}
}
