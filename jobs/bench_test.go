package jobs

import (
	"log/slog"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"ringback/db"
	"ringback/db/dbtest"
)

// BenchmarkAccept measures the whole step, row and job, committed: with one caller each
// batch is one request.
func BenchmarkAccept(b *testing.B) {
	pool := dbtest.NewPool(b)
	queue, err := New(Config{Pool: pool, RiverPool: pool, Logger: slog.New(slog.DiscardHandler), AsyncLimit: 1000, Catalog: catalogOf(b, doNothing)})
	if err != nil {
		b.Fatal(err)
	}
	accept := func(b *testing.B) {
		if err := queue.Accept(b.Context(), newRequest("https://hooks.example.com/")); err != nil {
			b.Error(err)
		}
	}

	b.Run("Alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			accept(b)
		}
	})

	b.Run("64Callers", func(b *testing.B) {
		b.ReportAllocs()
		callers := make(chan struct{}, 64)
		b.SetParallelism(64) // for each core, of which 64 run at a time
		b.RunParallel(func(loop *testing.PB) {
			for loop.Next() {
				callers <- struct{}{}
				accept(b)
				<-callers
			}
		})
	})
}

func BenchmarkCallbackBody(b *testing.B) {
	request := newRequest("https://hooks.example.com/")
	request.Status, request.Result, request.CallbackState = db.Succeeded, jsontext.Value(`{"words":1}`), db.CallbackPending
	request.StartedAt, request.FinishedAt = morning, morning
	b.ReportAllocs()
	for b.Loop() {
		if _, err := callbackBody(request); err != nil {
			b.Fatal(err)
		}
	}
}
