package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

// upstream asks the cost of work by an HTTP service on the same machine, and how Ringback
// does while that service is away, or takes its time.
func upstream(s *measurement) {
	compareUpstream(s)
	timeUpstream(s)
	s.scene("while it is away", outliveUpstream)
	s.scene("while it takes its time", waitForUpstream)
}

// compareUpstream compares the throughput at saturation.
func compareUpstream(s *measurement) {
	here := s.saturateFresh(s.ours())
	s.scene("by an upstream", func(s *measurement) {
		there := s.saturate(s.ours(), s.database("upstream", ""), 0, s.works(s.doer(), 0)...)
		s.add("upstream_in_process_per_s", here.rate())
		s.add("upstream_per_s", there.rate())
		s.add("upstream_ratio", there.rate()/here.rate())
		s.addCPU("upstream_cpu_us_at_saturation", there, there.delivered)
	})
}

// timeUpstream compares the time to a callback.
func timeUpstream(s *measurement) {
	const rate = 200
	var here, there load.Quantiles
	s.scene("in process", func(s *measurement) { here = s.timeToCallback(s.fresh("upstream_ttc"), rate) })
	s.scene("by an upstream", func(s *measurement) {
		there = s.timeToCallback(s.fresh("upstream_ttc", s.works(s.doer(), 0)...), rate)
	})
	s.add("upstream_ttc_p50_ms_at_200", there.P50)
	s.add("upstream_ttc_p99_ms_at_200", there.P99)
	s.add("upstream_ttc_more_ms_at_200", there.P50-here.P50)
}

// doer is an HTTP service that does the sample work. It costs little CPU, since it shares the
// machine with the measured service.
type doer struct {
	address string
	server  fasthttp.Server

	began     atomic.Int64 // Unix nanoseconds of the first attempt since listen
	now, most atomic.Int64 // attempts at a time: now, and at most in the returnWindow after began
}

// returnWindow is how long a doer counts its attempts at a time after it has come back.
const returnWindow = 10 * time.Second

// doer returns a service that listens.
func (s *measurement) doer() *doer {
	address, err := program.FreeAddress()
	s.Must(err)
	d := &doer{address: address}
	// Lines about broken connections would stand among bench's.
	d.server = fasthttp.Server{Handler: d.serve, NoDefaultServerHeader: true, NoDefaultDate: true, Logger: log.New(io.Discard, "", 0)}
	s.Must(d.listen())
	s.AtEnd(d.server.Shutdown)
	return d
}

// listen takes connections until the server is shut down, and may then be called again.
func (d *doer) listen() error {
	listener, err := net.Listen("tcp", d.address)
	if err != nil {
		return fmt.Errorf("listening for work: %w", err)
	}
	d.began.Store(0)
	d.most.Store(0)
	go func() { _ = d.server.Serve(listener) }() // until the server is shut down
	return nil
}

func (d *doer) serve(c *fasthttp.RequestCtx) {
	if string(c.Path()) == "/later" {
		c.SetStatusCode(fasthttp.StatusAccepted)
		return
	}
	at := time.Now().UnixNano()
	d.began.CompareAndSwap(0, at)
	now := d.now.Add(1)
	defer d.now.Add(-1)
	for most := d.most.Load(); at-d.began.Load() < int64(returnWindow) && now > most; most = d.most.Load() {
		d.most.CompareAndSwap(most, now)
	}
	result, err := sample.Do(c, c.PostBody())
	if err != nil {
		c.SetStatusCode(fasthttp.StatusUnprocessableEntity)
		return
	}
	c.SetContentType("application/json")
	c.SetBody(result)
}

