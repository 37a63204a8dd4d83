package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// probe returns the status of a GET, 0 where nobody answers.
func (p *program) probe(path string) int {
	response, err := http.Get(p.url + path)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

func (p *program) awaitStatus(t *testing.T, path string, want int) {
	t.Helper()
	got := 0
	until(t, func() bool { got = p.probe(path); return got == want }, func() string {
		return path + " to be " + http.StatusText(want) + ", got " + http.StatusText(got)
	})
}

// awaitAnswer waits for the answer of a GET to hold a part.
func (p *program) awaitAnswer(t *testing.T, path, part string) {
	t.Helper()
	var got string
	until(t, func() bool {
		response, err := http.Get(p.url + path)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		got = string(body)
		return strings.Contains(got, part)
	}, func() string { return path + " to tell " + part + ", got " + got })
}

func (p *program) awaitMetric(t *testing.T, line string) {
	t.Helper()
	until(t, func() bool { return strings.Contains(p.readMetrics(t), "\n"+line+"\n") }, func() string { return line })
}

// awaitLine waits for a line of the log.
func (p *program) awaitLine(t *testing.T, part string) {
	t.Helper()
	until(t, func() bool { return strings.Contains(p.log.String(), part) }, func() string { return "a line with " + part })
}

// wantOneFault wants one line about a kind of fault, and one about its end. On a busy
// machine the fault may come back, and be told of again.
func (p *program) wantOneFault(t *testing.T, fault string) {
	t.Helper()
	const several = 5 // far fewer than the steps that failed
	log := p.log.String()
	begun := strings.Count(log, "level=ERROR msg=database_fault fault="+fault)
	if begun < 1 || begun > several {
		t.Errorf("got %d lines that tell of %s, want one", begun, fault)
	}
	if got := strings.Count(log, "msg=database_fault_over fault="+fault); got != begun {
		t.Errorf("got %d lines that tell of the end of %s, want %d", got, fault, begun)
	}
}

func TestDatabaseThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	cluster := dbtest.NewCluster(t)
	p := startHere(t, cluster.URL, nil, fingerprint.Do)
	r := newReceiver(t, nil)
	l := startLoad(t, p, r.URL)
	l.awaitAcked(t, 50)
	setting := func(name, value string) func() (end func()) {
		return func() func() {
			cluster.Set(t, name, value)
			return func() { cluster.Set(t, name, "") }
		}
	}
	for fault, begin := range map[string]func() (end func()){
		"read_only": setting("default_transaction_read_only", "on"),
		"slow":      setting("synchronous_standby_names", "nobody"),
		"locked":    func() func() { return lockRequests(t, cluster.URL) },
	} {
		end := begin()
		l.awaitRefused(t)
		p.awaitStatus(t, "/healthz", http.StatusServiceUnavailable)
		p.awaitAnswer(t, "/readyz", "("+fault+")")
		p.awaitMetric(t, `ringback_database_unwritable 1`)
		p.awaitMetric(t, `ringback_database_fault{fault="`+fault+`"} 1`)
		if got := p.probe("/livez"); got != http.StatusOK {
			t.Errorf("/livez: got %d, want 200", got)
		}
		end()
		p.awaitStatus(t, "/healthz", http.StatusOK)
		l.awaitAcked(t, 50)
		p.awaitMetric(t, `ringback_database_unwritable 0`)
		p.awaitMetric(t, `ringback_database_fault{fault="`+fault+`"} 0`)
		p.wantOneFault(t, fault)
	}
	expectAll(t, r, l.stop())
	wantNoOrphans(t, cluster.URL)
	expectPosts(t, r, cluster.URL, 2)
}

// lockRequests locks the table of requests as CREATE INDEX does, until end is called.
func lockRequests(t *testing.T, superuser string) (end func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), superuser)
	if err == nil {
		_, err = conn.Exec(t.Context(), "BEGIN; LOCK TABLE requests IN SHARE MODE")
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { _ = conn.Close(context.Background()) }
}

