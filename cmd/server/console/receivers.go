package console

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/jobs/pacing"
)

// receiverRow is a receiver as the page shows it.
type receiverRow struct {
	db.ListedReceiver
	Name   string // host and port, or scheme, host and port
	Host   string
	Port   string // empty for all ports
	Paced  string
	Takes  string    // empty for a ruling
	Closed time.Time // until then; zero for not
}

// receiversPage is what the page of receivers shows.
type receiversPage struct {
	Receivers []receiverRow
	More      int64 // receivers that are left out
}

// mostReceivers is how many receivers the page shows.
const mostReceivers = 1000

func (c *Console) receivers(r *http.Request) (view, error) {
	listed, more, err := db.ListReceivers(r.Context(), c.Reads, mostReceivers)
	if err != nil {
		return view{}, err
	}
	pacing.Govern(listed)
	rows, now := make([]receiverRow, len(listed)), c.Queue.Now()
	for i, receiver := range listed {
		rows[i] = receiverRowOf(receiver, now)
	}
	return view{page: "receivers", title: "Receivers", data: receiversPage{rows, int64(more)}}, nil
}

func receiverRowOf(r db.ListedReceiver, now time.Time) receiverRow {
	row := receiverRow{ListedReceiver: r, Name: strings.TrimSuffix(strings.TrimPrefix(r.Target, "*://"), ":*")}
	_, hostPort, _ := strings.Cut(r.Target, "://")
	if host, port, err := net.SplitHostPort(hostPort); err == nil {
		row.Host, row.Port = host, strings.TrimPrefix(port, "*")
	}
	row.Takes, row.Closed = pacing.Takes(r, now)
	switch {
	case r.Effect == db.ReceiverDenied:
	case r.IsRuling():
		if row.Paced = strconv.FormatFloat(r.Ruling.Rate, 'f', -1, 64) + "/s"; r.Ruling.Rate == 0 {
			row.Paced = "any rate"
		}
	case r.Receiver.Rate >= pacing.Unlimited:
		row.Paced = "any rate"
	case r.Receiver.Rate > 0:
		row.Paced = strconv.FormatFloat(r.Receiver.Rate, 'f', 1, 64) + "/s"
	}
	return row
}

// rulingForm is what the operator sends to allow, deny or forget a receiver.
type rulingForm struct {
	action, host, port string
	rate               float64
	concurrency        int
}

func readRuling(r *http.Request) (f rulingForm, err error) {
	if err := r.ParseForm(); err != nil {
		return f, mistake("the form can't be read")
	}
	f = rulingForm{action: r.PathValue("action"), host: strings.ToLower(strings.TrimSpace(r.Form.Get("host"))), port: strings.TrimSpace(r.Form.Get("port"))}
	if f.action != "allow" && f.action != "deny" && f.action != "forget" {
		return f, errNoPage
	}
	if f.host == "" || strings.ContainsAny(f.host, "/ @?#") {
		return f, mistake("a receiver is a host name or address, with a port where only that port is meant")
	}
	if n, err := strconv.ParseUint(f.port, 10, 16); f.port != "" && (err != nil || n == 0) {
		return f, mistake("a port is from 1 to 65535")
	}
	if text := r.Form.Get("rate"); text != "" {
		if f.rate, err = strconv.ParseFloat(text, 64); err != nil || !(f.rate >= 0.01 && f.rate <= 1_000_000) {
			return f, mistake("the rate is from 0.01 to 1000000 callbacks a second")
		}
	}
	if text := r.Form.Get("concurrency"); text != "" {
		if f.concurrency, err = strconv.Atoi(text); err != nil || f.concurrency < 1 || f.concurrency > 10_000 {
			return f, mistake("the concurrency is from 1 to 10000 callbacks at a time")
		}
	}
	return f, nil
}

func (f rulingForm) name() string {
	if f.port == "" {
		return f.host
	}
	return net.JoinHostPort(strings.Trim(f.host, "[]"), f.port)
}

func (c *Console) askReceiver(r *http.Request) (view, error) {
	f, err := readRuling(r)
	if err != nil {
		return view{}, err
	}
	q := question{Back: "/receivers", Fields: map[string]string{}}
	for _, name := range []string{"host", "port", "rate", "concurrency"} {
		if value := r.Form.Get(name); value != "" {
			q.Fields[name] = value
		}
	}
	switch f.action {
	case "allow":
		q.Does, q.Asks = "Allow "+f.name(), fmt.Sprintf("Let callbacks go to %s at %s, regardless of its record?", f.name(), f.pace())
	case "deny":
		q.Does, q.Asks, q.Danger = "Deny "+f.name(), fmt.Sprintf("Send nothing more to %s? Requests that name it are refused, and callbacks that wait for it end as dead letters.", f.name()), true
	case "forget":
		q.Does, q.Asks = "Forget "+f.name(), fmt.Sprintf("Forget the record of %s, and the operator's decision about it? It begins as a stranger.", f.name())
	}
	return view{page: "question", title: q.Does, data: q}, nil
}

func (f rulingForm) pace() string {
	text := "any rate"
	if f.rate > 0 {
		text = strconv.FormatFloat(f.rate, 'f', -1, 64) + " a second"
	}
	if f.concurrency > 0 {
		text += fmt.Sprintf(", %d at a time", f.concurrency)
	}
	return text
}

func (c *Console) changeReceiver(r *http.Request) (view, error) {
	f, err := readRuling(r)
	if err == nil {
		err = c.decide(r.Context(), f)
	}
	if err != nil {
		return view{}, err
	}
	return view{redirect: "/receivers"}, nil
}

func (c *Console) decide(ctx context.Context, f rulingForm) error {
	ruling := db.Ruling{Target: pacing.RulingTarget(strings.Trim(f.host, "[]"), f.port), Rate: f.rate, Concurrency: f.concurrency}
	switch f.action {
	case "allow":
		ruling.Effect = db.ReceiverAllowed
	case "deny":
		ruling.Effect = db.ReceiverDenied
	default:
		port := f.port
		if port == "" {
			port = "*"
		}
		return db.InTx(ctx, c.Pool, func(tx pgx.Tx) error {
			_, err := db.ForgetReceiver(ctx, tx, bracketed(f.host), port)
			return err
		})
	}
	_, err := db.SetRuling(ctx, c.Pool, ruling)
	return err
}

// bracketed is a host as it stands before a port.
func bracketed(host string) string {
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return "[" + host + "]"
	}
	return host
}

// URL leads to the question that confirms an action: allow, deny or forget.
func (r receiverRow) URL(action string) string {
	return "/receivers/" + action + "?" + url.Values{"host": {r.Host}, "port": {r.Port}}.Encode()
}
