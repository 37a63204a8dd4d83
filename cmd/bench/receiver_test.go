package main

import (
	"testing"

	"github.com/valyala/fasthttp"
)

func TestReceiverAnswersOptionsAsItsKindDoes(t *testing.T) {
	t.Parallel()
	for kind, want := range map[receiverKind]struct {
		status  int
		granted string
	}{ordinary: {405, ""}, granting: {200, "*"}} {
		r, err := startReceiver(kind, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.close)
		request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
		request.Header.SetMethod(fasthttp.MethodOptions)
		request.SetRequestURI(r.url)
		if err := fasthttp.Do(request, response); err != nil {
			t.Fatal(err)
		}
		origin, rate := response.Header.Peek("WebHook-Allowed-Origin"), response.Header.Peek("WebHook-Allowed-Rate")
		if response.StatusCode() != want.status || string(origin) != want.granted || string(rate) != want.granted {
			t.Errorf("%s: got %d, origin %q and rate %q, want %d and %q", kind, response.StatusCode(), origin, rate, want.status, want.granted)
		}
	}
	if got := receiverOf(before); got != granting {
		t.Errorf("an earlier server calls a receiver that is %s, want %s", got, granting)
	}
}
