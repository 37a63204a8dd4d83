package main

import (
	"context"
	_ "embed" // for axe-core
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// axe-core 4.14.1, MPL 2.0, finds barriers in a page.
//
//go:embed testdata/axe.min.js
var axeJS string

// browser is a tab of a real browser that notes errors in it.
type browser struct {
	ctx  context.Context
	base string

	mu    sync.Mutex
	wrong []string
}

// openBrowser opens a tab on the pages of a program.
func openBrowser(t *testing.T, p *program) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("NOT TESTED: the pages, for want of Chromium on this machine")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.WSURLReadTimeout(2*time.Minute))
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() { cancel(); cancelAllocator() })
	b := &browser{ctx: ctx, base: p.adminURL}
	chromedp.ListenTarget(ctx, b.note)
	b.do(t, network.Enable(), runtime.Enable(), log.Enable())
	return b
}

// note keeps errors of the console and of scripts, and requests to other hosts.
func (b *browser) note(event any) {
	switch event := event.(type) {
	case *runtime.EventExceptionThrown:
		b.add("exception: " + event.ExceptionDetails.Error())
	case *runtime.EventConsoleAPICalled:
		if event.Type == runtime.APITypeError || event.Type == runtime.APITypeWarning {
			b.add(fmt.Sprintf("console: %s", event.Args[0].Value))
		}
	case *log.EventEntryAdded:
		if event.Entry.Level == log.LevelError {
			b.add("log: " + event.Entry.Text + " " + event.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		if asked := event.Request.URL; !strings.HasPrefix(asked, b.base) && !strings.HasPrefix(asked, "data:") {
			b.add("request to another host: " + asked)
		}
	}
}

func (b *browser) add(wrong string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong = append(b.wrong, wrong)
}

func (b *browser) wantNothingWrong(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.wrong) > 0 {
		t.Errorf("the browser noted %d things: %s", len(b.wrong), strings.Join(b.wrong, "\n"))
	}
	b.wrong = nil
}

func (b *browser) do(t *testing.T, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(b.ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

func (b *browser) open(t *testing.T, path string) {
	t.Helper()
	b.do(t, chromedp.Navigate(b.base+path))
	if !evaluate[bool](t, b, `document.querySelector("footer") !== null`) {
		t.Fatalf("%s: got %q, want a page with its footer", path, b.text(t, "body"))
	}
}

// text is an element's visible text.
func (b *browser) text(t *testing.T, selector string) (text string) {
	t.Helper()
	b.do(t, chromedp.Text(selector, &text, chromedp.ByQuery))
	return text
}

// evaluate evaluates an expression.
func evaluate[T any](t *testing.T, b *browser, expression string) (value T) {
	t.Helper()
	b.do(t, chromedp.Evaluate(expression, &value, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	return value
}

// seriousFindings are the serious barriers that axe-core finds on the page that is open.
func (b *browser) seriousFindings(t *testing.T) []string {
	t.Helper()
	b.do(t, chromedp.Evaluate(axeJS, nil))
	return evaluate[[]string](t, b, `axe.run().then(found => found.violations
		.filter(v => v.impact === "serious" || v.impact === "critical")
		.flatMap(v => v.nodes.map(n => v.id + ": " + n.html.slice(0, 200))))`)
}

// withRequests starts a program with four requests: a delivered request, a request that
// waits for a failing receiver, a dead letter and a sync request.
func withRequests(t *testing.T) (p *program, delivered, pending, dead string) {
	t.Helper()
	p = startHere(t, dbtest.New(t), map[string]string{"WORKS": writeTemp(t, `{"away": {"url": "http://127.0.0.1:9/"}}`)}, fingerprint.Do)
	good := newReceiver(t, nil)
	failing := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	gone := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	delivered = p.accept(t, `{"text":"delivered"}`, good.URL)
	pending = p.accept(t, `{"text":"<b>pending</b>"}`, failing.URL)
	dead = p.accept(t, `{"text":"dead"}`, gone.URL)
	p.served(t, "/sync", `{"input":{"text":"sync"}}`, http.StatusOK)
	p.waitFor(t, delivered, "delivered", func(r request) bool { return r.CallbackState == "delivered" })
	p.waitFor(t, dead, "dead", func(r request) bool { return r.CallbackState == "dead" })
	failing.next(t)
	p.waitFor(t, pending, "attempted", func(r request) bool { return len(r.Attempts) > 0 })
	return p, delivered, pending, dead
}

func TestPagesInABrowser(t *testing.T) {
	t.Parallel()
	p, delivered, pending, dead := withRequests(t)
	b := openBrowser(t, p)

	t.Run("EachIsReadableByAllAndFitsAPhone", func(t *testing.T) {
		for _, path := range []string{
			"/", "/requests", "/requests/" + delivered, "/requests/" + pending, "/requests/" + pending + "/cancel",
			"/requests?client=local&callback=dead", "/receivers", "/dead-letters", "/clients", "/nowhere",
		} {
			for _, scheme := range []string{"light", "dark"} {
				b.do(t, chromedp.EmulateViewport(360, 740),
					emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
				b.open(t, path)
				if found := b.seriousFindings(t); len(found) > 0 {
					t.Errorf("%s, %s: got %s", path, scheme, strings.Join(found, "\n"))
				}
				if wide := evaluate[[]string](t, b, `[...document.querySelectorAll("main *, header *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1
					&& !e.closest(".wide")).map(e => e.outerHTML.slice(0, 100))`); len(wide) > 0 || evaluate[bool](t, b, `document.documentElement.scrollWidth > innerWidth`) {
					t.Errorf("%s: got a page that is wider than a phone, by %s", path, strings.Join(wide, "\n"))
				}
			}
		}
		b.mu.Lock()
		b.wrong = nil // the page that isn't there is an error of the log
		b.mu.Unlock()
	})

	b.do(t, chromedp.EmulateViewport(1280, 900))
	t.Run("AFilterNarrowsTheList", func(t *testing.T) {
		b.open(t, "/requests")
		if got := evaluate[int](t, b, `document.querySelectorAll("table.requests tbody tr").length`); got != 4 {
			t.Errorf("got %d requests, want 4", got)
		}
		b.do(t, chromedp.SetValue("select[name=callback]", "dead", chromedp.ByQuery), chromedp.Submit("form.filter", chromedp.ByQuery),
			chromedp.WaitReady(`//tbody[count(tr)=1]`))
		if got := b.text(t, "table.requests tbody"); !strings.Contains(got, dead) {
			t.Errorf("got %q, want the dead letter alone", got)
		}
		if address := evaluate[string](t, b, `location.search`); !strings.Contains(address, "callback=dead") {
			t.Errorf("got %q, want the filter in the address", address)
		}
		b.wantNothingWrong(t)
	})

	t.Run("ARequestIsFoundByItsIDAndCancelled", func(t *testing.T) {
		b.open(t, "/")
		b.do(t, chromedp.SendKeys("#find", "req_"+pending+"\r", chromedp.ByQuery), chromedp.WaitReady("svg.life", chromedp.ByQuery))
		if got := evaluate[string](t, b, `document.body.innerText + document.querySelector("svg").textContent`); !strings.Contains(got, "http_status (500)") || !strings.Contains(got, "attempt 1") {
			t.Errorf("got %q, want its attempts", got)
		}
		b.do(t, chromedp.Click(`//a[text()="Cancel"]`), chromedp.WaitReady("form.answer", chromedp.ByQuery))
		if got := p.get(t, pending); got.CallbackState != "pending" {
			t.Errorf("got %s before the answer, want it untouched", got.CallbackState)
		}
		b.do(t, chromedp.Click("form.answer button", chromedp.ByQuery), chromedp.WaitReady("svg.life", chromedp.ByQuery))
		if got := p.get(t, pending); got.CallbackState != "cancelled" {
			t.Errorf("got %s, want it cancelled", got.CallbackState)
		}
		b.wantNothingWrong(t)
	})

	t.Run("ACallbackIsDeliveredAgain", func(t *testing.T) {
		b.open(t, "/requests/"+delivered)
		b.do(t, chromedp.Click(`//a[text()="Deliver again"]`), chromedp.WaitReady("form.answer", chromedp.ByQuery),
			chromedp.Click("form.answer button", chromedp.ByQuery), chromedp.WaitReady("svg.life", chromedp.ByQuery))
		p.waitFor(t, delivered, "delivered twice", func(r request) bool { return len(r.Attempts) == 2 })
		b.wantNothingWrong(t)
	})

	t.Run("DeadLettersAreDeliveredAgainAfterADryRun", func(t *testing.T) {
		b.open(t, "/dead-letters")
		b.do(t, chromedp.Click(`//a[text()="Deliver again"]`), chromedp.WaitReady("form.answer", chromedp.ByQuery))
		if got := b.text(t, "main"); !strings.Contains(got, "Deliver 1 dead letters") {
			t.Errorf("got %q, want how many it would be", got)
		}
		b.do(t, chromedp.Click("form.answer button", chromedp.ByQuery), chromedp.WaitReady("[role=status]", chromedp.ByQuery))
		if got := b.text(t, "[role=status]"); !strings.Contains(got, "1 of 1") {
			t.Errorf("got %q, want it on its way", got)
		}
		p.waitFor(t, dead, "attempted twice", func(r request) bool { return len(r.Attempts) == 2 })
		b.wantNothingWrong(t)
	})

	t.Run("AReceiverIsDenied", func(t *testing.T) {
		b.open(t, "/receivers")
		b.do(t, chromedp.SendKeys("input[name=host]", "hooks.example.com", chromedp.ByQuery),
			chromedp.Click(`//form//button[text()="Deny"]`), chromedp.WaitReady("form.answer", chromedp.ByQuery),
			chromedp.Click("form.answer button", chromedp.ByQuery), chromedp.WaitReady("td.say", chromedp.ByQuery))
		if got := b.text(t, "tbody"); !strings.Contains(got, "hooks.example.com\tdenied") {
			t.Errorf("got %q, want it denied", got)
		}
		b.wantNothingWrong(t)
	})

	t.Run("TheOverviewMovesWithAStorm", func(t *testing.T) {
		b.open(t, "/")
		receiver := newReceiver(t, nil)
		for range 50 {
			p.accept(t, `{"text":"x"}`, receiver.URL)
		}
		b.do(t, chromedp.Poll(`samples.some(s => s.accepted > 0) && samples.some(s => s.called_back > 0) && samples.some(s => s.p99 > 0)`, nil, chromedp.WithPollingTimeout(0)))
		for _, chart := range []string{"rates", "times", "unfinished", "refused"} {
			if !evaluate[bool](t, b, `document.querySelector("#`+chart+` canvas") !== null`) {
				t.Errorf("got no chart of %s", chart)
			}
		}
		if got := b.text(t, "#processes"); strings.TrimSpace(got) == "" {
			t.Error("got no process with its heartbeat")
		}
		b.wantNothingWrong(t)
	})
	for line := range strings.Lines(p.log.String()) {
		if strings.Contains(line, "level=ERROR") && !strings.Contains(line, "msg=database_fault fault=slow") { // a busy machine
			t.Errorf("got an error in the log: %s", line)
		}
	}
}

// call makes a call to the admin listener without following redirects.
func (p *program) call(t *testing.T, method, path string, form url.Values, header http.Header) (status int, body string, answer http.Header) {
	t.Helper()
	call, err := http.NewRequestWithContext(t.Context(), method, p.adminURL+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	call.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for name, values := range header {
		call.Header[name] = values
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	got, err := client.Do(call)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	read, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got.StatusCode, string(read), got.Header
}

func TestPagesRefuse(t *testing.T) {
	t.Parallel()
	p, delivered, pending, _ := withRequests(t)
	for name, call := range map[string]struct {
		method, path string
		form         url.Values
		header       http.Header
		status       int
		says         string
	}{
		"AnUnknownRequest":        {"GET", "/requests/01a2191e-4712-7ebd-81d2-2015bcc38295", nil, nil, 404, "no such request"},
		"WhatIsNoID":              {"GET", "/requests/7", nil, nil, 404, "no such request"},
		"ASearchForWhatIsNoID":    {"GET", "/requests?id=7", nil, nil, 422, "is not the id of a request"},
		"AFilterThatIsNoText":     {"GET", "/requests?client=%00", nil, nil, 422, "no text"},
		"AReceiverThatIsNoText":   {"POST", "/receivers/deny", url.Values{"host": {"a\xff"}}, nil, 422, "no text"},
		"ATimeThatIsNone":         {"GET", "/requests?from=yesterday", nil, nil, 422, "is not a time"},
		"AURLAsHost":              {"GET", "/requests?host=http://a/x", nil, nil, 422, "without scheme and path"},
		"AStatusThatIsNone":       {"GET", "/requests?status=bogus", nil, nil, 422, "status is one of [accepted succeeded"},
		"AModeThatIsNone":         {"GET", "/requests?mode=both", nil, nil, 422, "mode is one of [sync async]"},
		"ACallbackThatIsNone":     {"GET", "/requests?callback=DEAD", nil, nil, 422, "callback is one of [waiting"},
		"ATimeBeforeItsStart":     {"GET", "/requests?from=2026-11-26&to=2026-11-25", nil, nil, 422, "not after the time from which"},
		"WhatNothingMatches":      {"GET", "/requests?mode=sync&callback=dead", nil, nil, 422, "contradict each other"},
		"AFolder":                 {"GET", "/static/", nil, nil, 404, "no such page"},
		"AHeadOfNoPage":           {"HEAD", "/nowhere", nil, nil, 404, ""},
		"AHeadOfEvents":           {"HEAD", "/live", nil, nil, 200, ""},
		"CancellingWhatHasEnded":  {"GET", "/requests/" + delivered + "/cancel", nil, nil, 422, "has ended"},
		"DeliveringWhatIsPending": {"GET", "/requests/" + pending + "/redeliver", nil, nil, 422, "no callback that has ended"},
		"AnUnknownAction":         {"POST", "/requests/" + pending + "/remove", nil, nil, 404, "no such page"},
		"AReceiverThatIsAURL":     {"POST", "/receivers/deny", url.Values{"host": {"http://x/"}}, nil, 422, "host name or address"},
		"ARateThatIsNone":         {"POST", "/receivers/allow", url.Values{"host": {"a.example"}, "rate": {"NaN"}}, nil, 422, "the rate"},
		"AnUnknownWord":           {"POST", "/receivers/praise", url.Values{"host": {"a.example"}}, nil, 404, "no such page"},
		"ADeliveryWithoutAHost":   {"POST", "/dead-letters/redeliver", url.Values{"client": {"local"}}, nil, 422, "client and a host"},
		"AFormOfAnotherSite":      {"POST", "/requests/" + pending + "/cancel", nil, http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403, ""},
		"AChangeByGET":            {"GET", "/receivers/deny?host=a.example", nil, nil, 200, "Send nothing more"},
	} {
		t.Run(name, func(t *testing.T) {
			status, body, header := p.call(t, call.method, call.path, call.form, call.header)
			if status != call.status || !strings.Contains(strings.ToLower(body), strings.ToLower(call.says)) {
				t.Errorf("got %d %s, want %d and %q", status, body, call.status, call.says)
			}
			if status != 403 && (!strings.Contains(header.Get("Content-Security-Policy"), "frame-ancestors 'none'") || header.Get("Cache-Control") != "no-store") {
				t.Errorf("got %v, want a policy, and nothing kept", header)
			}
		})
	}
	if status, body, _ := p.call(t, "GET", "/clients", nil, nil); status != 200 || !strings.Contains(body, `client=local">local</a>`) || strings.Contains(body, "could not be counted") {
		t.Errorf("got %d %s, want the local client with what it has", status, body)
	}
	if got := p.get(t, pending); got.CallbackState != "pending" {
		t.Errorf("got %s, want the request untouched", got.CallbackState)
	}
	if status, body, _ := p.call(t, "GET", "/requests/"+pending, nil, nil); status != 200 || strings.Contains(body, "<b>pending") || !strings.Contains(body, "pending") {
		t.Errorf("got %d %s, want the input as text", status, body)
	}
	if status, body, _ := p.call(t, "GET", "/requests/"+pending+"/json", nil, nil); status != 200 || !strings.Contains(body, `"address": "127.0.0.1:`) {
		t.Errorf("got %d %s, want the addresses as well", status, body)
	}
}
