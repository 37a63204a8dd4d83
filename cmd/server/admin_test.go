package main

import "testing"

func TestIsLocal(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"localhost", "localhost:8080", "LOCALHOST", "LocalHost:80", "localhost.", "127.0.0.1", "127.1.2.3:8081", "[::1]", "[::1]:8081", "::1"} {
		if !isLocal(host) {
			t.Errorf("%s: got it refused", host)
		}
	}
	for _, host := range []string{"", "example.com", "localhost.example.com", "localhost:1:2", "10.0.0.1", "[::2]:80", "127.0.0.1.example.com", "0.0.0.0", "[localhost", "notlocalhost"} {
		if isLocal(host) {
			t.Errorf("%q: got it taken for this machine", host)
		}
	}
}
