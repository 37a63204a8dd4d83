package jobs

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"ringback/db"
	"ringback/jobs/clients"
	"ringback/jobs/limit"
)

// Quotas are the reasons for which requests of a client are refused. The Decision tells
// the client's number.
const (
	UnfinishedQuota  limit.Reason = "client_unfinished"      // requests, in all
	DestinationQuota limit.Reason = "destination_unfinished" // requests for a single destination
	StorageQuota     limit.Reason = "client_storage"         // bytes that are kept
	DeadLetterQuota  limit.Reason = "client_dead_letters"    // that are kept
)

// quotas bound each client's unfinished requests, in all and for a destination, and its kept bytes
// and dead letters. So no client can fill the queue or the disk, or heap up callbacks for a
// victim. Like the backlog, they take samples and add the requests that this process has accepted
// since. Nil quotas admit all.
//
// Unfinished requests count here whenever they are due, even if a dead receiver makes
// them wait for hours. The backlog leaves such requests out, since they are no load
// meanwhile; quotas bound how many a client may leave for later.
type quotas struct {
	limits func(client string) clients.Limits
	count  func(ctx context.Context) (map[db.Destination]int64, error)
	sample func(ctx context.Context) (map[string]db.Kept, error)
	logger *slog.Logger

	mu          sync.Mutex
	unfinished  limit.Sample[db.Destination] // in all under the empty host
	bytes       limit.Sample[string]         // kept, by client
	deadLetters map[string]int64             // kept, by client, by the latest sample
	redelivered map[string]time.Time         // by client, the TAT of its redeliveries
	due         map[string]*agenda           // by client
	forgetDue   int                          // after so many more requests, the tenths that are over go
}

// agenda counts the requests of a client that are due later, by the tenth of a second in Unix
// time.
type agenda struct {
	tenths map[int64]int
	count  int // in all tenths
}

// tenthOf is the tenth of a second of a time. The queue looks for due jobs as often.
func tenthOf(at time.Time) int64 { return at.UnixMilli() / aTenth.Milliseconds() }

const aTenth = fetchPollInterval

// demand is a request's or a redelivery's demand on its client's quotas.
type demand struct {
	db.Destination
	bytes int64 // that will be kept of it
	// noLetter: it adds no dead letter, since it is a redelivery, or has no callback.
	noLetter bool
}

func demandOf(request db.Request) demand {
	return demand{destinationOf(request.Client, request.CallbackURL), keptOf(request), request.CallbackURL == ""}
}

// anywhere is the demand of any request of a client, to any destination.
func anywhere(client string) demand { return demand{Destination: db.Destination{Client: client}} }

// keptOf is about how many bytes are kept of a request, but for its outcome.
func keptOf(request db.Request) int64 {
	return int64(db.RequestBytes + len(request.Input) + len(request.CallbackURL) + len(request.CallbackHeaders) + len(request.OrderingKey))
}

// destinationOf takes the host from a canonical URL, as the database does when
// it counts.
func destinationOf(client, callbackURL string) db.Destination {
	_, rest, _ := strings.Cut(callbackURL, "//")
	host, _, _ := strings.Cut(rest, "/")
	return db.Destination{Client: client, Host: host}
}

// newQuotas returns nil where clients have no limits.
func newQuotas(config Config) *quotas {
	if config.Limits == nil {
		return nil
	}
	return &quotas{
		limits: config.Limits,
		count: func(ctx context.Context) (map[db.Destination]int64, error) {
			return db.CountByDestination(ctx, config.Pool, QueueNames(), sampleOfUnfinished)
		},
		sample: func(ctx context.Context) (map[string]db.Kept, error) { return db.SampleKept(ctx, config.Pool) },
		logger: config.Logger,
	}
}

// admit tells whether a client's quotas have room for a demand.
func (q *quotas) admit(d demand) error {
	if q == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.check(d)
}

// admitStorage tells whether a client may have more stored.
func (q *quotas) admitStorage(client string) error {
	if q == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return below(StorageQuota, q.bytes.Of(client), q.limits(client).Storage)
}

// enter counts a demand before its request is written. entered follows, and tells whether it was.
func (q *quotas) enter(d demand) error {
	if q == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.check(d); err != nil {
		return err
	}
	d.each(func(of db.Destination) { q.unfinished.Write(of, 1) })
	q.bytes.Write(d.Client, d.bytes)
	return nil
}