// works are settings for a server whose work is done by a service, at most limit runs at a
// time, or any number if limit is 0. The service accepts the work called later, and never
// reports on it.
func (s *measurement) works(service *doer, limit int) (settings []string) {
	works := map[string]any{}
	for _, name := range []string{"do", "later"} {
		works[name] = map[string]any{"url": "http://" + service.address + "/" + name, "secret": receivers.LocalSecret, "limit": limit}
	}
	encoded, err := json.Marshal(works)
	s.Must(err)
	file := filepath.Join(s.Folder(), "works.json")
	s.Must(os.WriteFile(file, encoded, 0o600))
	return []string{"WORKS=" + file, "DEFAULT_WORK=do"}
}

// outliveUpstream asks how fast requests that were accepted while the upstream was away are
// done when the upstream is back.
func outliveUpstream(s *measurement) {
	const (
		rate  = 500 // at which requests are accepted meanwhile
		limit = 64  // attempts at a time that the upstream gets
	)
	service := s.doer()
	config := s.atRate(s.fresh("upstream_away", s.works(service, limit)...), rate)
	config.Length, config.Drain = config.Warmup+s.upstreamAway, queueTimeout
	running := s.launch(config)
	s.Pause(config.Warmup)
	s.Must(service.server.ShutdownWithContext(s.Ctx))
	s.Pause(s.upstreamAway)
	s.Must(service.listen())
	s.watchReturn(running)
	s.wait(running)
	s.add("upstream_most_at_return", float64(service.most.Load())/limit)
}

// watchReturn asks how fast waiting requests are delivered, from a quarter to nine tenths of
// them: after a quarter, the upstream has been found, and the slow start is over.
func (s *measurement) watchReturn(running *running) {
	back, start := time.Now(), running.now()
	waited := start.Acked - start.Delivered
	after := func(delivered int) float64 {
		s.until("requests that waited for the upstream", func() bool { return running.now().Delivered-start.Delivered >= delivered })
		return time.Since(back).Seconds()
	}
	first, from, to := after(1), after(waited/4), after(waited*9/10)
	rate := float64(waited*9/10-waited/4) / (to - from)
	s.add("upstream_return_s", first)
	s.add("upstream_drained_per_s", rate)
	s.add("upstream_drained_ratio", rate/median(s.figures["upstream_per_s"]))
}

// waitForUpstream asks how much memory requests take that wait for an upstream that answers
// 202. The upstream does as many requests before, so that the server's process has grown to
// the size of the load.
func waitForUpstream(s *measurement) {
	admin, err := program.FreeAddress()
	s.Must(err)
	on := s.fresh("upstream_waits", append(s.works(s.doer(), 0), "ADMIN_ADDR="+admin)...)
	var memory [2]float64
	for i, step := range []struct{ work, until string }{
		{"do", "(SELECT count(*) FROM requests WHERE callback_state = 'delivered')"},
		{"later", "(SELECT count(*) FROM work_leases WHERE NOT EXISTS (SELECT FROM river_job WHERE state = 'running'))"},
	} {
		config := s.loop(on, s.waiting, 64, 0)
		config.Work = step.work
		s.await(s.launch(config), s.waiting)
		s.awaitCount(on.rows, step.until, s.waiting)
		memory[i] = s.memoryInUse("http://" + admin)
	}
	s.add("upstream_waiting_mib", memory[1]-memory[0])
}

// memoryInUse is a server's memory in use after a collection, in MiB. More memory than that is
// garbage, which comes and goes.
func (s *measurement) memoryInUse(admin string) (mib float64) {
	_, profile, err := program.Call(s.Ctx, http.DefaultClient, http.MethodGet, admin+"/debug/pprof/heap?gc=1&debug=1", nil)
	s.Must(err)
	for line := range strings.Lines(string(profile)) {
		for _, name := range []string{"# HeapInuse = ", "# Stack = "} {
			if value, found := strings.CutPrefix(line, name); found {
				var bytes float64
				_, err := fmt.Sscan(value, &bytes)
				s.Must(err)
				mib += bytes / (1 << 20)
			}
		}
	}
	if mib == 0 {
		s.Must(errors.New("the server's profile tells nothing of its memory"))
	}
	return mib
}
