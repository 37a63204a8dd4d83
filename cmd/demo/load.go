package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
)

// report is the part of storm's report that the demo reads.
type report struct {
	Sync, Async endpoint
}

type endpoint struct {
	OK         int       `json:"ok"`
	Shed       int       `json:"shed"`
	Failed     int       `json:"failed"`
	Acked      int       `json:"acked"`
	Delivered  int       `json:"delivered"`
	Missing    int       `json:"missing"`
	Latency    quantiles `json:"latency_ms"`
	ShedAfter  quantiles `json:"shed_ms"`
	ToCallback quantiles `json:"time_to_callback_ms"`
}

type quantiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// lost is how many requests were acknowledged and never called back.
func (r report) lost() int { return r.Async.Missing + r.Async.Acked - r.Async.Delivered }

// load runs storm, which checks each callback against its request.
func (s *stage) load(ctx context.Context, name string, rate, seconds int, work string) (r report, err error) {
	file := filepath.Join(s.folder, name+".json")
	command := exec.CommandContext(ctx, s.storm, "-target", s.server.URL, "-profile", "steady", "-rate", strconv.Itoa(rate),
		"-duration", strconv.Itoa(seconds)+"s", "-work", work, "-json", file)
	command.WaitDelay = 0
	told, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return r, fmt.Errorf("running storm: %w", err)
	}
	if err != nil {
		return r, fmt.Errorf("storm says that a promise was broken: %w\n%s", err, told)
	}
	encoded, err := os.ReadFile(file)
	if err != nil {
		return r, fmt.Errorf("reading storm's report: %w", err)
	}
	if err := json.Unmarshal(encoded, &r); err != nil {
		return r, fmt.Errorf("reading storm's report: %w", err)
	}
	return r, nil
}

// table puts the calm beside the storm.
func table(calm, storm report) string {
	var text strings.Builder
	rows := tabwriter.NewWriter(&text, 0, 0, 4, ' ', tabwriter.AlignRight)
	fmt.Fprintln(rows, "\tcalm\tstorm\t")
	line := func(name string, show func(report) string) {
		fmt.Fprintf(rows, "  %s\t%s\t%s\t\n", name, show(calm), show(storm))
	}
	line("sync answered", func(r report) string { return strconv.Itoa(r.Sync.OK) })
	line("p99", func(r report) string { return inMilliseconds(r.Sync.Latency.P99) })
	line("sync refused at once, to come again", func(r report) string { return strconv.Itoa(r.Sync.Shed) })
	line("async acknowledged", func(r report) string { return strconv.Itoa(r.Async.Acked) })
	line("p99", func(r report) string { return inMilliseconds(r.Async.Latency.P99) })
	line("called back", func(r report) string { return strconv.Itoa(r.Async.Delivered) })
	line("p50", func(r report) string { return inMilliseconds(r.Async.ToCallback.P50) })
	line("p95", func(r report) string { return inMilliseconds(r.Async.ToCallback.P95) })
	line("p99", func(r report) string { return inMilliseconds(r.Async.ToCallback.P99) })
	line("lost", func(r report) string { return strconv.Itoa(r.lost()) })
	rows.Flush()
	return text.String() + "\n"
}

func inMilliseconds(ms float64) string {
	if ms >= 1000 {
		return fmt.Sprintf("%.1f s", ms/1000)
	}
	return fmt.Sprintf("%.1f ms", ms)
}
