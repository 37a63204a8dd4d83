package main

import (
	_ "embed" // for the page and its inlined files
	"fmt"
	"html/template"
	"io"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/uplot"
)

//go:embed page.html
var pageHTML string

// page fills page.html.
type page struct {
	Report            *load.Report
	Verdict           string
	Broken            bool
	Tiles             []tile
	Tables            []table
	Notes             []string
	Data              map[string]any // the columns of the charts
	UPlotJS, UPlotCSS any
}

// tile is a figure at the top of the page.
type tile struct{ Name, Value string }

// writeHTML writes a page that needs no other file and no network.
func writeHTML(w io.Writer, f *load.Findings) error {
	parsed, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return fmt.Errorf("parsing the page: %w", err)
	}
	return parsed.Execute(w, page{
		Report:   &f.Report,
		Verdict:  f.Verdict(),
		Broken:   exitStatus(&f.Report) != exitOK,
		Tiles:    tiles(&f.Report),
		Tables:   tables(&f.Report),
		Notes:    notes(&f.Report),
		Data:     map[string]any{"timeline": f.Timeline(), "distribution": f.Distribution()},
		UPlotJS:  template.JS(uplot.JS),
		UPlotCSS: template.CSS(uplot.CSS),
	})
}

func tiles(r *load.Report) []tile {
	tiles := []tile{
		{"requests/s offered", fmt.Sprintf("%.0f", r.OfferedRate)},
		{"requests/s sent", fmt.Sprintf("%.0f", r.AchievedRate)},
		{"ok or delivered/s", fmt.Sprintf("%.0f", r.Goodput.Sync+r.Goodput.Async)},
		{"shed", fmt.Sprint(r.Sync.Shed + r.Async.Shed)},
	}
	add := func(name string, of load.Quantiles, value float64) {
		if of.Count > 0 {
			tiles = append(tiles, tile{name, fmt.Sprintf("%.1f ms", value)})
		}
	}
	add("sync p99", r.Sync.Latency, r.Sync.Latency.P99)
	add("acknowledged p99", r.Async.Latency, r.Async.Latency.P99)
	add("called back p50", r.Async.TimeToCallback, r.Async.TimeToCallback.P50)
	add("called back p99", r.Async.TimeToCallback, r.Async.TimeToCallback.P99)
	if r.Async.Acked > 0 {
		tiles = append(tiles, tile{"delivered", fmt.Sprint(r.Async.Delivered)}, tile{"missing", fmt.Sprint(r.Async.Missing)})
	}
	return tiles
}
