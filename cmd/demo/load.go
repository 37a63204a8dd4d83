package main

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/sample"
)

// lost is how many requests were acknowledged and never called back.
func lost(r *load.Report) int { return r.Async.Missing + r.Async.Acked - r.Async.Delivered }

// load sends along an open loop, and compares each callback with its request.
func (s *show) load(rate, seconds int, work string) *load.Report {
	config := sample.Config(s.server.URL, work)
	config.Rate, config.Length = float64(rate), time.Duration(seconds)*time.Second
	run, err := load.New(s.Ctx, config)
	s.Must(err)
	defer run.Close()
	found, err := run.Do(s.Ctx)
	s.Must(err)
	if len(found.Breaches()) > 0 {
		s.Must(fmt.Errorf("a promise was broken: %s", found.Verdict()))
	}
	return &found.Report
}

// table puts the calm beside the storm.
func table(calm, storm *load.Report) string {
	var text strings.Builder
	rows := tabwriter.NewWriter(&text, 0, 0, 4, ' ', tabwriter.AlignRight)
	fmt.Fprintln(rows, "\tcalm\tstorm\t")
	line := func(name string, show func(*load.Report) string) {
		fmt.Fprintf(rows, "  %s\t%s\t%s\t\n", name, show(calm), show(storm))
	}
	line("sync answered", func(r *load.Report) string { return strconv.Itoa(r.Sync.OK) })
	line("p99", func(r *load.Report) string { return inMilliseconds(r.Sync.Latency.P99) })
	line("sync refused at once, to come again", func(r *load.Report) string { return strconv.Itoa(r.Sync.Shed) })
	line("async acknowledged", func(r *load.Report) string { return strconv.Itoa(r.Async.Acked) })
	line("p99", func(r *load.Report) string { return inMilliseconds(r.Async.Latency.P99) })
	line("called back", func(r *load.Report) string { return strconv.Itoa(r.Async.Delivered) })
	line("p50", func(r *load.Report) string { return inMilliseconds(r.Async.TimeToCallback.P50) })
	line("p95", func(r *load.Report) string { return inMilliseconds(r.Async.TimeToCallback.P95) })
	line("p99", func(r *load.Report) string { return inMilliseconds(r.Async.TimeToCallback.P99) })
	line("lost", func(r *load.Report) string { return strconv.Itoa(lost(r)) })
	rows.Flush()
	return text.String() + "\n"
}

func inMilliseconds(ms float64) string {
	if ms >= 1000 {
		return fmt.Sprintf("%.1f s", ms/1000)
	}
	return fmt.Sprintf("%.1f ms", ms)
}
