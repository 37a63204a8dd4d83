package main

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"ringback/cmd/internal/load"
)

func TestTable(t *testing.T) {
	t.Parallel()
	calm := &load.Report{Sync: load.Endpoint{OK: 300}, Async: load.Async{Acked: 300, Delivered: 300, TimeToCallback: load.Quantiles{P50: 1.5, P99: 1500}}}
	storm := &load.Report{Sync: load.Endpoint{OK: 20, Shed: 80}, Async: load.Async{Acked: 100, Delivered: 98, Missing: 0}}
	if lost(calm) != 0 || lost(storm) != 2 {
		t.Errorf("got %d and %d lost, want 0 and 2", lost(calm), lost(storm))
	}
	got := strings.Join(strings.Fields(table(calm, storm)), " ")
	for _, want := range []string{"sync answered 300 20", "to come again 0 80", "called back 300 98 p50 1.5 ms 0.0 ms", "p99 1.5 s 0.0 ms lost 0 2"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
}

func TestAddressInUseSaysWhatToDo(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := checkFree("127.0.0.1:0", "none", taken.Addr().String()); err == nil || !strings.Contains(err.Error(), "another ringback may be running") {
		t.Errorf("got %v, want an error that says what to do about the address in use", err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		environ map[string]string
		args    []string
		address string // empty for any free address
		wrong   string
	}{
		"a database is needed":       {nil, nil, "", "DATABASE_URL is not set"},
		"the usual address":          {map[string]string{"DATABASE_URL": "x"}, nil, "127.0.0.1:8080", ""},
		"a given address":            {map[string]string{"DATABASE_URL": "x", "HTTP_ADDR": "127.0.0.1:1"}, nil, "127.0.0.1:1", ""},
		"fast, at any free address":  {map[string]string{"DATABASE_URL": "x", "DEMO": "fast"}, nil, "", ""},
		"an unknown flag is refused": {map[string]string{"DATABASE_URL": "x"}, []string{"-slow"}, "", "not defined"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, err := readOptions(test.args, func(name string) string { return test.environ[name] }, &bytes.Buffer{})
			if test.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), test.wrong) {
					t.Errorf("got %v, want %q", err, test.wrong)
				}
				return
			}
			if err != nil || test.address != "" && o.address != test.address || test.address == "" && strings.HasSuffix(o.address, ":8080") {
				t.Errorf("got %+v, %v, want the address %q", o, err, test.address)
			}
		})
	}
}
