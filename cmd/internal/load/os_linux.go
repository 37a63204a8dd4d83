package load

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// leastSleep bounds how often the dispatcher wakes up at high rates, so that it hands over
// several requests at a time. At 10,000/s, 800 µs cost a third less CPU a request than
// 200 µs, and delay a request by 0.4 ms in the mean. Below 1,250/s it has no effect.
const leastSleep = 800 * time.Microsecond

// pacer sleeps exactly. On an idle Linux, Go's own timers are up to a millisecond late, since
// epoll counts in milliseconds, and latencies would include that. A timer file is as exact
// as the kernel, and waits in the same epoll.
type pacer struct {
	timer *os.File
	fd    int // of the timer
	stop  func() bool
}

// newPacer returns a pacer whose sleep ends early when ctx is done. It fails where the
// kernel refuses a timer.
func newPacer(ctx context.Context) (*pacer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating a timer: %w", err)
	}
	timer := os.NewFile(uintptr(fd), "timer")
	stop := context.AfterFunc(ctx, func() { _ = timer.SetReadDeadline(time.Unix(1, 0)) })
	return &pacer{timer, fd, stop}, nil
}

func (p *pacer) close() {
	p.stop()
	p.timer.Close()
}

// sleep returns false when ctx is done.
func (p *pacer) sleep(duration time.Duration) bool {
	value := unix.NsecToTimespec(max(duration, leastSleep).Nanoseconds())
	if unix.TimerfdSettime(p.fd, 0, &unix.ItimerSpec{Value: value}, nil) != nil {
		return false
	}
	_, err := p.timer.Read(make([]byte, 8)) // how often the timer has expired
	return err == nil
}

// maxrssPerMiB is a mebibyte in the unit of Rusage.Maxrss, which is a kibibyte on Linux.
const maxrssPerMiB = 1 << 10
