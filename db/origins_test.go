package db_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestCallbackOrigins(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Microsecond)
	granted := db.CallbackOrigin{
		Name: "a.example.com:443", GrantedUntil: now.Add(time.Hour), PerMinute: 60, ExpiresAt: now.Add(time.Hour),
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/64")},
	}
	open := db.CallbackOrigin{Name: "b.example.com:443", ClosedUntil: now.Add(time.Minute), Openings: 3, ExpiresAt: now.Add(time.Hour)}
	expired := db.CallbackOrigin{Name: "c.example.com:443", ExpiresAt: now.Add(-time.Hour)}

	t.Run("AreLoadedAsTheyWereSaved", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		saveOrigins(t, pool, granted, open, expired)
		got, err := db.LoadCallbackOrigins(t.Context(), pool, []string{granted.Name, open.Name, expired.Name, "unknown:443"})
		want := map[string]db.CallbackOrigin{granted.Name: granted, open.Name: open}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); err != nil || diff != "" {
			t.Errorf("got %v and (-want +got):\n%s", err, diff)
		}
	})

	t.Run("AreReplacedByWhatIsSavedLater", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		saveOrigins(t, pool, granted, open)
		now := db.CallbackOrigin{Name: granted.Name, ClosedUntil: open.ClosedUntil, Openings: 1, ExpiresAt: granted.ExpiresAt}
		saveOrigins(t, pool, now)
		got, err := db.LoadCallbackOrigins(t.Context(), pool, []string{granted.Name, open.Name})
		if diff := cmp.Diff(map[string]db.CallbackOrigin{now.Name: now, open.Name: open}, got); err != nil || diff != "" {
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
}

func saveOrigins(t *testing.T, q db.Querier, origins ...db.CallbackOrigin) {
	t.Helper()
	if err := db.SaveCallbackOrigins(t.Context(), q, origins); err != nil {
		t.Fatal(err)
	}
}
