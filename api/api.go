// Package api is the HTTP side of the service: routes, decoding, answers.
package api

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"ringback/jobs"
	"ringback/jobs/clients"
	"ringback/jobs/limit"
	"ringback/jobs/tracing"
	"ringback/jobs/webhook"
	"ringback/work"
)

// Config holds the parts and settings of the API.
type Config struct {
	Pool           *pgxpool.Pool
	Reads          *pgxpool.Pool // for reads of clients, made by db.OpenReads
	ReadLimit      int           // reads at a time: as many as Reads has connections; of changes, likewise
	Queue          *jobs.Queue
	Logger         *slog.Logger
	CallbackPolicy webhook.Policy // which callback URLs are accepted

	Catalog *work.Catalog // the kinds of work on offer, as in Queue

	FindClient func(key string) string // the client that has this API key, "" for none
	// WhyUnknown tells why FindClient finds no client for this API key. The caller is told
	// no more than that a text isn't of the form of a key.
	WhyUnknown  func(key string) clients.Unknown
	LocalClient string // the client of calls without a key; empty: such calls are refused

	Limits    func(client string) clients.Limits // as in Queue; nil where the only client has none
	Callbacks func(client string) webhook.Hosts  // receivers that a client's callbacks may name; nil: all
	// SealHeaders returns the stored form of the headers that a callback is to carry.
	SealHeaders func(client string, headers map[string]string) (string, error)
	// ClientReads is how many GETs of requests a second one client may make, with a
	// burst of twice as many; 0 for any number.
	ClientReads int

	SyncLimit int         // sync requests at a time; as many more may wait for a moment
	Draining  func() bool // tells that the process is stopping

	Tracer *tracing.Tracer // nil for none

	Heartbeat       time.Duration // longest silence of an event stream; 0 for 15 s
	DatabaseTimeout time.Duration // of the statements of a call; 0 for 1.5 s
	BodyTimeout     time.Duration // for a body to arrive; 0 for 10 s

	Metrics prometheus.Registerer // nil for none
}

// API serves the routes.
type API struct {
	Config
	sync     gate
	bodies   *bodyBudget
	decoding *limit.Gate
	answers  *answerBudget
	reads    *limit.Gate
	changes  *limit.Gate
	posts    *rates // nil where clients have no limits
	getting  *rates // likewise, of reads
	metrics  *metrics

	strangers seldomLines // lines of calls without a valid key
}

// databaseTimeout bounds the statements of one call, so that callers hear
// within 2 s that the database is away.
const databaseTimeout = 1500 * time.Millisecond

// New returns the handler of the public listener.
func New(config Config) http.Handler {
	api := &API{
		Config:   config,
		sync:     newGate(config.SyncLimit, config.areShared()),
		bodies:   newBodyBudget(memoryBudget(), config.areShared()),
		decoding: newDecoding(config.areShared()),
		answers:  newAnswerBudget(memoryBudget()),
		reads:    newReads(config.ReadLimit, config.areShared()),
		changes:  newChanges(config.ReadLimit, config.areShared()),
		metrics:  newMetrics(config.Metrics),
	}
	api.posts, api.getting = api.newRates(), api.newReadRates()
	watchGate(config.Metrics, api.sync)
	watchAnswers(config.Metrics, api.answers)
	router := api.newRouter()
	router.HandleMethodNotAllowed = true
	router.NoMethod(api.handle(api.noMethod))

	api.handleProbes(router)
	get(router, "/problems/:name", api.handle(api.describeProblem))
	api.serveDocument(router)
	router.POST("/work/:token", with(api.refuseLoop), with(api.postReport))
	private := router.Group("", with(api.refuseLoop), with(api.authenticate))
	newSync := private.Group("", api.admit(admission{api.posts, api.roomForSync}), with(api.refuseQuery))
	newAsync := private.Group("", api.admit(admission{api.posts, api.roomForAsync}), with(api.refuseQuery))
	for _, work := range []string{"", "/:work"} {
		newSync.POST("/sync"+work, api.traced(api.postSync)...)
		newAsync.POST("/async"+work, api.traced(api.postAsync)...)
	}
	newAsync.POST("/async/batch", api.traced(api.postBatch)...)
	reading := private.Group("", api.admit(admission{api.getting, nil}))
	get(reading, listPath, api.handle(api.listRequests))
	plain := reading.Group("", with(api.refuseQuery))
	get(plain, "/works", api.handle(api.listWorks))
	get(plain, "/requests/:id", with(api.getOrFollow))
	changing := private.Group("", api.admit(admission{api.posts, nil}), with(api.refuseQuery))
	one := changing.Group("/requests/:id", with(api.refuseBody))
	one.POST("/cancel", api.handle(api.cancelRequest))
	one.POST("/redeliver", api.handle(api.redeliverRequest))
	one.POST("/discard", api.handle(api.discardRequest))
	changing.POST("/redeliveries", api.handle(api.redeliver))
	changing.POST("/discards", api.handle(api.discard))
	return router
}

// areShared tells whether several clients share slots and memory.
func (c Config) areShared() bool { return c.Limits != nil }

// NewHealth returns the handler of a process that only runs jobs, and takes reports on
// their work.
func NewHealth(config Config) http.Handler {
	api := &API{
		Config: config, bodies: newBodyBudget(memoryBudget(), config.areShared()), decoding: newDecoding(config.areShared()),
		answers: newAnswerBudget(memoryBudget()), metrics: newMetrics(config.Metrics),
	}
	router := api.newRouter()
	api.handleProbes(router)
	router.POST("/work/:token", with(api.refuseLoop), with(api.postReport))
	return router
}

func (a *API) newRouter() *gin.Engine {
	gin.SetMode(gin.ReleaseMode) // in the other modes it prints its routes
	router := gin.New()
	router.RedirectTrailingSlash = false // gin's redirect is not in the contract
	router.Use(a.observe)
	router.NoRoute(a.handle(a.noRoute))
	return router
}

// databaseContext bounds the statements of a call. It outlives the caller: whether a
// request was accepted must not depend on whether its caller still listens.
func (a *API) databaseContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(a.DatabaseTimeout, databaseTimeout))
}
