package main

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// load is callers that go on through all faults of the database.
type load struct {
	mu      sync.Mutex
	acked   map[string]bool
	refused int // since the database can't be written; a busy machine refuses calls for other reasons
	over    chan struct{}
	callers sync.WaitGroup
}

func startLoad(t *testing.T, p *program, callbackURL string) *load {
	t.Helper()
	l := &load{acked: map[string]bool{}, over: make(chan struct{})}
	for range 4 {
		l.callers.Go(func() {
			for {
				select {
				case <-l.over:
					return
				default:
				}
				// A key lets the client repeat a call that no server read.
				status, answer, err := p.postOnce("/async", asyncBody(`{"text":"x"}`, callbackURL), uuid.NewString())
				if err != nil || status != http.StatusAccepted && status != http.StatusServiceUnavailable {
					t.Errorf("POST /async: got %d, %v, want 202 or 503", status, err)
					return
				}
				l.count(status, answer)
			}
		})
	}
	return l
}

func (l *load) count(status int, answer request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if status == http.StatusAccepted {
		l.acked[answer.ID] = true
	} else if answer.problem == "/problems/unavailable" {
		l.refused++
	}
}

func (l *load) counts() (acked, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked), l.refused
}

// awaitAcked returns when so many more were acknowledged.
func (l *load) awaitAcked(t *testing.T, more int) {
	t.Helper()
	before, _ := l.counts()
	until(t, func() bool { now, _ := l.counts(); return now >= before+more }, func() string { return "more to be acknowledged" })
}

func (l *load) awaitRefused(t *testing.T) {
	t.Helper()
	_, before := l.counts()
	until(t, func() bool { _, now := l.counts(); return now > before }, func() string { return "a call to be refused" })
}

// stop ends the load and returns the acknowledged ids.
func (l *load) stop() map[string]bool {
	close(l.over)
	l.callers.Wait()
	return l.acked
}

func TestDatabaseFaultsLoseNothing(t *testing.T) {
	t.Parallel()
	cluster := dbtest.NewCluster(t)
	p := startHere(t, cluster.URL, nil, fingerprint.Do)
	r := newReceiver(t, nil)
	l := startLoad(t, p, r.URL)
	l.awaitAcked(t, 50)

	killOneByOne(t, cluster.URL)
	l.awaitAcked(t, 50)
	for _, end := range []func(testing.TB){cluster.Stop, cluster.Crash} {
		end(t)
		l.awaitRefused(t)
		cluster.Start(t)
		l.awaitAcked(t, 50)
	}
	expectAll(t, r, l.stop())
	wantNoOrphans(t, cluster.URL)
	// A crash undoes commits of River's, so a callback that is under way may begin again.
	expectPosts(t, r, cluster.URL, 2)
}

// killOneByOne breaks every connection of the program, some of them in the middle
// of a statement.
func killOneByOne(t *testing.T, database string) {
	t.Helper()
	pool := dbtest.Pool(t, database)
	const sql = `
		SELECT pg_terminate_backend(pid)
		FROM pg_stat_activity
		WHERE datname = current_database()
		  AND pid <> pg_backend_pid()
		ORDER BY backend_start
		LIMIT 1
		OFFSET $1`
	for n := range 30 {
		if _, err := pool.Exec(t.Context(), sql, n%5); err != nil {
			t.Fatal(err)
		}
	}
}

// wantNoOrphans waits until all is settled and checks that every row has its jobs
// and every job its row.
func wantNoOrphans(t *testing.T, database string) {
	t.Helper()
	pool := dbtest.Pool(t, database)
	var unsettled, orphans int
	const sql = `
		SELECT (SELECT count(*) FROM requests WHERE callback_state IN ('waiting', 'pending')),
		       (SELECT count(*)
		        FROM (SELECT work_job_id AS id FROM requests UNION ALL SELECT callback_job_id FROM requests) AS named
		        FULL JOIN river_job USING (id)
		        WHERE named IS NULL
		           OR river_job IS NULL)`
	until(t, func() bool {
		if err := pool.QueryRow(t.Context(), sql).Scan(&unsettled, &orphans); err != nil {
			t.Fatal(err)
		}
		return unsettled == 0
	}, func() string { return "all to be settled" })
	if orphans != 0 {
		t.Errorf("got %d rows without their job or jobs without their row, want none", orphans)
	}
}

func TestFailoverToTheOtherAddress(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	first, through := dbtest.NewProxy(t, database)
	second, other := dbtest.NewProxy(t, database)
	second.Refuse() // a standby takes no sessions that write
	p := startHere(t, addAddress(through, other)+"&target_session_attrs=read-write", nil, fingerprint.Do)
	r := newReceiver(t, nil)
	l := startLoad(t, p, r.URL)
	l.awaitAcked(t, 50)
	first.Refuse()
	l.awaitRefused(t)
	second.Pass()
	l.awaitAcked(t, 50)
	expectAll(t, r, l.stop())
	wantNoOrphans(t, database)
}

// addAddress puts the address of the other URL behind the first URL's.
func addAddress(url, other string) string {
	_, address, _ := strings.Cut(other, "@")
	address, _, _ = strings.Cut(address, "/")
	before, after, _ := strings.Cut(url, "@")
	host, rest, _ := strings.Cut(after, "/")
	return before + "@" + host + "," + address + "/" + rest
}
