package db

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// firstID is below all UUIDv7 that are made at t or later: they begin with the
// milliseconds since 1970 (RFC 9562, section 5.7).
func firstID(t time.Time) (id uuid.UUID) {
	for i, milliseconds := 5, max(t.UnixMilli(), 0); i >= 0; i, milliseconds = i-1, milliseconds>>8 {
		id[i] = byte(milliseconds)
	}
	return id
}

// timeBytes is how many bytes of an id tell its time. The rest is random.
const timeBytes = 8

// AcceptedAt is when a UUIDv7 was made, to the millisecond.
func AcceptedAt(id uuid.UUID) time.Time {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms)
}

// NewID makes a UUIDv7 of the database's time (RFC 9562, section 5.7, with the fraction
// of a millisecond as of section 6.2, method 3). Each id is above all ids made before it.
func (c *Clock) NewID() uuid.UUID {
	now := c.Now()
	step := now.UnixMilli()<<12 | int64(now.Nanosecond())%int64(time.Millisecond)<<12/int64(time.Millisecond)
	c.ids.Lock()
	step = max(step, c.lastID+1)
	c.lastID = step
	c.ids.Unlock()
	var id uuid.UUID
	_, _ = rand.Read(id[8:]) // never fails
	binary.BigEndian.PutUint64(id[:8], uint64(step>>12)<<16|0x7000|uint64(step&0xfff))
	id[8] = id[8]&0x3f | 0x80
	return id
}
