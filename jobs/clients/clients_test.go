package clients

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"ringback/db"
	"ringback/db/dbtest"
	"ringback/internal/bubble"
	"ringback/jobs/webhook"
)

var (
	morning = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	discard = slog.New(slog.DiscardHandler)
)

func keys(t *testing.T, encoded ...string) (parsed Keys) {
	t.Helper()
	if err := parsed.UnmarshalText([]byte(strings.Join(encoded, ","))); err != nil {
		t.Fatal(err)
	}
	return parsed
}

const (
	keyA = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	keyB = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA="
)

func TestSeal(t *testing.T) {
	t.Parallel()
	const secret = "whsec_c2VjcmV0"

	t.Run("OpensWithAnyOfTheKeys", func(t *testing.T) {
		t.Parallel()
		sealed := keys(t, keyA).seal("acme", secret)
		for name, k := range map[string]Keys{"first": keys(t, keyA), "second": keys(t, keyB, keyA)} {
			if got, err := k.open("acme", sealed); err != nil || got != secret {
				t.Errorf("%s: got %q, %v, want the secret", name, got, err)
			}
		}
		if strings.Contains(sealed, "c2VjcmV0") || !strings.HasPrefix(sealed, "v1.") {
			t.Errorf("got %q, want it unreadable, of version 1", sealed)
		}
		if again := keys(t, keyA).seal("acme", secret); again == sealed {
			t.Error("the same secret is sealed the same twice, so that equal secrets show")
		}
	})

	for name, test := range map[string]struct {
		keys   Keys
		client string
		stored func(sealed string) string
	}{
		"AnotherKey":    {keys(t, keyB), "acme", strings.Clone},
		"NoKey":         {nil, "acme", strings.Clone},
		"AnotherClient": {keys(t, keyA), "other", strings.Clone},
		"ChangedText":   {keys(t, keyA), "acme", func(s string) string { return s[:len(s)-4] + "AAAA" }},
		"CutText":       {keys(t, keyA), "acme", func(string) string { return "v1.AAAA" }},
		"NoBase64":      {keys(t, keyA), "acme", func(string) string { return "v1.!" }},
	} {
		t.Run("DoesNotOpenWith"+name, func(t *testing.T) {
			t.Parallel()
			stored := test.stored(keys(t, keyA).seal("acme", secret))
			if got, err := test.keys.open(test.client, stored); err == nil || strings.Contains(err.Error(), stored) {
				t.Errorf("got %q, %v, want an error that doesn't quote it", got, err)
			}
		})
	}

	t.Run("WithoutKeysStoresItAsItIs", func(t *testing.T) {
		t.Parallel()
		if stored := Keys(nil).seal("acme", secret); stored != secret {
			t.Errorf("got %q", stored)
		}
		if got, err := keys(t, keyA).open("acme", secret); err != nil || got != secret {
			t.Errorf("opened with a key that came later: got %q, %v", got, err)
		}
	})
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	first, row := issue(nil, "acme")
	second, rotated := issue(nil, "acme")
	rotated.OldKeyHash, rotated.OldSecret, rotated.RotatedAt = row.KeyHash, row.Secret, morning
	disabled := rotated
	disabled.DisabledAt = morning
	secretsOf := func(texts ...string) (secrets []webhook.Secret) {
		for _, text := range texts {
			secret, err := webhook.ParseSecret(text)
			if err != nil {
				t.Fatal(err)
			}
			secrets = append(secrets, secret)
		}
		return secrets
	}
	tests := []struct {
		name             string
		row              db.Client
		at               time.Time
		wantOld, wantNew string // the owners of the keys
		wantSecrets      []webhook.Secret
	}{
		{"New", row, morning, "acme", "", secretsOf(first.Secret)},
		{"JustRotated", rotated, morning, "acme", "acme", secretsOf(second.Secret, first.Secret)},
		{"RotatedForAlmostADay", rotated, morning.Add(24*time.Hour - 1), "acme", "acme", secretsOf(second.Secret, first.Secret)},
		{"RotatedADayAgo", rotated, morning.Add(24 * time.Hour), "", "acme", secretsOf(second.Secret)},
		{"DisabledStillSigns", disabled, morning, "", "", secretsOf(second.Secret, first.Secret)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, err := newSnapshot([]db.Client{test.row}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for key, want := range map[string]string{
				first.Key: test.wantOld, second.Key: test.wantNew, "": "", "rbk_nobodys": "", first.Secret: "", string(row.KeyHash): "",
			} {
				if got := s.find(key, test.at); got != want {
					t.Errorf("key %q: got client %q, want %q", key, got, want)
				}
			}
			got, err := s.secrets("acme", test.at)
			if err != nil || !slices.EqualFunc(got, test.wantSecrets, equal) {
				t.Errorf("got %d secrets, %v, want %d, the present secret first", len(got), err, len(test.wantSecrets))
			}
		})
	}

	t.Run("SignsForTheLocalClientAndForNobodyUnknown", func(t *testing.T) {
		t.Parallel()
		s, err := newSnapshot(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.secrets(Local, morning); err != nil || !slices.EqualFunc(got, secretsOf(LocalSecret), equal) {
			t.Errorf("local: got %d secrets, %v, want the published secret", len(got), err)
		}
		if got, err := s.secrets("nobody", morning); err == nil {
			t.Errorf("nobody: got %d secrets, want an error", len(got))
		}
	})
}

// equal compares secrets by their signatures.
func equal(a, b webhook.Secret) bool { return a.Equal(b) }

func TestDirectory(t *testing.T) {
	t.Parallel()

	t.Run("FollowsWhatIsDoneToClients", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		d := open(t, pool.Config().ConnString(), nil)
		if !d.Empty() {
			t.Error("got somebody, want nobody in a new database")
		}
		first, err := Add(t.Context(), pool, nil, "acme", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		d.refresh(t.Context())
		if d.Find(first.Key) != "acme" || d.Empty() {
			t.Error("after it was added: its key doesn't work")
		}
		second, err := Rotate(t.Context(), pool, nil, "acme", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		d.refresh(t.Context())
		if secrets, err := d.Secrets("acme"); err != nil || len(secrets) != 2 || d.Find(first.Key) != "acme" || d.Find(second.Key) != "acme" {
			t.Errorf("after a rotation: got %d secrets, %v, want two, and both keys to work", len(secrets), err)
		}
		third, err := Rotate(t.Context(), pool, nil, "acme", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		d.refresh(t.Context())
		if got := d.WhyUnknown(first.Key); got != (Unknown{Why: "unknown_key"}) {
			t.Errorf("a key that was rotated twice: got %+v, want unknown_key", got)
		}
		for text, mistake := range map[string]string{
			"": "it is empty", "rbk_": "it is cut off: a key has 47 characters", first.Key[:20]: "it is cut off: a key has 47 characters",
			first.Key + "x": "it is too long: a key has 47 characters", "'" + first.Key + "'": "it has a quote or a space in it", " " + first.Key: "it has a quote or a space in it",
			strings.TrimPrefix(first.Key, "rbk_"): "it doesn't begin with rbk_", first.Secret: "it doesn't begin with rbk_", first.Key[:46] + "!": "it has a character that is in no key",
		} {
			if got := d.WhyUnknown(text); got != (Unknown{Why: MalformedKey, Length: len(text), Mistake: mistake}) {
				t.Errorf("%q: got %+v, want it malformed: %s", text, got, mistake)
			}
		}
		if d.Find(first.Key) != "" || d.Find(second.Key) != "acme" || d.Find(third.Key) != "acme" {
			t.Error("after another rotation: want the first key to work no more, and the others to work")
		}
		if err := Disable(t.Context(), pool, "acme", time.Now()); err != nil {
			t.Fatal(err)
		}
		d.refresh(t.Context())
		if secrets, err := d.Secrets("acme"); err != nil || len(secrets) != 2 || d.Find(second.Key)+d.Find(third.Key) != "" || !d.Empty() {
			t.Errorf("disabled: got %d secrets, %v, want its callbacks still signed, and no key to work", len(secrets), err)
		}
		if got := d.WhyUnknown(third.Key); got != (Unknown{Why: "disabled_client", Client: "acme"}) {
			t.Errorf("the key of a disabled client: got %+v, want disabled_client of acme", got)
		}
	})

	t.Run("ReadsThemAnewByItself", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		d := open(t, pool.Config().ConnString(), nil)
		go d.Watch(t.Context())
		issued, err := Add(t.Context(), pool, nil, "acme", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		waitUntil(t, "the new client", func() bool { return d.Find(issued.Key) == "acme" })
	})

	t.Run("KeepsTheLastClientsWhileTheDatabaseIsAway", func(t *testing.T) {
		t.Parallel()
		url := dbtest.New(t)
		issued, err := Add(t.Context(), dbtest.Pool(t, url), nil, "acme", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		proxy, through := dbtest.NewProxy(t, url)
		d := open(t, through, nil)
		proxy.Refuse()
		d.refresh(t.Context())
		if got := d.Find(issued.Key); got != "acme" {
			t.Errorf("got %q, want acme", got)
		}
	})

	t.Run("OpensForTheOthersWithoutTheKeyOfASecret", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		var log bytes.Buffer
		if _, err := Add(t.Context(), pool, keys(t, keyA), "acme", time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := Add(t.Context(), pool, keys(t, keyB), "bob", time.Now()); err != nil {
			t.Fatal(err)
		}
		d, err := Open(t.Context(), pool, keys(t, keyB), slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if secrets, err := d.Secrets("bob"); err != nil || len(secrets) != 1 {
			t.Errorf("bob: got %d secrets, %v, want one", len(secrets), err)
		}
		if _, err := d.Secrets("acme"); !errors.Is(err, errSealed) || !strings.Contains(log.String(), "client_secret_unreadable client=acme") {
			t.Errorf("acme: got %v and the log %q, want %v, and a line that names it", err, log.String(), errSealed)
		}
		unreadable, now := d.latest.Load(), time.Now()
		for _, after := range []time.Duration{time.Second, db.ToldAgainAfter + time.Second, db.ToldAgainAfter + 2*time.Second} {
			d.logUnreadable(t.Context(), unreadable, now.Add(after))
		}
		if got := strings.Count(log.String(), "client_secret_unreadable"); got != 2 {
			t.Errorf("in a minute: got %d lines, want two:\n%s", got, log.String())
		}
		d.logUnreadable(t.Context(), &snapshot{}, now)
		d.logUnreadable(t.Context(), &snapshot{}, now)
		if got := strings.Count(log.String(), "client_secret_readable client=acme"); got != 1 {
			t.Errorf("afterwards: got %d lines, want one", got)
		}
	})

	t.Run("PostponesThoseWhoseSecretItCannotOpen", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		d := open(t, pool.Config().ConnString(), nil)
		issued, err := Add(t.Context(), pool, keys(t, keyA), "acme", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		d.refresh(t.Context())
		if _, err := d.Secrets("acme"); !errors.Is(err, errSealed) || d.Find(issued.Key) != "acme" {
			t.Errorf("got %v and client %q, want %v, and its key to work", err, d.Find(issued.Key), errSealed)
		}
	})
}

func TestWatchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { (&Directory{}).Watch(ctx); close(ended) }()
		cancel()
		<-ended
	})
}

func open(t *testing.T, url string, keys Keys) *Directory {
	t.Helper()
	d, err := Open(t.Context(), dbtest.Pool(t, url), keys, discard)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// waitUntil returns when condition is true.
func waitUntil(t *testing.T, what string, condition func() bool) {
	t.Helper()
	timeout := time.After(dbtest.Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
