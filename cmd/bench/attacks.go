package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ringback/cmd/internal/load"
	"ringback/cmd/internal/sample"
)

// attack is a client's attempt, within its default quotas, to take the service from
// another client. mount begins it, and it goes on until ctx ends. An attack by connections
// isn't among them: those from loopback are taken for a proxy's, which share nothing.
type attack struct {
	name  string // in keys
	mount func(ctx context.Context, m *attacker)
}

// Rates of the quotas that a client has by default.
const (
	defaultPosts = 50
	defaultReads = 100
)

func attacks() []attack {
	return []attack{
		{"workers", func(ctx context.Context, m *attacker) { // callbacks that take long
			m.each(ctx, defaultPosts, func(n int) { m.post("/async", asyncBody(m.own[n%len(m.own)]+"/slow")) })
		}},
		{"closing", closeBy("/later/1")}, // again and again
		{"closing_day", closeBy("/later/86400")},
		{"failing", closeBy("/broken")},
		{"redeliveries", func(ctx context.Context, m *attacker) {
			m.each(ctx, defaultPosts, func(n int) {
				if n%10 != 0 {
					m.post("/async", asyncBody(m.own[0]+"/gone"))
				} else {
					m.post("/redeliveries", []byte(`{"rate":100}`))
				}
			})
		}},
		{"strangers", func(ctx context.Context, m *attacker) { // ever new addresses where nobody listens
			m.each(ctx, defaultPosts, func(n int) {
				m.post("/async", asyncBody(fmt.Sprintf("http://127.1.%d.%d:9/", n/250%250, 1+n%250)))
			})
		}},
		{"reads", func(ctx context.Context, m *attacker) {
			m.each(ctx, defaultReads, func(int) { m.get("/requests?limit=100&status=failed&callback=delivered", "") })
		}},
		{"waits", func(ctx context.Context, m *attacker) {
			var later struct{ ID string }
			_ = json.Unmarshal(m.post("/async", m.postponed()), &later)
			m.each(ctx, defaultReads, func(int) { m.get("/requests/"+later.ID, "wait=60") })
		}},
		{"answers", func(ctx context.Context, m *attacker) { // that nobody reads
			for range 100 { // as long as they get
				m.post("/async", m.postponed())
			}
			for range 200 {
				go m.pipeline(ctx, "GET /requests?limit=100 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+m.key+"\r\n\r\n")
			}
		}},
	}
}

// closeBy lets the other's receiver answer the attacker's callbacks as a path says.
func closeBy(path string) func(ctx context.Context, m *attacker) {
	return func(ctx context.Context, m *attacker) {
		m.each(ctx, defaultPosts, func(int) { m.post("/async", asyncBody(m.victim+path)) })
	}
}

const (
	attackedRate = 100 // requests a second of the client that is attacked
	attackWarmup = 12 * time.Second

	// Of so few workers, an attacker holds its share of four fifths before the measured
	// time: with the default of 1,000, its rate doesn't suffice. While its receivers are
	// strangers it holds half of that.
	attackWorkers = 100
	slowReceivers = attackWorkers
	slowness      = 8 * time.Second // as long as an attempt may take, nearly
)

// measureAttacks asks how much longer one client waits for its answers and its callbacks
// while another client attacks it, for each known attack.
func (b *bench) measureAttacks(ctx context.Context) error {
	return rounds(b.plan.stormRepeat, func() error {
		alone, err := b.timeAttacked(ctx, attack{name: "nobody", mount: func(context.Context, *attacker) {}})
		if err != nil {
			return err
		}
		var worst waits
		for _, attack := range attacks() {
			beside, err := b.timeAttacked(ctx, attack)
			if err != nil {
				return fmt.Errorf("%s: %w", attack.name, err)
			}
			beside = waits{beside.answer / alone.answer, beside.callback / alone.callback}
			b.figures.add("attack_ack_ratio_"+attack.name, beside.answer)
			b.figures.add("attack_ttc_ratio_"+attack.name, beside.callback)
			worst = waits{max(worst.answer, beside.answer), max(worst.callback, beside.callback)}
		}
		b.figures.add("attack_ack_ratio", worst.answer)
		b.figures.add("attack_ttc_ratio", worst.callback)
		return nil
	})
}

// waits are 99th percentiles, in milliseconds, or ratios of them.
type waits struct{ answer, callback float64 }

func (b *bench) timeAttacked(ctx context.Context, attack attack) (told waits, err error) {
	err = b.onFresh(ctx, "attack", func(d database) error {
		keys, err := b.addClients(ctx, d, "attacked", "attacker")
		if err != nil {
			return err
		}
		settings := []string{
			"PLAIN_SECRETS=true", "CALLBACK_ALLOW_CIDRS=127.0.0.0/8", "CALLBACK_PORTS=80", // which allows http, on any allowed address
			fmt.Sprintf("WORKERS=%d", attackWorkers),
		}
		return b.onServer(ctx, strict, d, settings, func(s *server) error {
			told, err = b.besideAttack(ctx, s, attack, keys)
			return err
		})
	})
	if err == nil {
		b.say("  beside %-12s acknowledged p99 %6.2f ms  called back p99 %7.2f ms", attack.name, told.answer, told.callback)
	}
	return told, err
}

func (b *bench) besideAttack(ctx context.Context, s *server, attack attack, keys []string) (waits, error) {
	victim, err := startVictim(s.URL, keys[0])
	if err != nil {
		return waits{}, err
	}
	defer victim.server.Close()
	m := &attacker{url: s.URL, key: keys[1], victim: victim.receiver, client: &http.Client{
		Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}}
	for range slowReceivers {
		own, err := m.startPoorReceiver()
		if err != nil {
			return waits{}, err
		}
		defer own.Close()
		m.own = append(m.own, "http://"+own.Addr)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	attack.mount(ctx, m)
	say := time.AfterFunc(attackWarmup, func() {
		if held := m.slow.Load(); held > 0 {
			b.say("  the attacker holds %d of %d workers as measuring begins", held, attackWorkers)
		}
	})
	defer say.Stop()
	return victim.run(ctx, attackWarmup, b.plan.attackFor)
}

// addClients makes clients, of which the first may send more than attackedRate.
func (b *bench) addClients(ctx context.Context, d database, names ...string) (keys []string, err error) {
	run := func(args ...string) ([]byte, error) {
		command := exec.CommandContext(ctx, b.server, args...)
		command.Env = []string{"DATABASE_URL=" + d.URL, "PLAIN_SECRETS=true"}
		command.Stderr = os.Stderr
		out, err := command.Output()
		if err != nil {
			return nil, fmt.Errorf("ringback %s: %w", strings.Join(args, " "), err)
		}
		return out, nil
	}
	if _, err := run("migrate"); err != nil {
		return nil, err
	}
	for _, name := range names {
		out, err := run("client", "add", name, "--json")
		var made struct{ Key string }
		if err == nil {
			err = json.Unmarshal(out, &made)
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, made.Key)
	}
	_, err = run("client", "set", names[0], "--rate", strconv.Itoa(2*attackedRate))
	return keys, err
}

// victim sends along an open loop, with the number of each request in its callback URL,
// and notes how long it waits.
type victim struct {
	url, key, receiver string
	server             *http.Server

	mu      sync.Mutex
	due     []time.Time // by number
	answers []float64   // ms, by number
	calls   []float64   // likewise, 0 before they come
	called  int
	failed  int
	refusal string // the first of them: what was answered
}

func startVictim(url, key string) (*victim, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for callbacks: %w", err)
	}
	v := &victim{url: url, key: key, receiver: "http://" + listener.Addr().String()}
	v.server = &http.Server{Handler: v}
	go v.server.Serve(listener) //nolint:errcheck // it ends when it is closed
	return v, nil
}

// ServeHTTP takes the victim's callbacks, and answers the attacker's as a poor receiver
// would.
func (v *victim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.Atoi(r.URL.Path[1:])
	later, isLater := strings.CutPrefix(r.URL.Path, "/later/")
	switch {
	case err == nil:
		v.note(number, time.Now())
	case isLater:
		w.Header().Set("Retry-After", later)
		w.WriteHeader(http.StatusTooManyRequests)
	default:
		w.WriteHeader(http.StatusInternalServerError)
	}
}

func (v *victim) note(number int, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if number >= 0 && number < len(v.calls) && v.calls[number] == 0 {
		v.calls[number] = milliseconds(now.Sub(v.due[number]))
		v.called++
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// run sends for as long as both take together, and measures the second part.
func (v *victim) run(ctx context.Context, warmup, length time.Duration) (waits, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	count, first := int((warmup+length).Seconds()*attackedRate), int(warmup.Seconds()*attackedRate)
	start := time.Now()
	v.mu.Lock()
	v.due, v.answers, v.calls = make([]time.Time, count), make([]float64, count), make([]float64, count)
	for n := range count {
		v.due[n] = start.Add(time.Duration(n) * time.Second / attackedRate)
	}
	v.mu.Unlock()
	var sending sync.WaitGroup
	for n := range count {
		if !load.Pause(ctx, time.Until(v.due[n])) {
			return waits{}, ctx.Err()
		}
		sending.Go(func() { v.send(ctx, client, n) })
	}
	sending.Wait()
	for deadline := time.Now().Add(drainTimeout); ctx.Err() == nil && time.Now().Before(deadline); load.Pause(ctx, 10*time.Millisecond) {
		v.mu.Lock()
		whole := v.called == count-v.failed
		v.mu.Unlock()
		if whole {
			break
		}
	}
	return v.told(first, count)
}

func (v *victim) send(ctx context.Context, client *http.Client, n int) {
	status, answer, err := call(ctx, client, http.MethodPost, v.url+"/async", v.key, "", asyncBody(v.receiver+"/"+strconv.Itoa(n)))
	took := milliseconds(time.Since(v.due[n]))
	if err == nil && status != http.StatusAccepted {
		err = fmt.Errorf("status %d: %.400s", status, answer)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.answers[n] = took; err != nil {
		v.failed++
		v.refusal = cmp.Or(v.refusal, err.Error())
	}
}

// told returns the measured waits. A callback that never came fails, since it would
// otherwise count as no wait.
func (v *victim) told(first, count int) (waits, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failed > 0 || v.called < count {
		return waits{}, fmt.Errorf("of %d requests %d were not accepted (the first: %s), and %d called back", count, v.failed, cmp.Or(v.refusal, "none"), v.called)
	}
	return waits{percentile99(v.answers[first:]), percentile99(v.calls[first:])}, nil
}

func percentile99(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)*99/100]
}

// attacker is the other client.
type attacker struct {
	url, key string
	victim   string       // the other's receiver
	own      []string     // receivers
	slow     atomic.Int64 // callbacks that they hold
	client   *http.Client
}

// postponed asks for work in an hour.
func (m *attacker) postponed() []byte {
	return fmt.Appendf(nil, `{"input":%s,"delay":3600,"callback_url":%q}`, sample.Input("x", 0, 0), m.own[0])
}

// startPoorReceiver starts a receiver that is slow, or takes nothing.
func (m *attacker) startPoorReceiver() (*http.Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for callbacks: %w", err)
	}
	server := &http.Server{Addr: listener.Addr().String(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			m.slow.Add(1)
			defer m.slow.Add(-1)
			load.Pause(r.Context(), slowness)
			return
		}
		w.WriteHeader(http.StatusGone)
	})}
	go server.Serve(listener) //nolint:errcheck // it ends when it is closed
	return server, nil
}

