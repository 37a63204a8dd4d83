package db_test

import (
	"fmt"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"ringback/db"
	"ringback/db/dbtest"
)

// BenchmarkStatements runs the statements of the hot path with batches of several sizes;
// the reported time is a row's.
func BenchmarkStatements(b *testing.B) {
	pool := dbtest.NewPool(b)
	made := func(count int) (requests []db.Request) {
		for range count {
			requests = append(requests, asyncRequest())
		}
		return requests
	}
	accepted := func(b *testing.B, count int) []db.Request {
		requests := made(count)
		if _, err := db.InsertRequests(b.Context(), pool, workJobs, requests); err != nil {
			b.Fatal(err)
		}
		for i := range requests {
			requests[i].Status, requests[i].Result = db.Succeeded, jsontext.Value(`{"words":1}`)
			requests[i].StartedAt, requests[i].FinishedAt = morning, morning
		}
		return requests
	}
	finish := func(b *testing.B, requests []db.Request) map[uuid.UUID]db.Finished {
		finished, err := db.FinishRequests(b.Context(), pool, callbackJobs, requests)
		if err != nil || len(finished) != len(requests) {
			b.Fatalf("got %d finished, %v, want %d", len(finished), err, len(requests))
		}
		return finished
	}
	for _, rows := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("InsertRequests/%d", rows), func(b *testing.B) {
			perRow(b, rows, func() func() {
				requests := made(rows)
				return func() {
					if _, err := db.InsertRequests(b.Context(), pool, workJobs, requests); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
		b.Run(fmt.Sprintf("FinishRequests/%d", rows), func(b *testing.B) {
			perRow(b, rows, func() func() {
				requests := accepted(b, rows)
				return func() { finish(b, requests) }
			})
		})
		b.Run(fmt.Sprintf("SettleCallbacks/%d", rows), func(b *testing.B) {
			perRow(b, rows, func() func() {
				requests := accepted(b, rows)
				callbacks := finish(b, requests)
				settlements := make([]db.Settlement, rows)
				for i, request := range requests {
					settlements[i] = db.Settlement{Attempt: attemptAt(morning), JobID: callbacks[request.ID].CallbackJobID, State: db.CallbackDelivered}
					settlements[i].RequestID = request.ID
				}
				return func() {
					if _, err := db.SettleCallbacks(b.Context(), pool, settlements); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// perRow times the function that prepare returns, and reports the time of a row.
func perRow(b *testing.B, rows int, prepare func() (run func())) {
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		run := prepare()
		b.StartTimer()
		run()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/row")
}
