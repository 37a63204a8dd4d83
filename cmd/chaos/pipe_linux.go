package main

import (
	"os"
	"syscall"
)

// shrink lets a pipe hold a page, so that it is soon full.
func shrink(pipe *os.File) {
	const setPipeSize = 1031 // F_SETPIPE_SZ, which syscall doesn't name
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, pipe.Fd(), setPipeSize, uintptr(os.Getpagesize()))
}
