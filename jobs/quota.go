package jobs

import (
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

// Quotas are the reasons for which nothing more is accepted from one client. The
// Decision tells how many it may have.
const (
	UnfinishedQuota  limit.Reason = "client_unfinished"      // requests, in all
	DestinationQuota limit.Reason = "destination_unfinished" // requests for one destination
	StorageQuota     limit.Reason = "client_storage"         // bytes that are kept
	DeadLetterQuota  limit.Reason = "client_dead_letters"    // that are kept
)

// quotas bound what each client has unfinished, in all and for one destination, and
// what is kept of it, so that one client can neither fill the queue or the disk nor
// heap up callbacks for a victim. As the backlog does for all, they take samples
// and add what this process has accepted since. Nil quotas admit all.
//
// What is unfinished counts here whenever it is due, also what a dead receiver
// makes wait for hours. It is no load on anybody meanwhile, so the backlog leaves
// it out, but each client may leave only so much of it for later.
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
}

// demand is what a request or a redelivery asks of its client's quotas.
type demand struct {
	db.Destination
	bytes int64 // that will be kept of it
	// noLetter: it makes no dead letter more, since it is a redelivery, or has no callback.
	noLetter bool
}

func demandOf(request db.Request) demand {
	return demand{destinationOf(request.Client, request.CallbackURL), keptOf(request), request.CallbackURL == ""}
}

// anywhere is what any request of a client demands, whatever its destination.
func anywhere(client string) demand { return demand{Destination: db.Destination{Client: client}} }

// keptOf is about how many bytes are kept of a request, but for its result.
func keptOf(request db.Request) int64 { return int64(db.RequestBytes + len(request.Input)) }

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
			return db.CountByDestination(ctx, config.Pool, []string{workQueue, callbackQueue}, sampleOfUnfinished)
		},
		sample: func(ctx context.Context) (map[string]db.Kept, error) { return db.SampleKept(ctx, config.Pool) },
		logger: config.Logger,
	}
}

// admit tells whether a client may have what it demands.
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

// enter counts what is about to be accepted; leave takes it back where it was not.
func (q *quotas) enter(d demand) error {
	if q == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.check(d); err != nil {
		return err
	}
	q.add(d, 1)
	return nil
}

func (q *quotas) leave(d demand) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(d, -1)
}

// keep counts a sync request that is stored.
func (q *quotas) keep(request db.Request) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes.Add(request.Client, keptOf(request)+int64(len(request.Result)))
}

func (q *quotas) add(d demand, times int64) {
	q.unfinished.Add(db.Destination{Client: d.Client}, times)
	if d.Host != "" {
		q.unfinished.Add(d.Destination, times)
	}
	q.bytes.Add(d.Client, times*d.bytes)
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

// below refuses what would be more than the most, if there is any.
func below(quota limit.Reason, count, most int64) error {
	if most > 0 && count >= most {
		return limit.Decision{Reason: quota, Most: most}.Err()
	}
	return nil
}

// redeliverAt returns when a redelivery is due that is wanted at a time, and uses the
// client's rate for it, whichever call asks: of one call alone, a thousand may be due
// within ten seconds.
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

// left is how many more requests a client may have unfinished.
func (q *quotas) left(client string) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return max(0, int64(q.limits(client).Unfinished)-q.unfinished.Of(db.Destination{Client: client}))
}

// keptInterval is how often what is kept is sampled at most. A client at the
// default rate, with the largest bodies, stores 150 MB meanwhile.
const keptInterval = 10 * time.Second

// watch takes samples until ctx ends, with pauses as the backlog has between its
// own.
func (q *quotas) watch(ctx context.Context) {
	go every(ctx, keptInterval, q.sampleKept)
	every(ctx, backlogInterval, q.sampleUnfinished)
}

// every does something again and again until ctx ends, at the least interval, and
// less often where it takes long.
func every(ctx context.Context, interval time.Duration, do func(ctx context.Context)) {
	for ctx.Err() == nil {
		start := time.Now()
		do(ctx)
		pause := time.NewTimer(max(interval, backlogShare*time.Since(start)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// sampleUnfinished counts what is unfinished. Where that fails, the last count
// stands, and what was accepted since.
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

// sampleOfUnfinished is how many jobs a count looks up, which takes Postgres some
// tenths of a second. Up to as many, counts are exact; among a hundred thousand, a
// client's ten thousand are told to within one in fifty.
const sampleOfUnfinished = 20_000

// sampleKept estimates what is kept of each client. Where that fails, the last
// sample stands, and what was kept since: of that, nothing goes, so an operator
// should know.
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
