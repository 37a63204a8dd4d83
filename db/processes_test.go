package db_test

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback/db"
	"ringback/db/dbtest"
)

// runIn makes a job of a kind that has been running in a process for so many
// seconds.
func runIn(t *testing.T, pool *pgxpool.Pool, process, kind string, seconds int) (id int64) {
	t.Helper()
	const sql = `
		INSERT INTO river_job (args, kind, queue, max_attempts, state, attempt, attempted_at, attempted_by)
		VALUES ('{}', $2, $2, 1000, 'running', 2, now() - $3 * interval '1 second', ARRAY['an earlier one', $1])
		RETURNING id`
	if err := pool.QueryRow(t.Context(), sql, process, kind, seconds).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

func beatAt(t *testing.T, pool *pgxpool.Pool, process string, secondsAgo int) {
	t.Helper()
	const sql = "INSERT INTO processes (id, beat_at) VALUES ($1, now() - $2 * interval '1 second')"
	if _, err := pool.Exec(t.Context(), sql, process, secondsAgo); err != nil {
		t.Fatal(err)
	}
}

func TestReturnJobs(t *testing.T) {
	t.Parallel()
	const silence = 10 * time.Second
	tests := []struct {
		name          string
		beat, running int // seconds ago; no row for a negative beat
		kind          string
		state         string
		attempt       int
	}{
		{"WorkOfASilentProcessKeepsItsAttempt", 11, 60, "work", "available", 2},
		{"CallbackOfASilentProcessGetsItBack", 11, 60, "callback", "available", 1},
		{"JobOfALivingProcessStays", 5, 60, "work", "running", 2},
		{"JobThatBeganJustNowStays", 11, 1, "work", "running", 2},
		{"JobOfAProcessThatNobodyKnowsStays", -1, 60, "work", "running", 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.NewPool(t)
			beatAt(t, pool, "an earlier one", 100)
			if test.beat >= 0 {
				beatAt(t, pool, "this one", test.beat)
			}
			id := runIn(t, pool, "this one", test.kind, test.running)
			returned, err := db.ReturnJobs(t.Context(), pool, "callback", now(t, pool), silence)
			if want := test.state == "available"; err != nil || (returned == 1) != want {
				t.Errorf("returned: got %d, %v, want it: %v", returned, err, want)
			}
			var state string
			var attempt int
			const sql = "SELECT state::text, attempt FROM river_job WHERE id = $1 AND scheduled_at <= now()"
			if err := pool.QueryRow(t.Context(), sql, id).Scan(&state, &attempt); err != nil || state != test.state || attempt != test.attempt {
				t.Errorf("got %s with %d attempts, %v, want %s with %d", state, attempt, err, test.state, test.attempt)
			}
		})
	}

	// Work that takes its process down, and the jobs beside it, don't all run again together.
	t.Run("WorkThatIsLostAgainAndAgainComesBackSpread", func(t *testing.T) {
		t.Parallel()
		tests := []struct {
			name           string
			kind           string
			attempt, ended int    // charged, and how many of these ended
			as             string // how they ended
			most           int    // seconds until the last of them is due; 0 for at once
		}{
			{"Twice", "work", 2, 0, "", 0},
			{"ThreeTimes", "work", 3, 0, "", 8},
			{"FourTimes", "work", 4, 0, "", 16},
			{"FailedTwiceAndLostTwice", "work", 4, 2, db.WorkNotDone + "busy", 0},
			{"FailedTwiceAndLostThreeTimes", "work", 5, 2, db.WorkNotDone + "busy", 8},
			{"MetFaultsAndLostTwice", "work", 6, 4, "fault: a step failed", 0},
			{"PostponedTwiceAndLostThreeTimes", "work", 3, 2, db.WorkUncharged + "busy", 8},
			{"SetByHand", "work", 32767, 0, "", 300},
			{"Callback", "callback", 9, 0, "", 0},
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				const jobs = 100
				pool := dbtest.NewPool(t)
				beatAt(t, pool, "this one", 11)
				for range jobs {
					runIn(t, pool, "this one", test.kind, 60)
				}
				lose := `UPDATE river_job SET attempt = $1, errors = array_fill(jsonb_build_object('error', $3::text), ARRAY[$2::int]) || '7'::jsonb`
				if _, err := pool.Exec(t.Context(), lose, test.attempt, test.ended, test.as); err != nil {
					t.Fatal(err)
				}
				if returned, err := db.ReturnJobs(t.Context(), pool, "callback", now(t, pool), silence); err != nil || returned != jobs {
					t.Fatalf("returned: got %d, %v, want %d", returned, err, jobs)
				}
				var first, last float64
				const due = "SELECT extract(epoch FROM min(scheduled_at) - now())::float8, extract(epoch FROM max(scheduled_at) - min(scheduled_at))::float8 FROM river_job WHERE state = 'available'"
				if err := pool.QueryRow(t.Context(), due).Scan(&first, &last); err != nil {
					t.Fatal(err)
				}
				if spread := last > float64(test.most)/2; spread != (test.most > 0) || last > float64(test.most) || first > float64(test.most)/2 {
					t.Errorf("got the first due in %.1f s and the last %.1f s later, want them spread over %d s", first, last, test.most)
				}
			})
		}
	})

	t.Run("IsDoneOnceBySeveral", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewPool(t)
		beatAt(t, pool, "this one", 11)
		for range 50 {
			runIn(t, pool, "this one", "callback", 60)
		}
		results := make(chan int64)
		for range 4 {
			go func() {
				returned, err := db.ReturnJobs(t.Context(), pool, "callback", now(t, pool), silence)
				if err != nil {
					t.Error(err)
				}
				results <- returned
			}()
		}
		if all := <-results + <-results + <-results + <-results; all != 50 {
			t.Errorf("returned in all: got %d, want 50", all)
		}
		var wrong int
		const sql = "SELECT count(*) FROM river_job WHERE state <> 'available' OR attempt <> 1"
		if err := pool.QueryRow(t.Context(), sql).Scan(&wrong); err != nil || wrong != 0 {
			t.Errorf("got %d jobs that are not available with one attempt less, %v, want none", wrong, err)
		}
	})
}

