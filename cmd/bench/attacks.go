package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/program"
	"ringback/cmd/internal/receivers"
	"ringback/cmd/internal/sample"
)

// attack is how a client, within its default quotas, harms another client. mount begins the
// attack, which goes on until ctx ends. There is no attack by connections: connections from
// loopback count as a proxy's, and don't share.
type attack struct {
	name  string // in keys
	mount func(ctx context.Context, a *attacker)
}

// asyncBody is a small request.
func asyncBody(callbackURL string) json.RawMessage {
	return fmt.Appendf(nil, `{"input":%s,"callback_url":%q}`, sample.InputJSON(strings.Repeat("ringback", 8), 0, 0), callbackURL)
}

// Rates of the quotas that a client has by default.
const (
	defaultPosts = 50
	defaultReads = 100
)

func attacks() []attack {
	return []attack{
		{"workers", func(ctx context.Context, a *attacker) { // callbacks that take long
			a.each(ctx, defaultPosts, func(n int) { a.post("/async", asyncBody(a.own[n%len(a.own)]+"/slow")) })
		}},
		{"closing", closeBy("/later/1")}, // again and again
		{"closing_day", closeBy("/later/86400")},
		{"failing", closeBy("/broken")},
		{"slow_path", closeBy("/slow")},
		{"redeliveries", func(ctx context.Context, a *attacker) {
			a.each(ctx, defaultPosts, func(n int) {
				if n%10 != 0 {
					a.post("/async", asyncBody(a.own[0]+"/gone"))
				} else {
					a.post("/redeliveries", json.RawMessage(`{"rate":100}`))
				}
			})
		}},
		{"dry_runs", func(ctx context.Context, a *attacker) { // of redeliveries, over hundreds of dead letters
			a.each(ctx, defaultPosts, func(n int) {
				if n < 500 {
					a.post("/async", asyncBody(a.own[0]+"/gone"))
				} else {
					a.post("/redeliveries", json.RawMessage(`{"dry_run":true}`))
				}
			})
		}},
		{"bodies", func(ctx context.Context, a *attacker) { // as large as counts as one POST
			body := fmt.Appendf(nil, `{"input":%s,"callback_url":%q}`, sample.InputJSON(strings.Repeat("ringback", 8<<10-32), 0, 0), a.own[0]+"/")
			a.each(ctx, defaultPosts, func(int) { a.post("/async", body) })
		}},
		{"strangers", func(ctx context.Context, a *attacker) { // ever new addresses, where nothing listens
			a.each(ctx, defaultPosts, func(n int) {
				a.post("/async", asyncBody(fmt.Sprintf("http://127.1.%d.%d:9/", n/250%250, 1+n%250)))
			})
		}},
		{"reads", func(ctx context.Context, a *attacker) {
			a.each(ctx, defaultReads, func(int) {
				a.call(http.MethodGet, "/requests?limit=100&status=failed&callback=delivered", "", nil)
			})
		}},
		{"waits", func(ctx context.Context, a *attacker) {
			var later struct{ ID string }
			_ = json.Unmarshal(a.post("/async", a.postponed()), &later)
			a.each(ctx, defaultReads, func(int) { a.call(http.MethodGet, "/requests/"+later.ID, "wait=60", nil) })
		}},
		{"answers", func(ctx context.Context, a *attacker) { // that aren't read
			for range 100 { // so that answers are as long as they get
				a.post("/async", a.postponed())
			}
			for range 200 {
				go a.pipeline(ctx, "GET /requests?limit=100 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+a.key+"\r\n\r\n")
			}
		}},
	}
}

// closeBy attacks by callbacks to the attacked client's receiver, which answers as the path
// says.
func closeBy(path string) func(ctx context.Context, a *attacker) {
	return func(ctx context.Context, a *attacker) {
		a.each(ctx, defaultPosts, func(int) { a.post("/async", asyncBody(a.victim+path)) })
	}
}

const (
	attackedRate = 100 // requests a second of the client that is attacked

	// Of so few workers, an attacker holds its share of four fifths before the measured
	// time, or half of that while its receivers are strangers. With the default of 1,000
	// workers, its rate is too low for that.
	attackWorkers = 100
	slowReceivers = attackWorkers
	slowness      = 8 * time.Second // nearly as long as an attempt may take
)

// underAttack asks how much longer one client waits for its answers and its callbacks
// while another client attacks it, for each known attack.
func underAttack(s *measurement) {
	alone := s.besideAttack(attack{"nobody", func(context.Context, *attacker) {}})
	var worst waits
	for _, attack := range attacks() {
		beside := s.besideAttack(attack)
		beside = waits{beside.answer / alone.answer, beside.callback / alone.callback}
		s.add("attack_ack_ratio_"+attack.name, beside.answer)
		s.add("attack_ttc_ratio_"+attack.name, beside.callback)
		worst = waits{max(worst.answer, beside.answer), max(worst.callback, beside.callback)}
	}
	s.add("attack_ack_ratio", worst.answer)
	s.add("attack_ttc_ratio", worst.callback)
}

// waits are 99th percentiles, in milliseconds, or ratios of them.
type waits struct{ answer, callback float64 }

func (s *measurement) besideAttack(attack attack) (told waits) {
	s.scene("beside "+attack.name, func(s *measurement) {
		d := s.database("attack", "")
		keys := s.addClients(d, "attacked", "attacker")
		on := s.start(s.strict(), d, "PLAIN_SECRETS=true",
			"CALLBACK_ALLOW_CIDRS=127.0.0.0/8", "CALLBACK_PORTS=80", // which allows http, on any allowed address
			fmt.Sprintf("WORKERS=%d", attackWorkers))
		config := s.atRate(on, attackedRate)
		config.APIKey, config.Secret, config.Unknown = keys[0], "", answerByPath
		running := s.launch(config)
		a := s.newAttacker(on, keys[1], running.ReceiverURL(receivers.OK))
		ctx, stop := context.WithCancel(s.Ctx)
		defer stop()
		attack.mount(ctx, a)
		var held atomic.Int64
		look := time.AfterFunc(config.Warmup, func() { held.Store(a.slow.Load()) })
		defer look.Stop()
		report := s.wait(running)
		told = waits{
			s.sampled("acknowledgement", report.Async.Latency).P99, s.sampled("time to a callback", report.Async.TimeToCallback).P99,
		}
		s.say("  beside %s: acknowledged p99 %.2f ms, called back p99 %.2f ms; it held %d of %d workers as measuring began",
			attack.name, told.answer, told.callback, held.Load(), attackWorkers)
	})
	return told
}

// answerByPath answers callbacks of the attacker as their path says.
func answerByPath(came *receivers.Callback) {
	path := string(came.Path())
	switch later, isLater := strings.CutPrefix(path, "/later/"); {
	case isLater:
		came.Response.Header.Set("Retry-After", later)
		came.SetStatusCode(http.StatusTooManyRequests)
	case path == "/slow":
		load.Pause(context.Background(), slowness)
		came.SetStatusCode(http.StatusGone)
	default:
		came.SetStatusCode(http.StatusInternalServerError)
	}
}

// addClients makes clients, of which the first may send more than attackedRate.
func (s *measurement) addClients(d database, names ...string) (keys []string) {
	s.ringback(d, "migrate")
	for _, name := range names {
		var made struct{ Key string }
		s.Must(json.Unmarshal(s.ringback(d, "client", "add", name, "--json"), &made))
		keys = append(keys, made.Key)
	}
	s.ringback(d, "client", "set", names[0], "--rate", strconv.Itoa(2*attackedRate))
	return keys
}

// attacker is the client that attacks.
type attacker struct {
	url, key string
	victim   string       // the attacked client's receiver
	own      []string     // the attacker's receivers
	slow     atomic.Int64 // callbacks that its receivers hold
	client   *http.Client
}

// newAttacker starts the attacker's receivers: they are slow at the path /slow, and answer 410
// at any other.
func (s *measurement) newAttacker(on *server, key, victim string) *attacker {
	a := &attacker{url: on.URL, key: key, victim: victim, client: &http.Client{
		Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}}
	ctx, stop := context.WithCancel(s.Ctx)
	s.AtEnd(func() error { stop(); return nil })
	book := receivers.Book{
		Came: func(came *receivers.Callback) (int, bool) { return 0, string(came.Path()) == "/slow" },
		Answer: func(_ *receivers.Callback, status int) int {
			a.slow.Add(1)
			defer a.slow.Add(-1)
			load.Pause(ctx, slowness)
			return status
		},
	}
	for range slowReceivers {
		own, err := receivers.Start(receivers.OK, book)
		s.Must(err)
		s.AtEnd(func() error { own.Close(); return nil })
		a.own = append(a.own, own.URL)
	}
	return a
}

// postponed asks for work in an hour.
func (a *attacker) postponed() json.RawMessage {
	return fmt.Appendf(nil, `{"input":%s,"delay":3600,"callback_url":%q}`, sample.InputJSON("x", 0, 0), a.own[0])
}

// each calls do perSecond times a second, until ctx ends.
func (a *attacker) each(ctx context.Context, perSecond int, do func(n int)) {
	go func() {
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			<-tick.C
			go do(n)
		}
	}()
}

func (a *attacker) post(path string, body json.RawMessage) (answer []byte) {
	return a.call(http.MethodPost, path, "", body)
}

// call returns an answer, empty where there is none.
func (a *attacker) call(method, path, prefer string, body any) (answer []byte) {
	_, answer, _ = program.Call(context.Background(), a.client, method, a.url+path, body, "Authorization", "Bearer "+a.key, "Prefer", prefer)
	return answer
}

// pipeline opens one connection after the other and sends calls, and reads no answer.
func (a *attacker) pipeline(ctx context.Context, calls string) {
	for ctx.Err() == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(a.url, "http://"))
		if err == nil {
			_, _ = io.WriteString(conn, strings.Repeat(calls, 20))
			load.Pause(ctx, 5*time.Second)
			conn.Close()
		}
		load.Pause(ctx, 100*time.Millisecond)
	}
}
