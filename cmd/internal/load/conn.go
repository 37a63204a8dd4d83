package load

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// conn is a connection to the target. Before a request, for which fasthttp sets the write
// deadline, conn notices that the other end closed it while it was idle, as many proxies do
// after each answer. Then conn dials again: nothing of the request was sent.
type conn struct {
	net.Conn
	dial func() (net.Conn, error)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	if isClosed(c.Conn) {
		renewed, err := c.dial()
		if err != nil {
			return err
		}
		_ = c.Conn.Close()
		c.Conn = renewed
	}
	return c.Conn.SetWriteDeadline(t)
}

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
		return true // doesn't wait for a byte
	})
	return closed || err != nil
}
