// Package console is the operator's pages: the load now, the life of a request, and the
// operator's actions. README.md is its manual.
//
// The pages show the requests of all clients, with addresses and causes that the
// API hides from callers. So they belong on the admin listener, which has the
// checks that keep other sites' pages out.
package console

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"ringback/cmd/internal/uplot"
	"ringback/db"
	"ringback/jobs"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed static
var staticFiles embed.FS

// Config holds the parts and settings of a Console.
type Config struct {
	Pool          *pgxpool.Pool // for the operator's rulings on receivers
	Reads         *pgxpool.Pool // made by db.OpenReads
	Queue         *jobs.Queue
	Metrics       prometheus.Gatherer
	CheckCallback func(client, callbackURL string) error // refuses URLs that callbacks may not go to any more
	Unreadable    func() []string                        // clients whose secrets the server can't open, by name
	NoClients     func() bool                            // no client may call with a key
	LocalClient   string                                 // the client without a row, in local mode
	Version       string
	Logger        *slog.Logger
}

// Console serves the pages.
type Console struct {
	Config
	pages   map[string]*template.Template
	history *history
	viewers chan struct{}
	mux     *http.ServeMux
}

// New returns the pages. Watch keeps their figures up to date.
func New(config Config) (*Console, error) {
	pages, err := parsePages()
	if err != nil {
		return nil, err
	}
	c := &Console{Config: config, pages: pages, history: &history{}, viewers: make(chan struct{}, maxViewers)}
	c.mux = c.routes()
	return c, nil
}

func (c *Console) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", c.page(c.overview))
	mux.HandleFunc("GET /live", c.live)
	mux.HandleFunc("GET /requests", c.page(c.requests))
	mux.HandleFunc("GET /requests/{id}", c.page(c.request))
	mux.HandleFunc("GET /requests/{id}/json", c.requestJSON)
	mux.HandleFunc("GET /requests/{id}/{action}", c.page(c.askRequest))
	mux.HandleFunc("POST /requests/{id}/{action}", c.page(c.changeRequest))
	mux.HandleFunc("GET /receivers", c.page(c.receivers))
	mux.HandleFunc("GET /receivers/{action}", c.page(c.askReceiver))
	mux.HandleFunc("POST /receivers/{action}", c.page(c.changeReceiver))
	mux.HandleFunc("GET /dead-letters", c.page(c.deadLetters))
	mux.HandleFunc("GET /dead-letters/redeliver", c.page(c.askRedeliver))
	mux.HandleFunc("POST /dead-letters/redeliver", c.page(c.redeliver))
	mux.HandleFunc("GET /clients", c.page(c.clients))
	static, err := fs.Sub(staticFiles, "static")
	if err != nil {
		panic(err) // the folder is embedded
	}
	mux.Handle("GET /static/{file}", http.StripPrefix("/static/", http.FileServerFS(static))) // of no folder, which it would list
	mux.HandleFunc("GET /static/uplot.js", text("text/javascript; charset=utf-8", uplot.JS))
	mux.HandleFunc("GET /static/uplot.css", text("text/css; charset=utf-8", uplot.CSS))
	mux.HandleFunc("/", c.page(func(*http.Request) (view, error) { return view{}, errNoPage }))
	return mux
}

func text(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "max-age=3600")
		_, _ = w.Write([]byte(body))
	}
}

// policy lets a page load from here alone, and nobody frame it.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP serves a page.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin")
	c.mux.ServeHTTP(w, r)
}

// view is a page: the name of its file, and its data.
type view struct {
	page     string
	title    string
	data     any
	redirect string // instead of a page
	status   int    // 0 for 200
}

var (
	errNoPage    = errors.New("there is no such page")
	errNoRequest = errors.New("there is no such request: it never was, or its retention has passed")
)

// mistake is an error that the operator can mend.
type mistake string

func (m mistake) Error() string { return string(m) }

const (
	pageTimeout = 5 * time.Second
	// maxForm bounds the body of a form.
	maxForm = 64 << 10
)

// page adapts a function that makes a view. Only page writes pages and errors.
func (c *Console) page(make func(*http.Request) (view, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), pageTimeout)
		defer cancel()
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		v, err := view{}, checkText(r)
		if err == nil {
			v, err = make(r)
		}
		if err != nil {
			v = c.failed(r, err)
		}
		if v.redirect != "" {
			http.Redirect(w, r, v.redirect, http.StatusSeeOther)
			return
		}
		c.write(w, r, v)
	}
}

// checkText refuses parameters that are no text to Postgres.
func checkText(r *http.Request) error {
	if r.ParseForm() != nil {
		return mistake("the form or the address can't be read")
	}
	for _, values := range r.Form {
		for _, value := range values {
			if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
				return mistake("a field holds bytes that are no text")
			}
		}
	}
	return nil
}

// failed is the page of an error.
func (c *Console) failed(r *http.Request, err error) view {
	v := view{page: "error", title: "Something went wrong", status: http.StatusInternalServerError}
	var wrong mistake
	switch {
	case errors.Is(err, errNoPage), errors.Is(err, db.ErrNoRequest), errors.Is(err, errNoRequest):
		v.title, v.status = "Not found", http.StatusNotFound
		if errors.Is(err, db.ErrNoRequest) {
			err = errNoRequest
		}
	case errors.As(err, &wrong):
		v.title, v.status = "That can't be done", http.StatusUnprocessableEntity
	case db.IsUnavailable(err):
		v.title, v.status = "The database doesn't answer", http.StatusServiceUnavailable
	default:
		c.Logger.ErrorContext(r.Context(), "page_failed", "path", r.URL.Path, "error", err)
	}
	v.data = sentence(err)
	return v
}

// sentence is an error as a page shows it.
func sentence(err error) string {
	text := err.Error()
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// frame is the frame of each page.
type frame struct {
	Title   string
	Path    string
	Version string
	Now     time.Time
	Data    any
}

func (c *Console) write(w http.ResponseWriter, r *http.Request, v view) {
	var body bytes.Buffer
	err := c.pages[v.page].Execute(&body, frame{v.title, r.URL.Path, c.Version, time.Now().UTC(), v.data})
	if err != nil {
		c.Logger.ErrorContext(r.Context(), "page_failed", "path", r.URL.Path, "error", err)
		http.Error(w, "The page could not be made.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if v.status != 0 {
		w.WriteHeader(v.status)
	}
	_, _ = w.Write(body.Bytes()) // an error means that the browser is gone
}

func parsePages() (map[string]*template.Template, error) {
	layout, err := template.New("layout.html").Funcs(functions).ParseFS(pageFiles, "pages/layout.html")
	if err != nil {
		return nil, fmt.Errorf("parsing the layout: %w", err)
	}
	files, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil {
		return nil, fmt.Errorf("looking for pages: %w", err)
	}
	pages := map[string]*template.Template{}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "pages/"), ".html")
		if name == "layout" {
			continue
		}
		clone, err := layout.Clone()
		if err == nil {
			pages[name], err = clone.ParseFS(pageFiles, file)
		}
		if err != nil {
			return nil, fmt.Errorf("parsing page %s: %w", name, err)
		}
	}
	return pages, nil
}
