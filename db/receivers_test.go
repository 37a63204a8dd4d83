package db_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestSaveAndLoadReceivers(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Microsecond)
	granted := db.Receiver{
		Name: "https://a.example.com:443", Rate: 320, InFlight: 16, AnsweredFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32")},
		Closings: []byte(`{"acme": {"openings": 2}}`), LastOutcome: "delivered", GrantedUntil: now.Add(time.Hour), PerMinute: 60, ExpiresAt: now.Add(time.Hour),
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/64")},
	}
	open := db.Receiver{Name: "https://b.example.com:443", ClosedUntil: now.Add(time.Minute), Openings: 3, ExpiresAt: now.Add(time.Hour)}
	expired := db.Receiver{Name: "https://c.example.com:443", ExpiresAt: now.Add(-time.Hour)}

	t.Run("AreLoadedAsTheyWereSaved", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		saveOrigins(t, pool, granted, open, expired)
		got, err := db.LoadReceivers(t.Context(), pool, []string{granted.Name, open.Name, expired.Name, "unknown:443"})
		want := map[string]db.Receiver{granted.Name: granted, open.Name: open}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); err != nil || diff != "" {
			t.Errorf("got %v and (-want +got):\n%s", err, diff)
		}
	})

	t.Run("AreReplacedByWhatIsSavedLater", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		saveOrigins(t, pool, granted, open)
		now := db.Receiver{Name: granted.Name, ClosedUntil: open.ClosedUntil, Openings: 1, ExpiresAt: granted.ExpiresAt}
		saveOrigins(t, pool, now)
		got, err := db.LoadReceivers(t.Context(), pool, []string{granted.Name, open.Name})
		if diff := cmp.Diff(map[string]db.Receiver{now.Name: now, open.Name: open}, got); err != nil || diff != "" {
			t.Errorf("got %v and (-want +got):\n%s", err, diff)
		}
	})

	t.Run("AreForgottenInPassingOnceTheyHaveExpired", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		for n := range 5 {
			old := expired
			old.Name, old.ExpiresAt = fmt.Sprint(n), expired.ExpiresAt.Add(time.Duration(n)*time.Second)
			saveOrigins(t, pool, old)
			const sql = "UPDATE callback_origins SET expires_at = expires_at + '1 year' WHERE expires_at < now()"
			if _, err := pool.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := pool.Exec(t.Context(), "UPDATE callback_origins SET expires_at = expires_at - interval '1 year'"); err != nil {
			t.Fatal(err)
		}
		saveOrigins(t, pool, open, granted)
		var left int
		if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM callback_origins").Scan(&left); err != nil || left != 3 {
			t.Errorf("got %d rows, %v, want the two and one of the five expired", left, err)
		}
	})

	t.Run("AreForgottenWhereThereAreTooMany", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		ruling := db.Ruling{Target: "*://a.example.com:*", Effect: db.ReceiverDenied}
		if _, err := db.SetRuling(t.Context(), pool, ruling); err != nil {
			t.Fatal(err)
		}
		fill(t, pool, db.MostReceivers+9)
		for range 5 {
			saveOrigins(t, pool, granted, open) // expire first, but are met now
		}
		const sql = `
			SELECT count(*), count(*) FILTER (WHERE word IS NOT NULL OR origin IN ($1, $2)), count(*) FILTER (WHERE expires_at < now() + interval '1 day 5 seconds' AND word IS NULL)
			FROM callback_origins`
		var rows, kept, first int
		if err := pool.QueryRow(t.Context(), sql, granted.Name, open.Name).Scan(&rows, &kept, &first); err != nil {
			t.Fatal(err)
		}
		if rows != db.MostReceivers+2 || kept != 3 {
			t.Errorf("got %d rows, %d of the ruling and the receivers that are met, want %d and 3", rows, kept, db.MostReceivers+2)
		}
		if first != 2 {
			t.Errorf("%d of the receivers that expire first stay, want none but the receivers that are met", first-2)
		}
	})
}

// fill stores so many receivers, which expire in a day, a second apart.
func fill(t *testing.T, q db.Querier, count int) {
	t.Helper()
	const sql = `
		INSERT INTO callback_origins (origin, openings, expires_at, saved_at)
		SELECT 'https://made-up-' || n || '.example:443', 0, now() + interval '1 day' + n * interval '1 second', now() + n * interval '1 second'
		FROM generate_series(1, $1::integer) AS n`
	if _, err := q.Exec(t.Context(), sql, count); err != nil {
		t.Fatal(err)
	}
}

