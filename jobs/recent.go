package jobs

import (
	"sync"

	"github.com/riverqueue/river/rivertype"

	"ringback/db"
)

// recent holds requests that this process has just committed, by the id of the
// job that takes each up next. That is mostly this process, a moment later,
// which then needn't read back what it wrote. What another process wrote, or what
// is forgotten, is loaded; and always where a job runs again, since an earlier
// run may have done its step.
type recent struct {
	mu         sync.Mutex
	young, old map[int64]db.Request // two generations: the old one is forgotten when the young one is full
	bytes      int                  // that were put into young
}

// recentBytes bounds a generation: some ten thousand requests of the usual size.
const recentBytes = 8 << 20

// putAll keeps each request for the job that jobID names.
func (r *recent) putAll(requests []db.Request, jobID func(db.Request) int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, request := range requests {
		r.put(jobID(request), request)
	}
}

func (r *recent) put(jobID int64, request db.Request) {
	size := sizeOf(request)
	if r.young == nil || r.bytes+size > recentBytes {
		r.young, r.old, r.bytes = map[int64]db.Request{}, r.young, 0
	}
	r.young[jobID] = request
	r.bytes += size
}

// take returns the request that was put for a job, once, if the job was never
// taken up before, by whichever process.
func (r *recent) take(job *rivertype.JobRow) (db.Request, bool) {
	if ranBefore(job) {
		return db.Request{}, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, generation := range []map[int64]db.Request{r.young, r.old} {
		if request, ok := generation[job.ID]; ok {
			delete(generation, job.ID)
			return request, true
		}
	}
	return db.Request{}, false
}

// ranBefore tells whether a job was taken up before, by whichever process.
func ranBefore(job *rivertype.JobRow) bool { return len(job.AttemptedBy) > 1 }
