package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/receivers"
)

// measureUpstream asks the cost of work by an HTTP service on the same machine, and how
// Ringback does while that service is away, or slow.
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
	return []string{"WORK_URL=" + d.URL + path, "WORK_SECRET=" + receivers.LocalSecret}
}

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
	here, err := b.saturateFresh(ctx, ours)
	if err != nil {
		return err
	}
	return b.withDoer(ctx, func(service *doer) error {
		return b.onFresh(ctx, "upstream", func(d database) error {
			before := program.FamilyCPU(service.Pid())
			there, err := b.saturate(ctx, ours, d, asyncBodies, service.settings("/do")...)
			if err == nil {
				b.reportUpstream(here, there, program.FamilyCPU(service.Pid())-before)
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

func (b *bench) timeWork(ctx context.Context, settings []string) (took load.Quantiles, err error) {
	err = b.onFreshServer(ctx, "upstream_ttc", settings, func(_ database, s *server) error {
		told, err := b.runStorm(ctx, s, stormOrder{mix: "async=100", rate: upstreamRate, length: b.plan.timingFor})
		if err == nil {
			took = told.Async.TimeToCallback
		}
		return err
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
	return b.onFreshServer(ctx, "upstream_away", settings, func(_ database, s *server) (err error) {
		service, err = b.comeBack(ctx, s, service)
		return err
	})
}

// comeBack kills the service, and starts another in its place.
func (b *bench) comeBack(ctx context.Context, s *server, service *doer) (*doer, error) {
	receiver, err := receivers.StartCounter(defaultReceiver, nil)
	if err != nil {
		return service, err
	}
	defer receiver.Close()
	l, stop := b.startPaced(ctx, s, receiver)
	defer stop()
	load.Pause(ctx, b.plan.steadyWarmup)
	service.Signal(os.Kill)
	load.Pause(ctx, b.plan.upstreamAway)
	if stop(); ctx.Err() != nil {
		return service, ctx.Err()
	}
	next, err := b.startDoer(ctx, service.address)
	if err != nil {
		return service, err
	}
	return next, b.watchReturn(ctx, next, receiver, l)
}

// worksOf are settings for a server whose works are paths of a service, with limits; the
// paths name the works.
func worksOf(service *doer, limits map[string]int) (settings []string, remove func(), err error) {
	folder, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, nil, fmt.Errorf("making a folder for settings: %w", err)
	}
	remove = func() { _ = os.RemoveAll(folder) }
	works := map[string]any{}
	for path, limit := range limits {
		works[path[1:]] = map[string]any{"url": service.URL + path, "secret": receivers.LocalSecret, "limit": limit}
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
func (b *bench) startPaced(ctx context.Context, s *server, r *receivers.Counter) (l *load.Closed, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	l = newLoad(s, "/async", 32, asyncBody(r.URL))
	l.Window = make(chan struct{})
	ended := l.Start(ctx)
	go func() { // who enters the window hands over to here
		tick := time.NewTicker(time.Second / outliveRate)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				<-l.Window
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

// watchReturn asks how fast waiting requests are delivered: from a quarter of them, when
// the upstream has been found and the slow start is over, to nine tenths.
func (b *bench) watchReturn(ctx context.Context, service *doer, r *receivers.Counter, l *load.Closed) error {
	ctx, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	back, before := time.Now(), r.Delivered.Load()
	waited := l.Accepted.Load() - before
	var first, from, to time.Duration
	for r.Delivered.Load() < l.Accepted.Load() {
		if !load.Pause(ctx, 5*time.Millisecond) {
			return errors.Join(fmt.Errorf("%d of %d requests were not delivered after the upstream was back", l.Accepted.Load()-r.Delivered.Load(), l.Accepted.Load()), ctx.Err())
		}
		done := r.Delivered.Load() - before
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
	return l.Check()
}

// note keeps when something was first so.
func note(at *time.Duration, since time.Time, so bool) {
	if so && *at == 0 {
		*at = time.Since(since)
	}
}

// most is how many attempts the service had at a time in its first ten seconds.
func (d *doer) most(ctx context.Context) (int, error) {
	content, err := read(ctx, d.URL+"/most")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(content))
}

// waitForUpstream asks how much memory many requests take that wait for an upstream that
// answers 202. The same service did as many before, so that the process has grown to the
// load's size.
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
		admin, err := program.FreeAddress()
		if err != nil {
			return err
		}
		settings = append(settings, "ADMIN_ADDR="+admin)
		return b.onFreshServer(ctx, "upstream_waits", settings, func(d database, s *server) error { return b.compareWaiting(ctx, d, s, "http://"+admin) })
	})
}

func (b *bench) compareWaiting(ctx context.Context, d database, s *server, admin string) error {
	receiver, err := receivers.StartCounter(defaultReceiver, nil)
	if err != nil {
		return err
	}
	defer receiver.Close()
	var memory [2]float64
	for i, step := range []struct{ work, until string }{
		{"do", "(SELECT count(*) FROM requests WHERE callback_state = 'delivered')"},
		{"later", "(SELECT count(*) FROM work_leases WHERE NOT EXISTS (SELECT FROM river_job WHERE state = 'running'))"},
	} {
		l := newLoad(s, "/async/"+step.work, 64, asyncBody(receiver.URL))
		if err := errors.Join(l.Accept(ctx, int64(b.plan.waiting), queueTimeout), awaitCount(ctx, d, step.until, l.Accepted.Load())); err != nil {
			return err
		}
		if memory[i], err = memoryInUse(ctx, admin); err != nil {
			return err
		}
	}
	b.say("  %d requests wait, and hold no worker: %.1f MiB, and %.1f MiB when as many had been done", b.plan.waiting, memory[1], memory[0])
	b.figures.add("upstream_waiting_mib", memory[1]-memory[0])
	return nil
}

// memoryInUse is a server's memory in use after a collection, in MiB: memory beyond it is
// the load's garbage, and comes and goes.
func memoryInUse(ctx context.Context, admin string) (mib float64, err error) {
	if _, err := read(ctx, admin+"/debug/pprof/heap?gc=1"); err != nil {
		return 0, err
	}
	metrics, err := read(ctx, admin+"/metrics")
	for line := range strings.Lines(string(metrics)) {
		for _, name := range []string{"go_memstats_heap_inuse_bytes ", "go_memstats_stack_inuse_bytes "} {
			if value, found := strings.CutPrefix(line, name); found {
				bytes, _ := strconv.ParseFloat(strings.TrimSpace(value), 64)
				mib += bytes / (1 << 20)
			}
		}
	}
	if err == nil && mib == 0 {
		err = errors.New("the server's metrics tell nothing of its memory")
	}
	return mib, err
}

func read(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the server: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the server: %w", err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("asking the server: %w", err)
	}
	return content, nil
}

// awaitCount returns when a count in the database is reached.
func awaitCount(ctx context.Context, d database, count string, want int64) error {
	ctx, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	return d.Connect(ctx, func(conn *pgx.Conn) error {
		for got := int64(-1); got < want; load.Pause(ctx, 100*time.Millisecond) {
			if err := conn.QueryRow(ctx, "SELECT "+count).Scan(&got); err != nil {
				return fmt.Errorf("waiting for %d, got to %d: %w", want, got, err)
			}
		}
		return nil
	})
}
