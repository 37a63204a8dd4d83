package main

import (
	"fmt"
	"time"
)

// grownSizes are numbers of finished requests in the table, the least first, with their names
// in keys.
var grownSizes = []struct {
	name string
	rows int
}{{"10k", 10_000}, {"1m", 1_000_000}, {"10m", 10_000_000}}

// growth asks whether a table full of finished requests slows the service down. Each
// measurement gets a copy of the smallest database, since it adds more than that holds.
func growth(s *measurement) {
	grown := make([]database, len(grownSizes))
	for i, size := range grownSizes {
		start := time.Now()
		grown[i] = s.database("grown", "")
		s.fill(grown[i], size.rows)
		s.add("fill_s_"+size.name, time.Since(start).Seconds())
	}
	rounds(func(s *measurement) {
		rates := make([]float64, len(grown))
		for i, d := range grown {
			s.scene(fmt.Sprintf("with %d requests in the table", grownSizes[i].rows), func(s *measurement) {
				if i == 0 {
					d = s.database("copy", d.Name)
				}
				s.checkpoint()
				rates[i] = s.saturate(s.ours(), d, 0).rate()
				s.add("e2e_per_s_grown_"+grownSizes[i].name, rates[i])
				s.add("ttc_p99_ms_grown_"+grownSizes[i].name, s.timeToCallback(s.start(s.ours(), d), rates[0]/2).P99)
			})
		}
		s.add("grown_ratio", rates[len(rates)-1]/rates[0])
	})(s)
}

// fill lets the service make a request, which grow copies.
func (s *measurement) fill(d database, rows int) {
	s.scene("filling the table", func(s *measurement) {
		s.send(s.loop(s.start(s.ours(), d), 1, 1, 0))
	})
	s.Must(grow(s.Ctx, d, rows))
	s.checkpoint()
}

// retention asks whether removing old requests slows the service down. All requests in the
// table are too old at first, and are removed as fast as possible.
func retention(s *measurement) {
	const tooOld = 300_000
	template := s.database("swept", "")
	s.fill(template, tooOld)
	rounds(func(s *measurement) {
		var rates [2]float64
		for i, setting := range []string{"RETENTION=0", "RETENTION=1m"} {
			s.scene("with "+setting, func(s *measurement) {
				rates[i] = s.saturate(s.ours(), s.database("copy", template.Name), 0, setting).rate()
			})
		}
		s.add("retention_ratio", rates[1]/rates[0])
	})(s)
}