func (q *quotas) entered(d demand, written bool) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	d.each(func(of db.Destination) { q.unfinished.Wrote(of, 1, written) })
	q.bytes.Wrote(d.Client, d.bytes, written)
}

// keep counts a sync request that is stored.
func (q *quotas) keep(request db.Request) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes.Add(request.Client, keptOf(request)+int64(len(request.Result)+len(request.Error)))
}

// each calls do for all unfinished requests of the client, and for those to the destination, if
// there is one.
func (d demand) each(do func(of db.Destination)) {
	do(db.Destination{Client: d.Client})
	if d.Host != "" {
		do(d.Destination)
	}
}

func (q *quotas) check(d demand) error {
	limits := q.limits(d.Client)
	if err := below(UnfinishedQuota, q.unfinished.Of(db.Destination{Client: d.Client}), int64(limits.Unfinished)); err != nil {
		return err
	}
	if err := below(StorageQuota, q.bytes.Of(d.Client), limits.Storage); err != nil {
		return err
	}
	if !d.noLetter {
		if err := below(DeadLetterQuota, q.deadLetters[d.Client], int64(limits.DeadLetters)); err != nil {
			return err
		}
	}
	if d.Host == "" {
		return nil
	}
	return below(DestinationQuota, q.unfinished.Of(d.Destination), int64(limits.PerDestination))
}

// below refuses a count that would exceed the most, if there is a bound.
func below(quota limit.Reason, count, most int64) error {
	if most > 0 && count >= most {
		return limit.Decision{Reason: quota, Most: most}.Err()
	}
	return nil
}

