package jobs

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"ringback/db"
)

// Reasons for which nothing more is accepted from one client.
var (
	ErrClientQuota      = errors.New("too many requests of the client are unfinished")
	ErrDestinationQuota = errors.New("too many requests of the client for one destination are unfinished")
)

// quota bounds what each client has unfinished, in all and for one destination,
// so that one client can neither fill the queue nor heap up callbacks for a
// victim. As the backlog does for all, it takes samples and adds what this
// process has accepted since. A nil quota admits all.
type quota struct {
	client      int64 // the most that a client may have unfinished
	destination int64 // likewise for one destination
	count       func(ctx context.Context) (map[db.Destination]int64, error)

	mu       sync.Mutex
	sampled  unfinished // by the latest sample
	before   unfinished // accepted by this process before the sample under way began, which may hold it
	accepted unfinished // by this process since then
}

// unfinished are counts by client and destination. What a client has in all
// stands under the empty destination.
type unfinished map[db.Destination]int64

func (u unfinished) add(d db.Destination, count int64) {
	u[d] += count
	u[db.Destination{Client: d.Client}] += count
}

// destinationOf takes the origin from a canonical URL, as the database does when
// it counts.
func destinationOf(request db.Request) db.Destination {
	_, rest, _ := strings.Cut(request.CallbackURL, "//")
	origin, _, _ := strings.Cut(rest, "/")
	return db.Destination{Client: request.Client, Origin: origin}
}

// newQuota returns nil where there is no limit.
func newQuota(config Config) *quota {
	if config.ClientUnfinished == 0 && config.DestinationUnfinished == 0 {
		return nil
	}
	return &quota{
		client: int64(config.ClientUnfinished), destination: int64(config.DestinationUnfinished), accepted: unfinished{},
		count: func(ctx context.Context) (map[db.Destination]int64, error) {
			return db.CountByDestination(ctx, config.Pool, []string{workQueue, callbackQueue}, int64(config.Unfinished))
		},
	}
}

// admit tells whether a client may have more unfinished, for whichever
// destination.
func (q *quota) admit(client string) error {
	if q == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.check(db.Destination{Client: client})
}

// enter counts a request that is about to be accepted; leave takes it back where
// it was not.
func (q *quota) enter(request db.Request) error {
	if q == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	d := destinationOf(request)
	if err := q.check(db.Destination{Client: d.Client}); err != nil {
		return err
	}
	if err := q.check(d); err != nil {
		return err
	}
	q.accepted.add(d, 1)
	return nil
}

func (q *quota) leave(request db.Request) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.accepted.add(destinationOf(request), -1)
}

func (q *quota) check(d db.Destination) error {
	switch count := q.of(d); {
	case d.Origin == "" && count >= q.client:
		return ErrClientQuota
	case d.Origin != "" && count >= q.destination:
		return ErrDestinationQuota
	}
	return nil
}

func (q *quota) of(d db.Destination) int64 { return q.sampled[d] + q.before[d] + q.accepted[d] }

// left is how many more requests a client may have unfinished.
func (q *quota) left(client string) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return max(0, q.client-q.of(db.Destination{Client: client}))
}

// watch takes samples until ctx ends, with pauses as the backlog has between its
// own.
func (q *quota) watch(ctx context.Context) {
	for ctx.Err() == nil {
		start := time.Now()
		q.sample(ctx)
		pause := time.NewTimer(max(backlogInterval, backlogShare*time.Since(start)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// sample counts what is unfinished. Where that fails, the last count stands, and
// what was accepted since.
func (q *quota) sample(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	q.begin()
	counts, err := q.count(ctx)
	if err != nil {
		return
	}
	sampled := make(unfinished, len(counts))
	for d, count := range counts {
		sampled.add(d, count)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sampled, q.before = sampled, nil
}

// begin sets apart what the sample that begins will hold.
func (q *quota) begin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for d, count := range q.before { // of a sample that failed
		q.accepted[d] += count
	}
	q.before, q.accepted = q.accepted, unfinished{}
}
