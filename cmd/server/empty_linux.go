package main

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// emptyQueue takes no more connections and returns when the connections that the kernel
// holds for the listener are accepted: closing it would reset them. Who comes
// later gets no answer, tries again within a second, and is refused or meets the
// next process.
func emptyQueue(ctx context.Context, listener *net.TCPListener) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	// Some kernels and sandboxes give filters to root alone. Then a connection is reset that
	// comes between the last look and the close, and no other.
	_ = control(raw, dropSYN)
	tick := time.NewTicker(20 * time.Millisecond) // time for handshakes that have begun
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		var queued uint32
		err := control(raw, func(fd int) (err error) {
			queued, err = acceptQueue(fd)
			return err
		})
		if err != nil || queued == 0 {
			return err
		}
	}
}

// dropSYN gives the socket a filter that drops requests for new connections, see
// socket(7), SO_ATTACH_FILTER. The filter reads the TCP header, whose byte 13 has the
// flags; SYN is the second.
func dropSYN(fd int) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 2, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
	}
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program)
}

// acceptQueue is the number of connections that wait to be accepted: tcpi_unacked of a
// listening socket.
func acceptQueue(fd int) (uint32, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, err
	}
	return info.Unacked, nil
}

func control(raw syscall.RawConn, do func(fd int) error) error {
	var err error
	controlErr := raw.Control(func(fd uintptr) { err = do(int(fd)) })
	return errors.Join(controlErr, err)
}
