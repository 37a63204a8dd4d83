package load

import (
	"bytes"
	"crypto/rand"
	"hash/maphash"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"ringback/cmd/internal/receivers"
)

// delivery is what the ledger keeps of a callback.
type delivery struct {
	id       uuid.UUID
	result   uint64 // hash of the result's bytes
	sequence int64  // within its ordering key; 0 where none is told
	flags    flag8
}

// crowd is the receivers of a run, which report to the ledger.
type crowd struct {
	ledger    *ledger
	hash      maphash.Seed
	path      []byte              // of the callbacks, up to the request's number
	verifier  *receivers.Verifier // nil where callbacks need no signature
	reordered bool                // the members of results may come in another order
	unread    bool                // nothing is read but ids
	receivers [receivers.Behaviours]*receivers.Receiver
}

// newCrowd returns receivers that listen.
func newCrowd(ledger *ledger, config Config) (*crowd, error) {
	verifier, err := receivers.NewVerifier(config.Secret)
	if err != nil {
		return nil, err
	}
	c := &crowd{
		ledger: ledger,
		hash:   maphash.MakeSeed(),
		// Part of the path is new each time: an earlier run may have had the same port.
		path:      []byte("/callbacks/" + rand.Text() + "/"),
		verifier:  verifier,
		reordered: config.Result == nil,
		unread:    config.Unread,
	}
	for b := range receivers.Behaviours {
		if config.Receivers[b] == 0 {
			continue
		}
		if c.receivers[b], err = receivers.Start(b, receivers.Book{Came: c.came, Unknown: config.Unknown, Answer: c.answer}); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *crowd) close() {
	for _, receiver := range c.receivers {
		if receiver != nil {
			receiver.Close()
		}
	}
}

// url is the callback URL of a request.
func (c *crowd) url(number int) string {
	return c.receivers[c.ledger.requests[number].kind].URL + string(c.path) + strconv.Itoa(number)
}

func (c *crowd) came(came *receivers.Callback) (earlier int, known bool) {
	number, known := c.request(came)
	if !known {
		c.ledger.stray()
		return 0, false
	}
	return c.ledger.attempt(number), true
}

func (c *crowd) answer(came *receivers.Callback, status int) int {
	number, _ := c.request(came)
	if status == fasthttp.StatusOK && !c.ledger.deliver(number, came.At.Sub(c.ledger.start), c.read(came)) {
		return fasthttp.StatusServiceUnavailable
	}
	return status
}

// request finds the request that a callback belongs to.
func (c *crowd) request(came *receivers.Callback) (number int, known bool) {
	digits, known := bytes.CutPrefix(came.Path(), c.path)
	number, err := strconv.Atoi(string(digits))
	if !known || err != nil || !came.IsPost() || number < 0 || number >= len(c.ledger.requests) {
		return 0, false
	}
	request := &c.ledger.requests[number]
	return number, request.isAsync && request.kind == came.Receiver.Behaviour
}

// read takes the checked fields from a callback. A body that can't be read counts as a
// mismatch.
func (c *crowd) read(came *receivers.Callback) (told delivery) {
	if c.unread {
		told.id, _ = uuid.Parse(came.RequestID())
		return told
	}
	if !came.IsSigned(c.verifier) {
		told.flags |= badSignature
	}
	payload, err := came.Payload()
	if err == nil {
		told.id, err = uuid.Parse(payload.Data.ID)
	}
	if err != nil || told.id == uuid.Nil {
		told.flags |= badBody
		return told
	}
	told.sequence, told.result = payload.Data.Sequence, c.digest(payload.Data.Result)
	if payload.Data.Status != "succeeded" {
		told.flags |= workFailed
	}
	return told
}

// digest is a hash of a result.
func (c *crowd) digest(result jsontext.Value) uint64 {
	if c.reordered {
		result = result.Clone()
		_ = result.Canonicalize() // leaves text that isn't JSON as it is
	}
	return maphash.Bytes(c.hash, result)
}
