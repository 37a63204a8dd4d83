package load

import (
	"net"
	"time"
)

// conn is a connection to the target. Before it sends a request, it notices that the other
// end closed it while it was idle, as many proxies do after each answer. Then conn dials
// again: nothing of the request was sent.
type conn struct {
	net.Conn
	dial     func() (net.Conn, error)
	answered bool // since the last write: the next byte begins a request
	deadline time.Time
}

func dialAgain(dial func() (net.Conn, error)) (net.Conn, error) {
	first, err := dial()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: first, dial: dial}, nil
}

func (c *conn) Read(p []byte) (int, error) {
	c.answered = true
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	if c.answered && isClosed(c.Conn) {
		if err := c.renew(); err != nil {
			return 0, err
		}
	}
	c.answered = false
	return c.Conn.Write(p)
}

func (c *conn) renew() error {
	renewed, err := c.dial()
	if err != nil {
		return err
	}
	_ = c.Conn.Close()
	c.Conn = renewed
	return c.Conn.SetWriteDeadline(c.deadline)
}

// SetWriteDeadline also holds after a renewal.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.deadline = t
	return c.Conn.SetWriteDeadline(t)
}
