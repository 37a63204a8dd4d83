package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/program"
)

// measureUpstream asks what it costs that an HTTP service on the same machine does the
// work, and how the service takes it that this one is away, or takes its time.
func (b *bench) measureUpstream(ctx context.Context) error {
	err := rounds(b.plan.repeat, func() error { return b.compareUpstream(ctx) })
	if err != nil {
		return err
	}
	return rounds(b.plan.stormRepeat, func() error {
		for _, measure := range []func(context.Context) error{b.timeUpstream, b.outliveUpstream, b.waitForUpstream} {
			if err := measure(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// doer is the service that does the work, as a process of its own.
type doer struct {
	*program.Server
	address string
}

// startDoer starts it at an address, any if that is empty.
func (b *bench) startDoer(ctx context.Context, address string) (*doer, error) {
	if address == "" {
		free, err := program.FreeAddress()
		if err != nil {
			return nil, err
		}
		address = free
	}
	process, err := program.Start(exec.Command(b.self, "work", address), address)
	if err != nil {
		return nil, err
	}
	if err := process.WaitHealthy(ctx); err != nil {
		return nil, errors.Join(err, process.Stop())
	}
	return &doer{process, address}, nil
}

// settings let a server work through it.
func (d *doer) settings(path string) []string {
	return []string{"WORK_URL=" + d.URL + path, "WORK_SECRET=" + benchSecret}
}

// benchSecret signs calls, as in earnest.
const benchSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// withDoer runs do beside a service that does the work.
func (b *bench) withDoer(ctx context.Context, do func(*doer) error) error {
	d, err := b.startDoer(ctx, "")
	if err != nil {
		return err
	}
	return errors.Join(do(d), d.Stop())
}

// compareUpstream measures saturation with and without it.
func (b *bench) compareUpstream(ctx context.Context) error {
	var here spent
	err := b.onFresh(ctx, "e2e", func(d database) (err error) {
		here, err = b.saturate(ctx, ours, d)
		return err
	})
	if err != nil {
		return err
	}
	return b.withDoer(ctx, func(service *doer) error {
		return b.onFresh(ctx, "upstream", func(d database) error {
			before := familyCPU(service.Pid())
			there, err := b.saturate(ctx, ours, d, service.settings("/do")...)
			if err == nil {
				b.reportUpstream(here, there, familyCPU(service.Pid())-before)
			}
			return err
		})
	})
}

// reportUpstream is also told the CPU of the service, from its start to the last request.
func (b *bench) reportUpstream(here, there spent, service time.Duration) {
	server, postgres := there.cpuPerRequest(there.delivered)
	serverHere, postgresHere := here.cpuPerRequest(here.delivered)
	b.say("  in process %6.0f/s, CPU %4.0f µs server, %4.0f µs Postgres; by an upstream %6.0f/s, CPU %4.0f µs server, %4.0f µs Postgres; %.1f s of the upstream in all",
		here.rate(), serverHere, postgresHere, there.rate(), server, postgres, service.Seconds())
	b.figures.add("upstream_per_s", there.rate())
	b.figures.add("upstream_in_process_per_s", here.rate())
	b.figures.add("upstream_ratio", there.rate()/here.rate())
	b.addCPU("upstream_cpu_us_at_saturation", server, postgres)
}

// upstreamRate is at which the time to a callback is compared.
const upstreamRate = 200

// timeUpstream compares the time to a callback.
func (b *bench) timeUpstream(ctx context.Context) error {
	here, err := b.timeWork(ctx, nil)
	if err != nil {
		return err
	}
	return b.withDoer(ctx, func(service *doer) error {
		there, err := b.timeWork(ctx, service.settings("/do"))
		if err != nil {
			return err
		}
		b.say("  at %d/s called back in process p50 %5.2f ms p99 %6.2f ms; by an upstream p50 %5.2f ms p99 %6.2f ms", upstreamRate, here.P50, here.P99, there.P50, there.P99)
		b.figures.add("upstream_ttc_p50_ms_at_200", there.P50)
		b.figures.add("upstream_ttc_p99_ms_at_200", there.P99)
		b.figures.add("upstream_ttc_more_ms_at_200", there.P50-here.P50)
		return nil
	})
}

func (b *bench) timeWork(ctx context.Context, settings []string) (took quantiles, err error) {
	err = b.onFresh(ctx, "upstream_ttc", func(d database) error {
		return b.onServer(ctx, ours, d, settings, func(s *server) error {
			told, err := b.runStorm(ctx, s, stormOrder{mix: "async=100", rate: upstreamRate, length: b.plan.timingFor})
			took = told.Async.TimeToCallback
			return err
		})
	})
	return took, err
}

const (
	// outliveRate is at which requests are accepted while the upstream is away.
	outliveRate = 500
	// upstreamLimit is how many attempts it gets at a time.
	upstreamLimit = 64
)

// outliveUpstream accepts requests while the upstream is away, and asks how fast they are
// done when it is back.
func (b *bench) outliveUpstream(ctx context.Context) error {
	if b.plan.upstreamAway == 0 {
		b.say("  left out: an upstream that is away")
		return nil
	}
	service, err := b.startDoer(ctx, "")
	if err != nil {
		return err
	}
	defer func() { _ = service.Stop() }()
	settings, remove, err := worksOf(service, map[string]int{"/do": upstreamLimit})
	if err != nil {
		return err
	}
	defer remove()
	return b.onFresh(ctx, "upstream_away", func(d database) error {
		return b.onServer(ctx, ours, d, settings, func(s *server) (err error) {
			service, err = b.comeBack(ctx, s, service)
			return err
		})
	})
}

// comeBack kills the service, and starts another one in its place.
func (b *bench) comeBack(ctx context.Context, s *server, service *doer) (*doer, error) {
	receiver, err := startReceiver(defaultReceiver, nil)
	if err != nil {
		return service, err
	}
	defer receiver.close()
	l, stop := b.startPaced(ctx, s, receiver)
	defer stop()
	pause(ctx, b.plan.steadyWarmup)
	service.Signal(os.Kill)
	pause(ctx, b.plan.upstreamAway)
	if stop(); ctx.Err() != nil {
		return service, ctx.Err()
	}
	next, err := b.startDoer(ctx, service.address)
	if err != nil {
		return service, err
	}
	return next, b.watchReturn(ctx, next, receiver, l)
}

// worksOf are settings that let a server work through paths of a service, by which the
// works are called, with limits.
func worksOf(service *doer, limits map[string]int) (settings []string, remove func(), err error) {
	folder, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, nil, fmt.Errorf("making a folder for settings: %w", err)
	}
	remove = func() { _ = os.RemoveAll(folder) }
	works := map[string]any{}
	for path, limit := range limits {
		works[path[1:]] = map[string]any{"url": service.URL + path, "secret": benchSecret, "limit": limit}
	}
	encoded, err := json.Marshal(works)
	file := filepath.Join(folder, "works.json")
	if err == nil {
		err = os.WriteFile(file, encoded, 0o600)
	}
	if err != nil {
		return nil, remove, fmt.Errorf("writing settings: %w", err)
	}
	return []string{"WORKS=" + file, "DEFAULT_WORK=do"}, remove, nil
}

// startPaced sends requests at outliveRate until stop, which may be called again.
func (b *bench) startPaced(ctx context.Context, s *server, r *receiver) (l *load, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	l = &load{target: s.url, path: "/async", body: asyncBody(r.url), connections: 32, window: make(chan struct{})}
	ended := l.start(ctx)
	go func() { // who enters the window hands over to here
		tick := time.NewTicker(time.Second / outliveRate)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				<-l.window
			case <-ctx.Done():
				return
			}
		}
	}()
	stopped := false
	return l, func() {
		if !stopped {
			cancel()
			ended()
		}
		stopped = true
	}
}

// returnTimeout is how long it may take until all that waited for the upstream is
// delivered.
const returnTimeout = 5 * time.Minute

// watchReturn asks how fast what waited is delivered: from a quarter of it, when the
// upstream has been found and the slow start is over, to nine tenths.
func (b *bench) watchReturn(ctx context.Context, service *doer, r *receiver, l *load) error {
	ctx, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	back, before := time.Now(), r.delivered.Load()
	waited := l.accepted.Load() - before
	var first, from, to time.Duration
	for r.delivered.Load() < l.accepted.Load() {
		if !pause(ctx, 5*time.Millisecond) {
			return errors.Join(fmt.Errorf("%d of %d requests were not delivered after the upstream was back", l.accepted.Load()-r.delivered.Load(), l.accepted.Load()), ctx.Err())
		}
		done := r.delivered.Load() - before
		note(&first, back, done > 0)
		note(&from, back, done > waited/4)
		note(&to, back, done > waited*9/10)
	}
	most, err := service.most(ctx)
	if err != nil {
		return err
	}
	rate := float64(waited*9/10-waited/4) / (to - from).Seconds()
	b.say("  away for %s: %d waited, none lost; the first was delivered %.1f s after its return, all in %.1f s, then at %.0f/s; at most %d at a time in its first ten seconds, of %d",
		b.plan.upstreamAway, waited, first.Seconds(), time.Since(back).Seconds(), rate, most, upstreamLimit)
	b.figures.add("upstream_return_s", first.Seconds())
	b.figures.add("upstream_drained_per_s", rate)
	b.figures.add("upstream_drained_ratio", rate/median(b.figures["upstream_per_s"]))
	b.figures.add("upstream_most_at_return", float64(most)/upstreamLimit)
	return l.check()
}

// note keeps when something was first so.
func note(at *time.Duration, since time.Time, so bool) {
	if so && *at == 0 {
		*at = time.Since(since)
	}
}

// most is how many attempts the service had at a time in its first ten seconds.
func (d *doer) most(ctx context.Context) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL+"/most", nil)
	if err != nil {
		return 0, fmt.Errorf("asking the upstream: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, fmt.Errorf("asking the upstream: %w", err)
	}
	defer response.Body.Close()
	var most int
	if err := json.NewDecoder(response.Body).Decode(&most); err != nil {
		return 0, fmt.Errorf("asking the upstream: %w", err)
	}
	return most, nil
}

// waitForUpstream asks what memory it takes that many requests wait for an upstream that
// says 202. As many were done before by the same service, so that the process has grown
// to what the load takes.
func (b *bench) waitForUpstream(ctx context.Context) error {
	if b.plan.waiting == 0 {
		b.say("  left out: an upstream that takes its time")
		return nil
	}
	return b.withDoer(ctx, func(service *doer) error {
		settings, remove, err := worksOf(service, map[string]int{"/do": 0, "/later": 0})
		if err != nil {
			return err
		}
		defer remove()
		return b.onFresh(ctx, "upstream_waits", func(d database) error {
			return b.onServer(ctx, ours, d, settings, func(s *server) error { return b.compareWaiting(ctx, d, s) })
		})
	})
}

func (b *bench) compareWaiting(ctx context.Context, d database, s *server) error {
	receiver, err := startReceiver(defaultReceiver, nil)
	if err != nil {
		return err
	}
	defer receiver.close()
	var memory [2]float64
	for i, step := range []struct{ work, until string }{
		{"do", "(SELECT count(*) FROM requests WHERE callback_state = 'delivered')"},
		{"later", "(SELECT count(*) FROM work_leases WHERE NOT EXISTS (SELECT FROM river_job WHERE state = 'running'))"},
	} {
		l := &load{target: s.url, path: "/async/" + step.work, body: asyncBody(receiver.url), connections: 64}
		stop := l.start(ctx)
		for l.accepted.Load() < int64(b.plan.waiting) && l.failed.Load() == 0 && pause(ctx, 5*time.Millisecond) {
		}
		stop()
		if err := errors.Join(l.check(), d.await(ctx, step.until, l.accepted.Load())); err != nil {
			return err
		}
		if !pause(ctx, 5*time.Second) { // a collection or two
			return ctx.Err()
		}
		memory[i] = memoryOf(s.Pid()) / (1 << 20)
	}
	b.say("  %d requests wait, and hold no worker: %.1f MiB, and %.1f MiB when as many had been done", b.plan.waiting, memory[1], memory[0])
	b.figures.add("upstream_waiting_mib", memory[1]-memory[0])
	return nil
}

// await returns when a count in the database is reached.
func (d database) await(ctx context.Context, count string, want int64) error {
	ctx, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	return d.connect(ctx, func(conn *pgx.Conn) error {
		for got := int64(-1); got < want; pause(ctx, 100*time.Millisecond) {
			if err := conn.QueryRow(ctx, "SELECT "+count).Scan(&got); err != nil {
				return fmt.Errorf("waiting for %d, got to %d: %w", want, got, err)
			}
		}
		return nil
	})
}
