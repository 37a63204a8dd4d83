package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// A caller who gives callback URLs must not learn from their outcomes which names exist,
// which addresses the service may call and where something listens.
func TestFailedCallbacksTellNothing(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), map[string]string{"CALLBACK_DNS": nameServer(t)}, fingerprint.Do)
	closed, resets := listen(t), listen(t)
	closed.Close()
	go func() {
		for {
			conn, err := resets.Accept()
			if err != nil {
				return
			}
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	}()
	told := map[string]map[string]any{}
	for what, callback := range map[string]string{
		"refused":    "http://" + closed.Addr().String() + "/",
		"reset":      "http://" + resets.Addr().String() + "/",
		"blocked":    "http://private.example.com/",
		"mixed":      "http://mixed.example.com/",
		"unresolved": "http://nowhere.example.com/",
		"silent":     "http://silent.example.com/",
	} {
		id := p.accept(t, `{"text":"x"}`, callback)
		p.waitFor(t, id, "a failed attempt of "+what, func(r request) bool { return len(r.Attempts) > 0 })
		told[what] = p.afterFirstAttempt(t, id)
	}
	for what, got := range told {
		if diff := cmp.Diff(told["refused"], got); diff != "" {
			t.Errorf("%s differs from refused:\n%s", what, diff)
		}
	}
	if attempts := told["refused"]["attempts"].([]any); len(attempts) != 1 || attempts[0].(map[string]any)["outcome"] != "connection_failed" {
		t.Errorf("refused: got the attempts %v, want one connection_failed", attempts)
	}
}

// afterFirstAttempt returns the answer of GET /requests/{id} about the first attempt,
// while the callback waits for its next, without id, URL and times.
func (p *program) afterFirstAttempt(t *testing.T, id string) (told map[string]any) {
	t.Helper()
	var body []byte
	until(t, func() bool {
		response, err := http.Get(p.url + "/requests/" + id)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		told = nil
		if body, err = io.ReadAll(response.Body); err == nil {
			err = json.Unmarshal(body, &told)
		}
		if err != nil {
			t.Fatalf("GET /requests/%s: got %q, %v", id, body, err)
		}
		return told["callback_waits_for"] == "retry"
	}, func() string { return "the callback to wait for its retry, got " + string(body) })
	if strings.Contains(string(body), "not allowed") || strings.Contains(string(body), "10.0.0.1") {
		t.Errorf("GET /requests/%s tells why: %s", id, body)
	}
	told["attempts"] = told["attempts"].([]any)[:1] // another may have begun
	told["timeline"] = told["timeline"].([]any)[:4] // accepted, started, ended, called
	delete(told, "id")
	delete(told, "callback_url")
	withoutTimes(told)
	return told
}

// withoutTimes removes every member called at or ending in _at.
func withoutTimes(value any) {
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			if name == "at" || strings.HasSuffix(name, "_at") {
				delete(value, name)
			}
			withoutTimes(member)
		}
	case []any:
		for _, member := range value {
			withoutTimes(member)
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// nameServer starts a DNS server and returns its address.
func nameServer(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		packet := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			var message dnsmessage.Message
			if message.Unpack(packet[:n]) == nil && len(message.Questions) == 1 && answerName(&message) {
				if answer, err := message.Pack(); err == nil {
					_, _ = conn.WriteTo(answer, from)
				}
			}
		}
	}()
	return conn.LocalAddr().String()
}

// answerName makes a question its answer. It reports false where there is none.
func answerName(message *dnsmessage.Message) bool {
	question := message.Questions[0]
	addresses := map[string][][4]byte{
		"private.example.com.": {{10, 0, 0, 1}},
		"mixed.example.com.":   {{8, 8, 8, 8}, {10, 0, 0, 1}},
	}[question.Name.String()]
	message.Header = dnsmessage.Header{ID: message.ID, Response: true}
	message.Additionals = nil
	if addresses == nil {
		message.RCode = dnsmessage.RCodeNameError
	}
	if question.Type == dnsmessage.TypeA {
		for _, address := range addresses {
			message.Answers = append(message.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.AResource{A: address},
			})
		}
	}
	return question.Name.String() != "silent.example.com."
}