// What an operator takes away by mistake, and gives back, is a fault of the database while
// it lasts, not of the caller's requests.
func TestTableThatIsTakenAway(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	_, through := dbtest.NewProxy(t, database) // whose refusals are not called again
	p, pool := startHere(t, through, nil, fingerprint.Do), dbtest.Pool(t, database)
	change := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	r := newReceiver(t, nil)
	l := startLoad(t, p, r.URL)
	l.awaitAcked(t, 50)
	for _, table := range []string{"requests", "river_job"} {
		change("ALTER TABLE " + table + " RENAME TO taken_away")
		l.awaitRefused(t)
		p.awaitStatus(t, "/healthz", http.StatusServiceUnavailable)
		p.awaitStatus(t, "/readyz", http.StatusServiceUnavailable)
		p.awaitMetric(t, `ringback_database_fault{fault="denied"} 1`)
		change("ALTER TABLE taken_away RENAME TO " + table)
		p.awaitStatus(t, "/healthz", http.StatusOK)
		l.awaitAcked(t, 50)
		p.awaitMetric(t, `ringback_database_fault{fault="denied"} 0`)
	}
	if log := p.log.String(); !strings.Contains(log, "level=ERROR msg=database_fault fault=denied") || !strings.Contains(log, "give back what the error names") {
		t.Error("no line names the fault and its remedy")
	}
	// The receiver's answers are kept meanwhile.
	change("ALTER TABLE callback_attempts RENAME TO taken_away")
	l.awaitAcked(t, 50)
	change("ALTER TABLE taken_away RENAME TO callback_attempts")
	expectAll(t, r, l.stop())
	wantNoOrphans(t, database)
}

// A constraint that somebody made breaks each row of a table. The receivers' answers are
// kept until it is gone, rather than the callbacks sent again.
func TestSchemaThatSomebodyChanged(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	_, through := dbtest.NewProxy(t, database) // whose refusals are not called again
	var runs atomic.Int64
	p, pool := startHere(t, through, nil, func(ctx context.Context, input jsontext.Value) (jsontext.Value, error) {
		runs.Add(1)
		return fingerprint.Do(ctx, input)
	}), dbtest.Pool(t, database)
	change := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	change("CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
	r := newReceiver(t, nil)
	l := startLoad(t, p, r.URL)
	l.awaitAcked(t, 50)
	for add, drop := range map[string]string{
		"ALTER TABLE %s ADD CONSTRAINT by_hand CHECK (false) NOT VALID":                      "ALTER TABLE %s DROP CONSTRAINT by_hand",
		"CREATE TRIGGER by_hand BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION swallow()": "DROP TRIGGER by_hand ON %s", // Postgres tells of no error
	} {
		change(fmt.Sprintf(add, "callback_attempts"))
		l.awaitAcked(t, 50)
		p.awaitMetric(t, `ringback_database_fault{fault="broken"} 1`)
		p.awaitStatus(t, "/readyz", http.StatusOK)
		change(fmt.Sprintf(drop, "callback_attempts"))
		p.awaitMetric(t, `ringback_answers_in_hand 0`)

		change(fmt.Sprintf(add, "requests"))
		l.awaitRefused(t)
		p.awaitStatus(t, "/readyz", http.StatusServiceUnavailable)
		change(fmt.Sprintf(drop, "requests"))
		p.awaitStatus(t, "/readyz", http.StatusOK)
		l.awaitAcked(t, 50)
	}

	// Steps whose end is not stored are not done again.
	for _, table := range []string{"requests", "river_job"} {
		change("CREATE TRIGGER by_hand BEFORE UPDATE ON " + table + " FOR EACH ROW EXECUTE FUNCTION swallow()")
		l.awaitAcked(t, 50)
		p.awaitMetric(t, `ringback_database_fault{fault="broken"} 1`)
		change("DROP TRIGGER by_hand ON " + table)
		p.awaitMetric(t, `ringback_answers_in_hand 0`)
		p.awaitMetric(t, `ringback_database_fault{fault="broken"} 0`)
	}

	// Nobody is told dead or alive any more, and that is told.
	change("ALTER TABLE processes RENAME COLUMN beat_at TO taken_away")
	p.awaitMetric(t, `ringback_database_fault{fault="denied"} 1`)
	p.awaitStatus(t, "/readyz", http.StatusOK)
	change("ALTER TABLE processes RENAME COLUMN taken_away TO beat_at")
	p.awaitMetric(t, `ringback_database_fault{fault="denied"} 0`)
	expectAll(t, r, l.stop())
	wantNoOrphans(t, database)
	// Requests whose call was told 503 too soon are called back, too.
	var repeated, requests int64
	if err := pool.QueryRow(t.Context(), "SELECT count(*) - count(DISTINCT request_id), (SELECT count(*) FROM requests) FROM callback_attempts").Scan(&repeated, &requests); err != nil {
		t.Fatal(err)
	}
	if repeated != 0 || runs.Load() != requests {
		t.Errorf("got %d callbacks sent again, and %d runs for %d requests, want none, and a run for each", repeated, runs.Load(), requests)
	}
	if log := p.log.String(); !strings.Contains(log, "level=ERROR msg=database_fault fault=broken") {
		t.Error("no line names the fault and its remedy")
	}
}

// Logical replication copies tables without their sequences.
func TestDatabaseThatWasCopiedWithoutItsSequences(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	const sql = `
		INSERT INTO river_job (id, args, kind, max_attempts, state, finalized_at)
		SELECT id, '{}', 'k', 1, 'completed', now()
		FROM generate_series(1, 100) AS copied (id)`
	if _, err := dbtest.Pool(t, database).Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	p, r := startHere(t, database, nil, fingerprint.Do), newReceiver(t, nil)
	l := startLoad(t, p, r.URL)
	l.awaitAcked(t, 10)
	expectAll(t, r, l.stop())
	if _, refused := l.counts(); refused != 0 || !strings.Contains(p.log.String(), "msg=sequence_was_behind sequence=river_job_id_seq at=100") {
		t.Errorf("got %d calls refused, want none, and a line about the sequence", refused)
	}
}

// The defaults of an old database, or of a database that other programs use, change nothing.
func TestDatabaseWithDefaultsOfItsOwn(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := dbtest.Pool(t, database)
	for setting, value := range map[string]string{
		"standard_conforming_strings": "off", "datestyle": "German, DMY", "timezone": "Pacific/Chatham", "intervalstyle": "sql_standard",
		"bytea_output": "escape", "extra_float_digits": "-15", "default_transaction_isolation": "serializable", "statement_timeout": "1s",
		"synchronous_commit": "off", "lock_timeout": "1s", "idle_session_timeout": "1s",
	} {
		var sql string
		const alter = "SELECT format('ALTER DATABASE %I SET %I = %L', current_database(), $1::text, $2::text)"
		err := pool.QueryRow(t.Context(), alter, setting, value).Scan(&sql)
		if err == nil {
			_, err = pool.Exec(t.Context(), sql)
		}
		if err != nil {
			t.Fatalf("%s: %v", setting, err)
		}
	}
	_, through := dbtest.NewProxy(t, database)
	p, r := startHere(t, through, nil, fingerprint.Do), newReceiver(t, nil)
	l := startLoad(t, p, r.URL)
	l.awaitAcked(t, 100)
	expectAll(t, r, l.stop())
	if log := p.log.String(); strings.Contains(log, "status=500") {
		t.Error("want no error of ours in the log")
	}
}

// Room on the disk is all that the service needs: no restart.
func TestDiskThatIsFull(t *testing.T) {
	t.Parallel()
	cluster := dbtest.NewClusterOnDisk(t)
	p := startHere(t, cluster.URL, nil, fingerprint.Do)
	r := newReceiver(t, nil)
	l := startLoad(t, p, r.URL)
	l.awaitAcked(t, 50)
	cluster.Fill(t)
	l.awaitRefused(t)
	p.awaitStatus(t, "/healthz", http.StatusServiceUnavailable)
	p.awaitAnswer(t, "/readyz", "(disk_full)")
	if got := p.probe("/livez"); got != http.StatusOK {
		t.Errorf("/livez: got %d, want 200", got)
	}
	cluster.Free(t)
	p.awaitStatus(t, "/healthz", http.StatusOK)
	l.awaitAcked(t, 50)
	expectAll(t, r, l.stop())
	wantNoOrphans(t, cluster.URL)
}

func TestIdleProcessSeesThatNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	cluster := dbtest.NewCluster(t)
	p := startRun(t, []string{"--dev", "--role=api"}, environment(cluster.URL, nil), works)
	p.awaitStatus(t, "/healthz", http.StatusOK)
	cluster.Set(t, "default_transaction_read_only", "on")
	p.awaitStatus(t, "/healthz", http.StatusServiceUnavailable)
	cluster.Set(t, "default_transaction_read_only", "")
	p.awaitStatus(t, "/healthz", http.StatusOK)
}

