package main

import (
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"ringback/db/dbtest"
)

func TestAddressInUseIsOneClearError(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	environ := environment(dbtest.New(t), map[string]string{"HTTP_ADDR": taken.Addr().String()})
	err = run(t.Context(), []string{"--dev"}, environ, httptest.NewRecorder(), httptest.NewRecorder(), works)
	if err == nil || !strings.Contains(err.Error(), "address already in use: another ringback may be running: stop it, or set HTTP_ADDR to an address with a free port") {
		t.Errorf("got %v, want an error that says what to do about the address in use", err)
	}
	err = run(t.Context(), []string{"listen", "--addr", taken.Addr().String()}, environ, io.Discard, io.Discard, works)
	if err == nil || !strings.Contains(err.Error(), "address already in use: another ringback listen may be running: stop it, or give --addr an address with a free port") {
		t.Errorf("listen: got %v, want an error that says what to do about the address in use", err)
	}
}
