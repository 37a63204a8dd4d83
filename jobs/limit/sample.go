package limit

// Sample counts items that would cost too much to count at each call. The count is the latest
// sample, the items written since, and the items whose commit is under way. An item that is
// written while a sample is taken may be in the sample. It counts twice until the next, which
// is better than not at all.
type Sample[K comparable] struct {
	sampled map[K]int64
	before  map[K]int64 // written before the sample under way began; that sample may have counted it, too
	added   map[K]int64 // written since that sample began
	writing map[K]int64 // under way: no sample sees it before its commit
}

// Of is the count of a key.
func (s *Sample[K]) Of(key K) int64 {
	return s.sampled[key] + s.before[key] + s.added[key] + s.writing[key]
}

// Write counts n more of a key, whose commit is under way. Wrote must follow.
func (s *Sample[K]) Write(key K, n int64) { s.writing = plus(s.writing, key, n) }

// Wrote ends Write. Items that were not written don't count any more.
func (s *Sample[K]) Wrote(key K, n int64, written bool) {
	s.Write(key, -n)
	if written {
		s.Add(key, n)
	}
}

// Add counts n more of a key that are written, or fewer.
func (s *Sample[K]) Add(key K, n int64) { s.added = plus(s.added, key, n) }

// Begin comes before the counting of a sample.
func (s *Sample[K]) Begin() {
	for key, n := range s.before { // of a sample that failed
		s.Add(key, n)
	}
	s.before, s.added = s.added, nil
}

// End takes the counts of the sample that has begun. Without it, as after a
// failure, the last sample stands.
func (s *Sample[K]) End(counts map[K]int64) { s.sampled, s.before = counts, nil }

// plus adds n to the count of a key. A count of zero takes no memory.
func plus[K comparable](counts map[K]int64, key K, n int64) map[K]int64 {
	if counts == nil {
		counts = map[K]int64{}
	}
	if counts[key] += n; counts[key] == 0 {
		delete(counts, key)
	}
	return counts
}
