package api

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"ringback/jobs/clients"
)

// call is one HTTP call on its way through the handlers, from its head to its log line.
type call struct {
	*gin.Context
	id          string // its X-Request-Id
	traceparent string // W3C Trace Context, for its request: of its own span, or as the caller sent it
	begin       time.Time
	client      string // that calls, empty before authenticate

	// For the log line and the metrics.
	work      string          // the name of the work that the call is about
	requestID string          // of the request that the call is about
	problem   string          // the name of the problem that was answered
	reason    string          // for which the call was refused, if it was
	cause     string          // the rule that a callback URL breaks
	unknown   clients.Unknown // why the call has no client
	streams   bool            // the answer is a stream of events

	weight   int    // of the call in its client's rate, 0 where it counts in none
	bodyRead bool   // to its end
	decoding func() // lets the next large body be decoded
	release  func() // gives back the body's part of the budget
}

const callKey = "call"

// newCall begins a call, with an X-Request-Id of the caller's or a new one.
func newCall(c *gin.Context) *call {
	began := &call{Context: c, id: c.GetHeader("X-Request-Id"), traceparent: traceparent(c.Request.Header), begin: time.Now(), decoding: func() {}, release: func() {}}
	if !validCallID(began.id) {
		began.id = uuid.NewString()
	}
	c.Set(callKey, began)
	return began
}

// with adapts a function of a call to gin.
func with(do func(*call)) gin.HandlerFunc {
	return func(c *gin.Context) { do(c.MustGet(callKey).(*call)) }
}

// The deadlines of a call are set below and nowhere else. They are not the server's
// ReadTimeout and WriteTimeout, which would go on counting while the work runs, and end it.
const (
	bodyTimeout  = 10 * time.Second // for a body to arrive
	writeTimeout = 10 * time.Second // for a caller to read an answer
)

func (c *call) control() *http.ResponseController { return http.NewResponseController(c.Writer) }

// expectBody gives the body its time, if there is one.
func (c *call) expectBody(timeout time.Duration) {
	if c.Request.ContentLength != 0 {
		_ = c.control().SetReadDeadline(c.begin.Add(timeout))
	}
}

// bodyEnded notes that the body was read to its end. From then on its deadline would end
// the work.
func (c *call) bodyEnded() {
	c.bodyRead = true
	_ = c.control().SetReadDeadline(time.Time{})
}

// isBodyLate tells whether err says that the body did not arrive in time.
func isBodyLate(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// leaveBody ends what was sent of a body that was not read. A small body is dropped, so that its
// connection stays usable. A larger body ends the connection, or the server would wait for it.
func (c *call) leaveBody() {
	if c.Request.ContentLength != 0 && !c.bodyRead && !c.dropBody() {
		c.Header("Connection", "close")
		_ = c.control().SetReadDeadline(time.Now())
	}
}

// dropBody reads a small body, and tells whether it was all there.
func (c *call) dropBody() bool {
	const patience = 50 * time.Millisecond // it comes with its head, or it is not waited for
	if c.Request.ContentLength > smallBody || c.Request.ContentLength < 0 {
		return false
	}
	start := time.Now()
	_ = c.control().SetReadDeadline(start.Add(2 * patience))
	_, err := io.CopyN(io.Discard, c.Request.Body, c.Request.ContentLength)
	_ = c.control().SetReadDeadline(time.Time{})
	// Close to the deadline it may have cut off the next request's first read.
	return err == nil && time.Since(start) < patience
}

// expectReader gives the caller its time to read what is written next. The returned
// function ends that time at once.
func (c *call) expectReader() (cut func()) {
	control := c.control()
	_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
	return func() { _ = control.SetWriteDeadline(time.Now()) }
}

// releaseBody gives back the body's part of the budget, once.
func (c *call) releaseBody() {
	release := c.release
	c.release = func() {}
	release()
}
