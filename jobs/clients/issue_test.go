package clients

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestIssue(t *testing.T) {
	t.Parallel()

	t.Run("StoresTheKeyAsAHashAndTheSecretSealed", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		issued, err := Add(t.Context(), pool, keys(t, keyA), "acme", morning)
		if err != nil {
			t.Fatal(err)
		}
		var row string
		if err := pool.QueryRow(t.Context(), "SELECT clients::text FROM clients").Scan(&row); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(row, issued.Key) || strings.Contains(row, strings.TrimPrefix(issued.Secret, "whsec_")) {
			t.Errorf("the row %s tells %+v", row, issued)
		}
		got := list(t, pool)[0]
		if want := sha256.Sum256([]byte(issued.Key)); string(got.KeyHash) != string(want[:]) || !got.CreatedAt.Equal(morning) || !IsSealed(got) {
			t.Errorf("got %+v, want the hash of the key, and the secret sealed", got)
		}
	})

	t.Run("RefusesNames", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		if _, err := Add(t.Context(), pool, nil, "acme", morning); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"acme": "there is a client acme already: ringback client rotate acme gives it another key", "local": "local mode", "": "1 to 100", "a b": "1 to 100", "-a": "1 to 100", "ä": "1 to 100", strings.Repeat("a", 101): "1 to 100",
		} {
			if _, err := Add(t.Context(), pool, nil, name, morning); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("adding %q: got %v, want an error with %q", name, err, want)
			}
		}
		if _, err := Add(t.Context(), pool, nil, "0.A_-"+strings.Repeat("a", 95), morning); err != nil {
			t.Errorf("the longest name: got %v", err)
		}
	})

	t.Run("RotatesOnlyThoseWhoMayCall", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		if _, err := Rotate(t.Context(), pool, nil, "nobody", morning); err == nil || !strings.Contains(err.Error(), "ringback client list") {
			t.Errorf("rotating nobody: got %v, want an error that says where the names are", err)
		}
		if err := Disable(t.Context(), pool, "nobody", morning); err == nil || !strings.Contains(err.Error(), "ringback client list") {
			t.Errorf("disabling nobody: got %v, want an error that says where the names are", err)
		}
		if _, err := Add(t.Context(), pool, nil, "acme", morning); err != nil {
			t.Fatal(err)
		}
		for _, at := range []time.Time{morning, morning.Add(time.Hour)} {
			if err := Disable(t.Context(), pool, "acme", at); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Rotate(t.Context(), pool, nil, "acme", morning); err == nil {
			t.Error("rotating a disabled client: got no error")
		}
		if got := list(t, pool)[0]; !got.DisabledAt.Equal(morning) {
			t.Errorf("got it disabled at %v, want the first time, %v", got.DisabledAt, morning)
		}
	})
}

func TestReseal(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	var issued []Credentials
	add := func(keys Keys, client string) {
		t.Helper()
		credentials, err := Add(t.Context(), pool, keys, client, morning)
		if err != nil {
			t.Fatal(err)
		}
		issued = append(issued, credentials)
	}
	add(nil, "plain")
	add(keys(t, keyA), "sealed")
	rotated, err := Rotate(t.Context(), pool, keys(t, keyA), "sealed", morning)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Reseal(t.Context(), pool, keys(t, keyB)); err == nil {
		t.Error("without the key that sealed one of them: got no error")
	}
	if _, err := Reseal(t.Context(), pool, nil); err == nil {
		t.Error("without a key: got no error")
	}
	if count, err := Reseal(t.Context(), pool, keys(t, keyB, keyA)); err != nil || count.Clients != 2 {
		t.Fatalf("got %+v, %v, want both clients", count, err)
	}
	want := map[string][2]string{"plain": {issued[0].Secret, ""}, "sealed": {rotated.Secret, issued[1].Secret}}
	for _, row := range list(t, pool) {
		for i, stored := range []string{row.Secret, row.OldSecret} {
			got, err := keys(t, keyB).open(row.Name, stored)
			if err != nil || got != want[row.Name][i] {
				t.Errorf("%s, secret %d: got %v, want it opened by the new key alone", row.Name, i, err)
			}
		}
	}
}

func list(t *testing.T, q db.Querier) []db.Client {
	t.Helper()
	rows, err := db.ListClients(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
