package jobs

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/jobs/limit"
)

// Redelivery is a wish to deliver a callback again that has ended. It is due at
// At, by this process's clock, or later where the client's rate says so.
type Redelivery struct {
	db.Redelivery
	CallbackURL string // of the request
}

// Redelivered is the result of wanted redeliveries.
type Redelivered struct {
	Count   int // callbacks that are pending again
	Refused Refusals
	Tried   int // how many of the wanted, from the first on, were decided; the others were refused together
}

// Refusal is why redeliveries were not admitted, and how many.
type Refusal struct {
	Reason error // as of Accept
	Count  int
}

// Refusals hold a refusal for each reason.
type Refusals []Refusal

// Add returns r with more of a reason.
func (r Refusals) Add(reason error, count int) Refusals {
	for i := range r {
		if r[i].Reason.Error() == reason.Error() {
			r[i].Count += count
			return r
		}
	}
	return append(r, Refusal{reason, count})
}

// redeliveriesAtOnce is the number of callbacks that a statement makes pending.
const redeliveriesAtOnce = 256

// Redeliver makes callbacks that have ended pending again, as many as the quotas admit,
// in one transaction. A redelivery is admitted and counted as a request is: against its
// client's unfinished requests, in all and for the destination, and against the total
// when it is due soon. It leaves no sooner than the client's rate allows. Where a
// destination has no room, redeliveries to other destinations are still tried; where no
// destination has room, Redeliver stops. A redelivery starts the schedule anew, and keeps
// the webhook-id and the log.
func (q *Queue) Redeliver(ctx context.Context, wanted []Redelivery) (done Redelivered, err error) {
	now := time.Now()
	admitted, done := q.admitRedeliveries(wanted, now)
	pending := map[*Redelivery]bool{}
	defer func() { q.enteredRedeliveries(admitted, pending, now) }()
	err = db.InTx(ctx, q.pool, func(tx pgx.Tx) error {
		for chunk := range slices.Chunk(admitted, redeliveriesAtOnce) {
			rows := make([]db.Redelivery, len(chunk))
			for i, r := range chunk {
				rows[i] = r.Redelivery
				rows[i].At = q.clock.At(r.At)
			}
			ids, err := db.RedeliverCallbacks(ctx, tx, callbackJobs, rows)
			if err != nil {
				return err
			}
			for _, r := range chunk {
				pending[r] = ids[r.RequestID] != 0
			}
			done.Count += len(ids)
		}
		return nil
	})
	if err != nil {
		clear(pending)
		return Redelivered{}, err
	}
	return done, nil
}

// admitRedeliveries counts the redeliveries that the quotas admit, and sets their due
// times.
func (q *Queue) admitRedeliveries(wanted []Redelivery, now time.Time) (admitted []*Redelivery, done Redelivered) {
	for i := range wanted {
		r := &wanted[i]
		switch err := q.enterRedelivery(r, now); {
		case err == nil:
			admitted = append(admitted, r)
		case errors.Is(err, limit.Decision{Reason: DestinationQuota}.Err()):
			done.Refused = done.Refused.Add(err, 1)
		default:
			done.Refused, done.Tried = done.Refused.Add(err, len(wanted)-i), i
			return admitted, done
		}
	}
	done.Tried = len(wanted)
	return admitted, done
}

// enterRedelivery counts a redelivery, and sets when it is due.
func (q *Queue) enterRedelivery(r *Redelivery, now time.Time) error {
	if !q.signs(r.Client) {
		return ErrUnsignable
	}
	if err := q.backlog.admit(q.quotas.held(r.Client)); err != nil {
		return err
	}
	if err := q.quotas.enter(r.demand()); err != nil {
		return err
	}
	r.At = q.quotas.redeliverAt(r.Client, r.At, now)
	if r.isSoon(now) {
		q.backlog.add()
	}
	return nil
}

// enteredRedeliveries takes back counted redeliveries that are not pending again: they had
// not ended, or the database failed.
func (q *Queue) enteredRedeliveries(admitted []*Redelivery, pending map[*Redelivery]bool, now time.Time) {
	for _, r := range admitted {
		q.quotas.entered(r.demand(), pending[r])
		if r.isSoon(now) {
			q.backlog.entered(pending[r])
		}
	}
}

func (r *Redelivery) demand() demand {
	return demand{destinationOf(r.Client, r.CallbackURL), db.AttemptBytes, true}
}

func (r *Redelivery) isSoon(now time.Time) bool { return r.At.Sub(now) <= backlogHorizon }

// Spaced is when the given number of redeliveries are due, from start on at the
// given rate per second.
func Spaced(start time.Time, count, rate int) []time.Time {
	due := make([]time.Time, count)
	for i := range due {
		due[i] = start.Add(time.Duration(i) * time.Second / time.Duration(rate))
	}
	return due
}

// Mend gives a request that has lost the job of its next step another job.
func (q *Queue) Mend(ctx context.Context, request uuid.UUID) error {
	return q.reconciler.Mend(ctx, request)
}
