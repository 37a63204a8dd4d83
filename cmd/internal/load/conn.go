package load

import (
	"net"
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
