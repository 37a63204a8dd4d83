package api

import (
	"container/list"
	"runtime/debug"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// maxBudget is the most that the bodies of all calls may take, and their answers.
const maxBudget = 64 << 20 // bytes

// memoryBudget is an eighth of GOMEMLIMIT, where that is set: while a body is
// decoded and stored, it exists about four times, and so does an answer until it
// is encoded.
func memoryBudget() int64 { return min(maxBudget, debug.SetMemoryLimit(-1)/8) }

// answerBudget bounds the memory of the answers that are being written: callers
// that send calls and read nothing could otherwise take all there is. An answer is
// never refused, since what it tells has been done. Where it finds no room, the
// client that holds the most loses its oldest answer, which is the least likely to
// be read.
type answerBudget struct {
	limit int64

	mu    sync.Mutex
	taken int64
	lost  int64 // answers
	of    map[string]*heldAnswers
}

// heldAnswers are those of one client.
type heldAnswers struct {
	taken   int64
	answers *list.List // of *heldAnswer, oldest first
}

type heldAnswer struct {
	client string
	length int64
	cut    func()        // ends the writing
	at     *list.Element // nil when it isn't held any more
}

// smallAnswer costs no more than its connection does, and isn't counted.
const smallAnswer = 4 << 10

func newAnswerBudget(limit int64) *answerBudget {
	return &answerBudget{limit: limit, of: map[string]*heldAnswers{}}
}

// reserve takes an answer's length until release. Until then cut may be called,
// which must not block.
func (b *answerBudget) reserve(client string, length int, cut func()) (release func()) {
	if length <= smallAnswer {
		return func() {}
	}
	answer := &heldAnswer{client: client, length: min(int64(length), b.limit), cut: cut}
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.taken+answer.length > b.limit {
		oldest := b.greatest().answers.Front().Value.(*heldAnswer)
		b.remove(oldest)
		oldest.cut()
		b.lost++
	}
	b.add(answer)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.remove(answer)
	}
}

// greatest are the answers of the client whose answers take the most.
func (b *answerBudget) greatest() *heldAnswers {
	greatest := &heldAnswers{}
	for _, held := range b.of {
		if held.taken > greatest.taken {
			greatest = held
		}
	}
	return greatest
}

func (b *answerBudget) add(answer *heldAnswer) {
	held := b.of[answer.client]
	if held == nil {
		held = &heldAnswers{answers: list.New()}
		b.of[answer.client] = held
	}
	b.taken += answer.length
	held.taken += answer.length
	answer.at = held.answers.PushBack(answer)
}

func (b *answerBudget) remove(answer *heldAnswer) {
	if answer.at == nil {
		return
	}
	held := b.of[answer.client]
	held.answers.Remove(answer.at)
	answer.at = nil
	b.taken -= answer.length
	if held.taken -= answer.length; held.taken == 0 {
		delete(b.of, answer.client)
	}
}

// counts returns how many bytes are taken and how many answers were lost.
func (b *answerBudget) counts() (taken, lost int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken, b.lost
}

// watchAnswers tells what answers take.
func watchAnswers(registerer prometheus.Registerer, b *answerBudget) {
	auto := promauto.With(registerer)
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringback_answer_bytes", Help: "Bytes of the larger answers that are being written."},
		func() float64 { taken, _ := b.counts(); return float64(taken) })
	auto.NewCounterFunc(prometheus.CounterOpts{
		Name: "ringback_answers_cut_total", Help: "Answers that were cut short, since all that are being written took too much memory.",
	}, func() float64 { _, lost := b.counts(); return float64(lost) })
}
