package dbtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// NewPooler starts a PgBouncer in front of the server of the given URL, and returns
// the URL that leads through it. Mode is session, transaction or statement. The test
// is skipped where there is none, which `make test` says.
func NewPooler(t testing.TB, through, mode string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if errors.Is(err, exec.ErrNotFound) {
		program, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		t.Skip("there is no pgbouncer on this machine")
	}
	parsed, err := url.Parse(through)
	if err != nil {
		t.Fatal("not a URL")
	}
	host, port, _ := net.SplitHostPort(parsed.Host)
	password, _ := parsed.User.Password()
	own := freePort(t)
	settings := fmt.Sprintf(`
[databases]
* = host=%s port=%s user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = %s
default_pool_size = 60
max_client_conn = 200
`, host, port, parsed.User.Username(), password, own, mode)
	// Not the test's own folder, which the account that it runs as can't enter.
	folder, err := os.MkdirTemp("", "ringback-pgbouncer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	file := filepath.Join(folder, "pgbouncer.ini")
	if err := errors.Join(os.Chmod(folder, 0o755), os.WriteFile(file, []byte(settings), 0o644)); err != nil {
		t.Fatal(err)
	}
	args := []string{file}
	if os.Getuid() == 0 {
		args = []string{"-u", "postgres", file} // it doesn't run as root
	}
	run(t, exec.Command(program, args...), "127.0.0.1:"+own)
	parsed.Host = "127.0.0.1:" + own
	return parsed.String()
}

// run starts a program that listens, and ends it when the test does.
func run(t testing.TB, command *exec.Cmd, address string) {
	t.Helper()
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGQUIT)
		<-ended
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s ended:\n%s", command.Path, &out)
		case <-tick.C:
		}
	}
}
