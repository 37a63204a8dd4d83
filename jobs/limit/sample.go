package limit

// Sample counts items that would cost too much to count at each call. The count is the latest
// sample and the items added since. An item added while a sample is taken may be in the sample.
// It counts twice until the next, which is better than not at all.
type Sample[K comparable] struct {
	sampled map[K]int64
	before  map[K]int64 // added before the sample under way began; that sample may have counted it, too
	added   map[K]int64 // added since that sample began
}

// Of is the count of a key.
func (s *Sample[K]) Of(key K) int64 { return s.sampled[key] + s.before[key] + s.added[key] }

// Add counts n more of a key, or fewer.
func (s *Sample[K]) Add(key K, n int64) {
	if s.added == nil {
		s.added = map[K]int64{}
	}
	if s.added[key] += n; s.added[key] == 0 {
		delete(s.added, key)
	}
}

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