func TestAddressThatMovesToAStandbyAndBack(t *testing.T) {
	t.Parallel()
	primary := dbtest.NewCluster(t)
	proxy, through := dbtest.NewProxy(t, primary.URL)
	p := startHere(t, through, nil, fingerprint.Do)
	standby := primary.NewStandby(t)
	r := newReceiver(t, nil)
	l := startLoad(t, p, r.URL)
	l.awaitAcked(t, 50)

	proxy.MoveTo(t, standby.URL)
	proxy.Refuse()
	proxy.Pass()
	l.awaitRefused(t)
	p.awaitStatus(t, "/healthz", http.StatusServiceUnavailable)
	if strings.Contains(p.readMetrics(t), `ringback_database_connections{pool="steps",state="idle"} 1`) {
		t.Error("the pool keeps connections to a standby")
	}

	proxy.MoveTo(t, primary.URL)
	p.awaitStatus(t, "/healthz", http.StatusOK)
	l.awaitAcked(t, 50)
	_, before := l.counts()
	l.awaitAcked(t, 500)
	// On a busy machine the database may take longer than a call waits for it.
	if _, after := l.counts(); after-before > 50 {
		t.Errorf("got %d calls refused beside 500 with the primary back, want hardly any", after-before)
	}
	expectAll(t, r, l.stop())
	wantNoOrphans(t, primary.URL)
}

