package clients

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// Callbacks wait for up to 30 days, and are redelivered for as long: their headers outlive
// the key that sealed them, as the secrets of clients do.
func TestResealHeaders(t *testing.T) {
	t.Parallel()

	t.Run("NeedsNoOtherKeyAfterwards", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		const requests = 2100 // several pages
		for i := range requests {
			by := [][]string{{keyA}, {keyB}, {}}[i%3]
			addRequest(t, pool, i, sealedBy(t, by, fmt.Sprintf("Bearer %d", i)))
		}
		addRequest(t, pool, requests, "")
		done, err := Reseal(t.Context(), pool, keys(t, keyB, keyA))
		if err != nil || done.Callbacks != requests*2/3 {
			t.Fatalf("got %+v, %v, want the %d callbacks that the first key had not sealed", done, err, requests*2/3)
		}
		directory := &Directory{keys: keys(t, keyB)}
		for i, stored := range storedHeaders(t, pool)[:requests] {
			got, err := directory.OpenHeaders("acme", stored.Headers)
			if err != nil || !strings.HasPrefix(stored.Headers, sealedPrefix) || got["Authorization"] != fmt.Sprintf("Bearer %d", i) {
				t.Fatalf("request %d: got %v, %v, want its own headers, opened by the new key alone", i, got, err)
			}
		}
		if last := storedHeaders(t, pool)[requests]; last.Headers != "" {
			t.Errorf("got %q, want no headers where there were none", last.Headers)
		}
	})

	t.Run("TellsOfThoseThatNoKeyOpens", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		lost := sealedBy(t, []string{keyA}, "Bearer lost")
		addRequest(t, pool, 1, lost)
		addRequest(t, pool, 2, sealedBy(t, nil, "Bearer plain"))
		done, err := Reseal(t.Context(), pool, keys(t, keyB))
		if err == nil || !strings.Contains(err.Error(), "headers of 1 callbacks") || done.Callbacks != 1 {
			t.Errorf("got %+v, %v, want the other callback resealed, and an error that counts the lost one", done, err)
		}
		if got := storedHeaders(t, pool)[0].Headers; got != lost {
			t.Errorf("got %q, want what can't be opened as it was, for the key may come back", got)
		}
	})
}

func sealedBy(t *testing.T, by []string, authorization string) string {
	t.Helper()
	directory := &Directory{}
	if len(by) > 0 {
		directory.keys = keys(t, by...)
	}
	stored, err := directory.SealHeaders("acme", map[string]string{"Authorization": authorization})
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func addRequest(t *testing.T, pool *pgxpool.Pool, number int, headers string) {
	t.Helper()
	const sql = `
		INSERT INTO requests (id, mode, client, status, input, callback_url, callback_state, work_job_id, accepted_at, callback_headers)
		VALUES ($1::text::uuid, 'async', 'acme', 'accepted', '{}', 'https://a.example.com', 'waiting', 1, now(), nullif($2, ''))`
	if _, err := pool.Exec(t.Context(), sql, fmt.Sprintf("00000000-0000-7000-8000-%012d", number), headers); err != nil {
		t.Fatal(err)
	}
}

func storedHeaders(t *testing.T, pool *pgxpool.Pool) (all []db.StoredHeaders) {
	t.Helper()
	after := db.StoredHeaders{}
	for {
		page, err := db.ListHeaders(t.Context(), pool, after.Request)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		after = page[len(page)-1]
	}
}
