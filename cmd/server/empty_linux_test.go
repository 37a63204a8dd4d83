package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Some sandboxes give a socket no filter.
func TestConnectionsThatWaitAreServedWhereNoFilterIsAllowed(t *testing.T) {
	t.Parallel()
	listener, err := listenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := listener.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	lock := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1) }
	if err := control(raw, lock); err != nil {
		t.Fatal(err)
	}
	if err := control(raw, dropSYN); err == nil {
		t.Fatal("the socket took a filter")
	}
	expectWaitingServed(t, listener)
}