func TestReturnStrays(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	beatAt(t, pool, "this one", 1)
	beatAt(t, pool, "another", 1000) // dead, and left to ReturnJobs
	const longer = 10 * time.Second
	runs := map[string]int64{}
	for _, process := range []string{"this one", "another", "unknown"} {
		runs[process+", for long"] = runIn(t, pool, process, "work", 60)
		runs[process+", just now"] = runIn(t, pool, process, "work", 1)
	}
	want := []int64{runs["this one, for long"], runs["unknown, for long"]}
	slices.Sort(want)
	got, err := db.StrayJobs(t.Context(), pool, "this one", longer)
	slices.Sort(got)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("strays: got %v, %v, want %v of %v", got, err, want, runs)
	}
	if _, err := pool.Exec(t.Context(), "INSERT INTO processes (id, beat_at) VALUES ('unknown', now())"); err != nil { // it lives after all
		t.Fatal(err)
	}
	if returned, err := db.ReturnStrays(t.Context(), pool, "this one", longer, got); err != nil || returned != 1 {
		t.Errorf("returned: got %d, %v, want 1", returned, err)
	}
	var attempts []int
	const sql = "SELECT array_agg(attempt ORDER BY id) FROM river_job WHERE state = 'available' AND scheduled_at <= now()"
	if err := pool.QueryRow(t.Context(), sql).Scan(&attempts); err != nil || !slices.Equal(attempts, []int{1}) {
		t.Errorf("attempts of the jobs that were given back: got %v, %v, want one less", attempts, err)
	}
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	pool := dbtest.NewPool(t)
	beatAt(t, pool, "back again", 7000)
	beatAt(t, pool, "long gone", 7000)
	for _, process := range []string{"back again", "new", "stopped", "stopped in an outage", "new"} {
		if _, err := db.Beat(t.Context(), pool, process, false); err != nil {
			t.Fatal(err)
		}
	}
	runIn(t, pool, "stopped in an outage", "work", 1)
	for _, process := range []string{"stopped", "stopped in an outage"} {
		if err := db.RemoveProcess(t.Context(), pool, process); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.ForgetProcesses(t.Context(), pool, now(t, pool), time.Hour); err != nil {
		t.Fatal(err)
	}
	var known string
	const sql = "SELECT string_agg(id, ', ' ORDER BY id) FROM processes WHERE beat_at > now() - interval '1 minute'"
	if err := pool.QueryRow(t.Context(), sql).Scan(&known); err != nil || known != "back again, new, stopped in an outage" {
		t.Errorf("got %q, %v, want those that beat, but for one that stopped", known, err)
	}
}
