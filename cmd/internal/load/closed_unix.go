//go:build unix

package load

import (
	"errors"
	"net"
	"syscall"
)

// isClosed tells whether an idle connection is useless: its other end closed it, or sent
// unexpected bytes.
func isClosed(idle net.Conn) bool {
	raw, ok := idle.(syscall.Conn)
	if !ok {
		return false
	}
	socket, err := raw.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = socket.Read(func(descriptor uintptr) bool {
		_, _, err := syscall.Recvfrom(int(descriptor), make([]byte, 1), syscall.MSG_PEEK)
		closed = !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
		return true // any byte, without waiting
	})
	return closed || err != nil
}