// A primary that is demoted keeps its sockets. The acknowledged requests are on the
// standby, since commits wait for it.
func TestFailoverToTheStandbyBehindTheOtherAddress(t *testing.T) {
	t.Parallel()
	primary := dbtest.NewCluster(t)
	standby := primary.NewStandby(t)
	primary.Set(t, "synchronous_standby_names", "*")
	p := startHere(t, addAddress(primary.URL, standby.URL), nil, fingerprint.Do)
	r := newReceiver(t, nil)
	l := startLoad(t, p, r.URL)
	l.awaitAcked(t, 50)
	primary.Set(t, "default_transaction_read_only", "on")
	l.awaitRefused(t)
	standby.Execute(t, "SELECT pg_promote()")
	standby.Set(t, "synchronous_standby_names", "")
	l.awaitAcked(t, 50)
	p.awaitStatus(t, "/healthz", http.StatusOK)
	expectAll(t, r, l.stop())
	wantNoOrphans(t, standby.URL)
}

func TestDatabaseAwayAtStart(t *testing.T) {
	t.Parallel()

	t.Run("IsWaitedFor", func(t *testing.T) {
		t.Parallel()
		proxy, through := dbtest.NewProxy(t, dbtest.NewEmpty(t))
		proxy.Refuse()
		p := startHere(t, through, nil, fingerprint.Do)
		p.awaitStatus(t, "/healthz", http.StatusServiceUnavailable)
		p.awaitStatus(t, "/livez", http.StatusOK)
		if status, answer, err := p.post("/sync", `{"input":{"text":"x"}}`); err != nil || status != http.StatusServiceUnavailable || answer.problem != "/problems/unavailable" {
			t.Errorf("POST /sync: got %d, %+v, %v, want 503 unavailable", status, answer, err)
		}
		p.awaitMetric(t, `ringback_database_fault{fault="away"} 1`)
		until(t, func() bool {
			return !strings.Contains(p.readMetrics(t), `ringback_database_faults_total{fault="away"} 1`+"\n")
		}, func() string { return "another try" })
		proxy.Pass()
		p.awaitStatus(t, "/healthz", http.StatusOK)
		p.served(t, "/sync", `{"input":{"text":"x"}}`, http.StatusOK)
		if got := strings.Count(p.log.String(), "msg=waiting_for_database"); got != 1 {
			t.Errorf("got %d lines that say that it waits, want one", got)
		}
	})

	t.Run("EndsWithTheProcess", func(t *testing.T) {
		t.Parallel()
		for name, away := range map[string]func(*dbtest.Proxy){"Refused": (*dbtest.Proxy).Refuse, "Frozen": (*dbtest.Proxy).Freeze} {
			proxy, through := dbtest.NewProxy(t, dbtest.NewEmpty(t))
			away(proxy)
			p := startHere(t, through, nil, fingerprint.Do)
			p.awaitStatus(t, "/livez", http.StatusOK)
			if err := p.waitStopped(t); err != nil {
				t.Errorf("%s: got %v, want no error", name, err)
			}
		}
	})
}

func TestWhatCanNeverWorkEndsAtOnce(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ url, want string }{
		"NoSuchDatabase": {strings.Replace(dbtest.New(t), "ringback_test_", "ringback_missing_", 1), "does not exist"},
		"WrongPassword":  {strings.Replace(dbtest.New(t), ":ringback@", ":wrong@", 1), "password authentication failed"},
		"OtherEncoding":  {dbtest.NewEncoded(t, "LATIN1"), "ENCODING 'UTF8'"},
		"NewerSchema":    {newerSchema(t), "run the newer version of the program"},
		"ExecMode":       {dbtest.New(t) + "&default_query_exec_mode=simple_protocol", "default_query_exec_mode"},
		"NoTriggers":     {withoutTriggers(t), "reset session_replication_role"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(t.Context(), []string{"--dev"}, environment(test.url, nil), io.Discard, io.Discard, works)
			if err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

// withoutTriggers is a database in whose sessions no trigger fires, for a role that may not
// change that.
func withoutTriggers(t *testing.T) string {
	t.Helper()
	cluster := dbtest.NewCluster(t)
	cluster.Execute(t, "CREATE ROLE plain LOGIN PASSWORD 'ringback'")
	cluster.Set(t, "session_replication_role", "replica")
	return strings.Replace(cluster.URL, "ringback:", "plain:", 1)
}

// newerSchema is a database that a later version of the program has migrated.
func newerSchema(t *testing.T) string {
	t.Helper()
	url := dbtest.New(t)
	if _, err := dbtest.Pool(t, url).Exec(t.Context(), "UPDATE schema_migrations SET version = version + 1"); err != nil {
		t.Fatal(err)
	}
	return url
}
