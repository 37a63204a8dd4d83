package tracing

import (
	"iter"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// partial says that a collector took a batch without some of its spans.
type partial struct {
	rejected int
	why      string // in the collector's words
}

func (p *partial) Error() string {
	return "the collector rejected " + strconv.Itoa(p.rejected) + " spans: " + p.why
}

// partialOf reads a collector's answer to a batch that it took: empty, or an
// ExportTraceServiceResponse {partial_success = 1 {rejected_spans = 1, error_message =
// 2}}.
func partialOf(answer []byte) *partial {
	var found partial
	for outer := range fields(answer) {
		if outer.number != 1 {
			continue
		}
		for inner := range fields(outer.bytes) {
			switch inner.number {
			case 1:
				found.rejected = int(min(inner.varint, maxWaiting))
			case 2:
				found.why = shorten(string(inner.bytes))
			}
		}
	}
	if found.rejected == 0 {
		return nil
	}
	return &found
}

// field is a field of a message of protocol buffers.
type field struct {
	number protowire.Number
	varint uint64
	bytes  []byte
}

// fields yields the fields of a message, up to the first invalid field.
func fields(message []byte) iter.Seq[field] {
	return func(yield func(field) bool) {
		for len(message) > 0 {
			number, kind, n := protowire.ConsumeTag(message)
			if n < 0 {
				return
			}
			message = message[n:]
			found := field{number: number}
			switch kind {
			case protowire.VarintType:
				found.varint, n = protowire.ConsumeVarint(message)
			case protowire.BytesType:
				found.bytes, n = protowire.ConsumeBytes(message)
			default:
				n = protowire.ConsumeFieldValue(number, kind, message)
			}
			if n < 0 || !yield(found) {
				return
			}
			message = message[n:]
		}
	}
}
