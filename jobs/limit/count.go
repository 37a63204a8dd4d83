package limit

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Count counts refusals, each once, by the Reason of its Decision, which is the only
// label.
type Count map[Reason]prometheus.Counter

// NewCount registers the counter of each reason, so that it is there from the start.
// It registers nothing where there is no registerer.
func NewCount(registerer prometheus.Registerer, name, help string, reasons ...Reason) Count {
	count := Count{}
	for _, reason := range reasons {
		count[reason] = promauto.With(registerer).NewCounter(prometheus.CounterOpts{
			Name: name, Help: help, ConstLabels: prometheus.Labels{"reason": string(reason)},
		})
	}
	return count
}

// Add counts n refusals for a reason, and no refusal for the empty reason.
func (c Count) Add(reason Reason, n int) {
	if reason != "" {
		c[reason].Add(float64(n))
	}
}