// each calls do perSecond times a second, until ctx ends.
func (m *attacker) each(ctx context.Context, perSecond int, do func(n int)) {
	go func() {
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
				go do(n)
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (m *attacker) post(path string, body []byte) (answer []byte) {
	_, answer, _ = call(context.Background(), m.client, http.MethodPost, m.url+path, m.key, "", body)
	return answer
}

func (m *attacker) get(path, prefer string) {
	_, _, _ = call(context.Background(), m.client, http.MethodGet, m.url+path, m.key, prefer, nil)
}

func call(ctx context.Context, client *http.Client, method, url, key, prefer string, body []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", "application/json")
	if prefer != "" {
		request.Header.Set("Prefer", prefer)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, answer, err
}

// pipeline opens connections and sends calls on them, whose answers it doesn't read.
func (m *attacker) pipeline(ctx context.Context, calls string) {
	for ctx.Err() == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(m.url, "http://"))
		if err == nil {
			_, _ = io.WriteString(conn, strings.Repeat(calls, 20))
			load.Pause(ctx, 5*time.Second)
			conn.Close()
		}
		load.Pause(ctx, 100*time.Millisecond)
	}
}

// measureOrdinary asks how much longer a callback takes to an ordinary receiver that is
// known than to a receiver that the operator allowed, at 1,000 requests a second.
func (b *bench) measureOrdinary(ctx context.Context) error {
	const rate = 1000
	return rounds(b.plan.stormRepeat, func() error {
		var p99 [2]float64
		for n, allowed := range []bool{false, true} {
			err := b.onFreshServer(ctx, "ordinary", nil, func(d database, s *server) (err error) {
				p99[n], err = b.timeOrdinary(ctx, d, s, rate, allowed)
				return err
			})
			if err != nil {
				return err
			}
		}
		b.say("  at %d/s called back p99 %6.2f ms, and %6.2f ms where the operator allowed it", rate, p99[0], p99[1])
		b.figures.add("ordinary_ratio", p99[0]/cmp.Or(p99[1], 1))
		return nil
	})
}

func (b *bench) timeOrdinary(ctx context.Context, d database, s *server, rate float64, allowed bool) (p99 float64, err error) {
	if allowed {
		command := exec.CommandContext(ctx, b.server, "--dev", "receiver", "allow", "127.0.0.1")
		command.Env = []string{"DATABASE_URL=" + d.URL}
		if out, err := command.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("allowing the receiver: %w: %s", err, out)
		}
	}
	told, err := b.runStorm(ctx, s, stormOrder{mix: "async=100", rate: rate, length: b.plan.timingFor})
	if err != nil {
		return 0, err
	}
	return told.Async.TimeToCallback.P99, nil
}