func saveOrigins(t *testing.T, q db.Querier, origins ...db.Receiver) {
	t.Helper()
	if err := db.SaveReceivers(t.Context(), q, origins); err != nil {
		t.Fatal(err)
	}
}

func TestReceivers(t *testing.T) {
	t.Parallel()
	later := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	known := db.Receiver{Name: "https://a.example.com:443", Rate: 20, InFlight: 1, AnsweredFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}, ExpiresAt: later}
	plain := db.Receiver{Name: "http://a.example.com:80", ExpiresAt: later}
	other := db.Receiver{Name: "https://xa.example.com:443", ExpiresAt: later}
	rule := func(t *testing.T, q db.Querier, ruling db.Ruling) {
		t.Helper()
		if _, err := db.SetRuling(t.Context(), q, ruling); err != nil {
			t.Fatal(err)
		}
	}
	rulings := func(t *testing.T, q db.Querier) map[string]db.Ruling {
		t.Helper()
		rows, err := db.Rulings(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]db.Ruling{}
		for _, row := range rows {
			if row.At.IsZero() {
				t.Errorf("%+v has no time", row)
			}
			row.At = time.Time{}
			found[row.Target] = row
		}
		return found
	}
	names := func(t *testing.T, q db.Querier) (names []string) {
		t.Helper()
		receivers, _, err := db.ListReceivers(t.Context(), q, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, receiver := range receivers {
			names = append(names, receiver.Name)
		}
		return names
	}

	t.Run("HaveTheOperatorsLatestRuling", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		rule(t, pool, db.Ruling{Target: "*://a.example.com:443", Effect: db.ReceiverAllowed, Rate: 5, Concurrency: 2})
		rule(t, pool, db.Ruling{Target: "*://a.example.com:443", Effect: db.ReceiverDenied})
		allowed := db.Ruling{Target: "*://b.example.com:*", Effect: db.ReceiverAllowed, Rate: 0.5, Concurrency: 3}
		rule(t, pool, allowed)
		saveOrigins(t, pool, known) // is no ruling
		want := map[string]db.Ruling{
			"*://a.example.com:443": {Target: "*://a.example.com:443", Effect: db.ReceiverDenied}, allowed.Target: allowed,
		}
		if diff := cmp.Diff(want, rulings(t, pool)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if diff := cmp.Diff([]string{"*://a.example.com:443", known.Name, allowed.Target}, names(t, pool)); diff != "" {
			t.Errorf("listed: -want +got:\n%s", diff)
		}
	})

	t.Run("AreForgottenOfAPortOrOfAll", func(t *testing.T) {
		t.Parallel()
		for port, want := range map[string][]string{"443": {plain.Name, other.Name}, "*": {other.Name}, "8443": {known.Name, plain.Name, other.Name}} {
			pool := dbtest.NewPool(t)
			saveOrigins(t, pool, known, plain, other)
			target := "*://a.example.com:" + port
			rule(t, pool, db.Ruling{Target: target, Effect: db.ReceiverDenied})
			var found db.Forgotten
			err := db.InTx(t.Context(), pool, func(tx pgx.Tx) (err error) {
				found, err = db.ForgetReceiver(t.Context(), tx, "a.example.com", port)
				return err
			})
			if want := (db.Forgotten{Effect: db.ReceiverDenied, Receivers: int64(3 - len(want))}); found != want {
				t.Errorf("port %s: got %+v, want %+v", port, found, want)
			}
			got := names(t, pool)
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("port %s: %v, -want +got:\n%s", port, err, diff)
			}
			if got := rulings(t, pool)[target].Effect; got != db.ReceiverForgotten {
				t.Errorf("port %s: got the ruling %q, want that running processes learn of it", port, got)
			}
		}
	})

	t.Run("AreListedUpToSoMany", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		fill(t, pool, 5)
		rule(t, pool, db.Ruling{Target: "*://z.example.com:443", Effect: db.ReceiverDenied})
		for most, want := range map[int][]string{
			3: {"https://made-up-4.example:443", "https://made-up-5.example:443", "*://z.example.com:443"},
			6: names(t, pool), 0: names(t, pool),
		} {
			listed, more, err := db.ListReceivers(t.Context(), pool, most)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]string, len(listed))
			for i, receiver := range listed {
				got[i] = receiver.Name
			}
			if diff := cmp.Diff(want, got); diff != "" || more != 6-len(want) {
				t.Errorf("at most %d: got %d more, want %d; -want +got:\n%s", most, more, 6-len(want), diff)
			}
		}
	})
}
