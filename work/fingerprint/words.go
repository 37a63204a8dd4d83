package fingerprint

import (
	"cmp"
	"hash/fnv"
	"math/bits"
	"slices"
	"strings"
	"unicode"
)

// maxRankedWord keeps a result small: a longer word is data, so it is counted but not
// listed among the top words.
const maxRankedWord = 64 // bytes

// splitWords returns the runs of letters, marks and digits, in lower case.
func splitWords(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return !unicode.In(r, unicode.Letter, unicode.Mark, unicode.Digit)
	})
}

func topWords(words []string, most int) []WordCount {
	counts := make(map[string]int, len(words))
	for _, word := range words {
		if len(word) <= maxRankedWord {
			counts[word]++
		}
	}
	ranked := make([]WordCount, 0, len(counts))
	for word, count := range counts {
		ranked = append(ranked, WordCount{word, count})
	}
	slices.SortFunc(ranked, func(a, b WordCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Word, b.Word))
	})
	return ranked[:min(most, len(ranked))]
}

// simHash is Charikar's similarity hash over the words: every bit of the
// result is the majority vote of that bit in the words' FNV-1a hashes
// (M. Charikar, "Similarity estimation techniques from rounding algorithms",
// STOC 2002).
func simHash(words []string) uint64 {
	var votes [64]int
	for _, word := range words {
		hash := fnv.New64a()
		hash.Write([]byte(word))
		for sum := hash.Sum64(); sum != 0; sum &= sum - 1 {
			votes[bits.TrailingZeros64(sum)]++
		}
	}
	var result uint64
	for bit, ones := range votes {
		if 2*ones > len(words) {
			result |= 1 << bit
		}
	}
	return result
}
