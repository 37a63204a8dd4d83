package api

import (
	"container/list"
	"runtime/debug"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"ringback/jobs/limit"
)

// maxBudget is the most that the bodies of all calls may take, and their answers.
const maxBudget = 64 << 20 // bytes

// memoryBudget is an eighth of GOMEMLIMIT, where that is set. While a body is decoded and stored,
// it exists about four times. So does an answer until it is encoded.
func memoryBudget() int64 { return min(maxBudget, debug.SetMemoryLimit(-1)/8) }

// answerBudget bounds the memory of the answers that are being written: callers
// that send calls and read nothing could otherwise take all memory. An answer is never
// refused, since the call has been done. Where it finds no room, the client that holds the
// most loses its oldest answer, which is the least likely to be read.
type answerBudget struct {
	limit int64

	mu    sync.Mutex
	bytes limit.Slots           // which any client may have all of
	held  map[string]*list.List // of *heldAnswer, oldest first, by client
	lost  int64                 // answers
}

type heldAnswer struct {
	client string
	length int
	cut    func()        // ends the writing
	at     *list.Element // nil when it isn't held any more
}

// smallAnswer costs no more than its connection does, and isn't counted.
const smallAnswer = 4 << 10

func newAnswerBudget(bytes int64) *answerBudget {
	return &answerBudget{limit: bytes, bytes: limit.NewSlots(int(bytes), false), held: map[string]*list.List{}}
}

// reserve takes an answer's length until release. Until then cut may be called,
// which must not block.
func (b *answerBudget) reserve(client string, length int, cut func()) (release func()) {
	if length <= smallAnswer {
		return func() {}
	}
	answer := &heldAnswer{client: client, length: int(min(int64(length), b.limit)), cut: cut}
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.bytes.Take(client, answer.length) {
		oldest := b.held[b.bytes.Greatest()].Front().Value.(*heldAnswer)
		b.remove(oldest)
		oldest.cut()
		b.lost++
	}
	if b.held[client] == nil {
		b.held[client] = list.New()
	}
	answer.at = b.held[client].PushBack(answer)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.remove(answer)
	}
}

func (b *answerBudget) remove(answer *heldAnswer) {
	if answer.at == nil {
		return
	}
	b.bytes.Release(answer.client, answer.length)
	b.held[answer.client].Remove(answer.at)
	if answer.at = nil; b.held[answer.client].Len() == 0 {
		delete(b.held, answer.client)
	}
}

// counts returns how many bytes are taken and how many answers were lost.
func (b *answerBudget) counts() (taken int, lost int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes.Taken(), b.lost
}

// watchAnswers measures the memory of answers.
func watchAnswers(registerer prometheus.Registerer, b *answerBudget) {
	auto := promauto.With(registerer)
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "ringback_answer_bytes", Help: "Bytes of the larger answers that are being written."},
		func() float64 { taken, _ := b.counts(); return float64(taken) })
	auto.NewCounterFunc(prometheus.CounterOpts{
		Name: "ringback_answers_cut_total", Help: "Answers that were cut short, since the answers being written took too much memory.",
	}, func() float64 { _, lost := b.counts(); return float64(lost) })
}
