package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// logReader reads the servers' logs through a pipe, unless it is stopped.
type logReader struct {
	file    string // where it goes, or empty
	gate    sync.Mutex
	stopped atomic.Bool
}

// errStopped is a reader that is stopped already.
var errStopped = errors.New("nobody reads that log already")

// stop lets nobody read for a while.
func (r *logReader) stop(ctx context.Context, length time.Duration) error {
	if !r.stopped.CompareAndSwap(false, true) {
		return errStopped
	}
	defer r.stopped.Store(false)
	r.gate.Lock()
	defer r.gate.Unlock()
	wait(ctx, length)
	return nil
}

// open returns a process's log file. The caller closes it once the process has its own;
// open's reader reads until the process closes it, too.
func (r *logReader) open() (*os.File, error) {
	out := io.WriteCloser(discard{io.Discard})
	if r.file != "" {
		file, err := os.OpenFile(r.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("opening log: %w", err)
		}
		out = file
	}
	from, to, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening a pipe for a log: %w", err), out.Close())
	}
	shrink(to)
	go r.read(from, out)
	return to, nil
}

type discard struct{ io.Writer }

func (discard) Close() error { return nil }

func (r *logReader) read(from *os.File, to io.WriteCloser) {
	defer to.Close()
	defer from.Close()
	piece := make([]byte, 4<<10)
	for {
		n, err := from.Read(piece)
		if err != nil {
			return
		}
		r.gate.Lock()
		_, _ = to.Write(piece[:n]) // a log that can't be kept is none of the service's
		r.gate.Unlock()
	}
}

// newLogReaders returns a reader for each of count servers, which writes to a file in
// folder, or nowhere.
func newLogReaders(folder string, count int) []*logReader {
	readers := make([]*logReader, count)
	for i := range readers {
		readers[i] = &logReader{}
		if folder != "" {
			readers[i].file = filepath.Join(folder, fmt.Sprintf("server-%d.log", i))
		}
	}
	return readers
}