// redeliverAt returns the due time of a redelivery, no sooner than wanted. It uses the client's
// rate, over all calls together: a single call may ask for a thousand within ten seconds.
func (q *quotas) redeliverAt(client string, wanted, now time.Time) time.Time {
	if q == nil {
		return wanted
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	rate := limit.Rate{PerSecond: float64(q.limits(client).Rate), Burst: 1}
	free := rate.FreeAt(q.redelivered[client], 1)
	if q.redelivered == nil {
		q.redelivered = map[string]time.Time{}
	}
	q.redelivered[client] = rate.Spend(q.redelivered[client], now, 1)
	return limit.Latest(wanted, now, free)
}

// dueAt returns when work is due that a client wants at a later time. It is then, or in the first
// tenth of a second after it with room at twice the client's rate. A client may have thousands of
// requests for later, and would otherwise have all of them done at one moment, before the requests
// of others. A second's worth at one moment would do so, too, each second. undue takes the time
// back.
func (q *quotas) dueAt(client string, wanted, now time.Time) time.Time {
	if q == nil || wanted.IsZero() {
		return wanted
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	limits := q.limits(client)
	q.forget(now)
	a := q.agendaOf(client, cmp.Or(limits.Unfinished, unboundedDue), now)
	most, first := (dueBurst*limits.Rate+9)/10, tenthOf(wanted) // one in each tenth at least
	tenth := first
	for most > 0 && a.tenths[tenth] >= most {
		tenth++
	}
	a.add(tenth, 1)
	return wanted.Add(time.Duration(tenth-first) * aTenth)
}

// undue takes back a time that dueAt returned, of a request that was not accepted or was
// cancelled.
func (q *quotas) undue(client string, at time.Time) {
	if q == nil || at.IsZero() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if a := q.due[client]; a != nil && a.tenths[tenthOf(at)] > 0 {
		a.add(tenthOf(at), -1)
	}
}

// agendaOf is the agenda of a client that may have so many requests unfinished. An agenda
// of twice as many begins anew: most of them aren't owed any more, such as the requests
// that were cancelled in another process. That bounds its memory, and the search for a
// tenth with room.
func (q *quotas) agendaOf(client string, unfinished int, now time.Time) *agenda {
	a := q.due[client]
	if a != nil && a.count >= 2*unfinished {
		a.forget(now)
	}
	if a == nil || a.count > unfinished {
		a = &agenda{tenths: map[int64]int{}}
		q.due[client] = a
	}
	return a
}

// forget drops the tenths that are over, once there were as many new requests as tenths
// were left the last time.
func (q *quotas) forget(now time.Time) {
	if q.forgetDue--; q.forgetDue > 0 {
		return
	}
	if q.due == nil {
		q.due = map[string]*agenda{}
	}
	left := 0
	for client, a := range q.due {
		if a.forget(now); a.count == 0 {
			delete(q.due, client)
		}
		left += len(a.tenths)
	}
	q.forgetDue = max(leastDue, left)
}

func (a *agenda) add(tenth int64, requests int) {
	a.count += requests
	if a.tenths[tenth] += requests; a.tenths[tenth] == 0 {
		delete(a.tenths, tenth)
	}
}

func (a *agenda) forget(now time.Time) {
	for tenth, count := range a.tenths {
		if tenth < tenthOf(now) {
			a.add(tenth, -count)
		}
	}
}

// dueBurst is how many times its rate may be due of a client. Work that comes at the rate, with
// the same delay, is then on time.
const dueBurst = 2

// leastDue is how many new requests come at least between two clean-ups of the agendas.
const leastDue = 1000

// unboundedDue stands for the bound on unfinished requests where a client has none. It is
// the most that all clients together have waiting.
const unboundedDue = 100_000

// held is how many requests a client has unfinished, whenever they are due. Nil quotas tell
// no clients apart: each has none.
func (q *quotas) held(client string) int64 {
	if q == nil {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return max(0, q.unfinished.Of(db.Destination{Client: client}))
}

// left is how many more requests a client may have unfinished.
func (q *quotas) left(client string) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return max(0, int64(q.limits(client).Unfinished)-q.unfinished.Of(db.Destination{Client: client}))
}

// keptInterval is the least time between two samples of kept bytes. A client at the
// default rate, with the largest bodies, stores 150 MB meanwhile.
const keptInterval = 10 * time.Second

// watch takes samples until ctx ends, with pauses as the backlog has between its
// own.
func (q *quotas) watch(ctx context.Context) {
	go every(ctx, keptInterval, longestKeptPause, q.sampleKept)
	every(ctx, backlogInterval, longestPause, q.sampleUnfinished)
}

const (
	// longestPause bounds the pause between two counts of unfinished requests. Requests that
	// end count until the next count, so a client at the default rate reaches the default for
	// a destination in 20 s without one. A backlog of one client makes counts take seconds,
	// and a client whose callbacks were all delivered was refused.
	longestPause = 5 * time.Second
	// longestKeptPause is longer, since kept bytes change slowly.
	longestKeptPause = backlogShare * sampleTimeout
)

// every does something again and again until ctx ends, at the least interval, and
// less often where it takes long, at most after the longest pause.
func every(ctx context.Context, interval, longest time.Duration, do func(ctx context.Context)) {
	for ctx.Err() == nil {
		start := time.Now()
		do(ctx)
		sleep(ctx, max(interval, min(longest, backlogShare*time.Since(start))))
	}
}

// sampleUnfinished counts unfinished requests. After a failure the last count stands,
// with the requests accepted since.
func (q *quotas) sampleUnfinished(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	q.locked(q.unfinished.Begin)
	counts, err := q.count(ctx)
	if err != nil {
		return
	}
	all := make(map[db.Destination]int64, 2*len(counts))
	for d, count := range counts {
		all[d] += count
		all[db.Destination{Client: d.Client}] += count
	}
	q.locked(func() { q.unfinished.End(all) })
}

// sampleOfUnfinished is the number of jobs that a count reads, in some tenths of a
// second. Up to that number counts are exact; among a hundred thousand jobs, a client's
// ten thousand are counted to within 2 %.
const sampleOfUnfinished = 20_000

// sampleKept estimates each client's kept bytes. After a failure the last sample stands,
// additions since count without any removal, so an operator should know.
func (q *quotas) sampleKept(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	q.locked(q.bytes.Begin)
	kept, err := q.sample(ctx)
	if err != nil {
		if !errors.Is(ctx.Err(), context.Canceled) {
			q.logger.WarnContext(ctx, "kept_bytes_not_sampled", "error", err)
		}
		return
	}
	bytes, letters := make(map[string]int64, len(kept)), make(map[string]int64, len(kept))
	for client, of := range kept {
		bytes[client], letters[client] = of.Bytes, of.DeadLetters
	}
	q.locked(func() {
		q.bytes.End(bytes)
		q.deadLetters = letters
	})
}

func (q *quotas) locked(do func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	do()
}

// sleep waits for d, or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
