package load

import (
	"io"
	"net"
	"testing"
	"time"
)

// A server that closes each connection after its answer, without a word, as many
// proxies do.
func TestIdleConnectionsThatWereClosedAreNoticed(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1024))
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			_ = conn.Close()
			closed <- struct{}{}
		}
	}()
	config := Defaults()
	config.Target, config.Timeout = "http://"+listener.Addr().String(), time.Minute
	client := newClient(config)
	for range 5 {
		if err := client.checkHealth(); err != nil {
			t.Fatal(err)
		}
		<-closed // and its end has come here, over loopback
	}
}

func TestConnectionsThatAreIdleAreKept(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	if isClosed(ours) {
		t.Error("what isn't a socket: got it closed")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if isClosed(client) {
		t.Error("an idle connection: got it closed")
	}
}
