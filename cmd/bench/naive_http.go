package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"ringback/db"
	"ringback/work/fingerprint"
)

// These are what the service's API does to a POST /async, step by step, so that
// the two differ in what they ask of Postgres and in nothing else.

const naiveMaxBody = 256 << 10 // bytes

func (n *naiveServer) routes() http.Handler {
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(n.observe)
	router.POST("/async", n.postAsync)
	router.GET("/healthz", func(c *gin.Context) { c.Status(http.StatusOK) })
	return router
}

// observe writes the call's one log line.
func (n *naiveServer) observe(c *gin.Context) {
	start := time.Now()
	callID := uuid.NewString()
	c.Header("X-Request-Id", callID)
	c.Header("Cache-Control", "no-store")
	_ = http.NewResponseController(c.Writer).SetReadDeadline(start.Add(10 * time.Second))
	c.Next()
	level := slog.LevelInfo
	if c.FullPath() == "/healthz" {
		level = slog.LevelDebug
	}
	n.logger.Log(c.Request.Context(), level, "http_request",
		"method", c.Request.Method, "route", c.FullPath(), "status", c.Writer.Status(),
		"duration_ms", float64(time.Since(start).Microseconds())/1000, "http_request_id", callID,
		"client", "local", "bytes_in", c.Request.ContentLength, "bytes_out", c.Writer.Size(),
		"request_id", c.GetString("request"))
}

func (n *naiveServer) postAsync(c *gin.Context) {
	request, err := n.read(c)
	if err != nil {
		n.answer(c, http.StatusUnprocessableEntity, map[string]string{"detail": err.Error()})
		return
	}
	select {
	case n.gate <- struct{}{}:
		defer func() { <-n.gate }()
	default:
		n.answer(c, http.StatusServiceUnavailable, map[string]string{"detail": "busy"})
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), 1500*time.Millisecond)
	defer cancel()
	if err := n.accept(ctx, request); err != nil {
		n.logger.ErrorContext(ctx, "accept_failed", "error", err)
		n.answer(c, http.StatusServiceUnavailable, map[string]string{"detail": "unavailable"})
		return
	}
	c.Header("Location", "/requests/"+request.ID.String())
	n.answer(c, http.StatusAccepted, struct {
		ID         uuid.UUID `json:"id"`
		Status     string    `json:"status"`
		AcceptedAt time.Time `json:"accepted_at"`
	}{request.ID, request.Status, request.AcceptedAt})
}

func (n *naiveServer) read(c *gin.Context) (naiveRequest, error) {
	var body struct {
		Input       jsontext.Value `json:"input"`
		CallbackURL string         `json:"callback_url"`
	}
	if err := decodeBody(c, &body); err != nil {
		return naiveRequest{}, err
	}
	input, err := fingerprint.Check(body.Input)
	if err != nil {
		return naiveRequest{}, err
	}
	callbackURL, err := n.policy.Check(body.CallbackURL)
	if err != nil {
		return naiveRequest{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return naiveRequest{}, err
	}
	c.Set("request", id.String())
	return naiveRequest{
		ID: id, Mode: "async", Status: "accepted", Input: input,
		CallbackURL: callbackURL, CallbackState: "waiting",
		AcceptedAt: time.Now().UTC().Truncate(time.Microsecond),
	}, nil
}

func decodeBody(c *gin.Context, target any) error {
	media, _, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if err != nil || media != "application/json" {
		return errors.New("the Content-Type must be application/json")
	}
	body := bytes.NewBuffer(make([]byte, 0, max(c.Request.ContentLength, 0)+bytes.MinRead))
	if _, err := body.ReadFrom(http.MaxBytesReader(c.Writer, c.Request.Body, naiveMaxBody)); err != nil {
		return fmt.Errorf("reading body: %w", err)
	}
	_ = http.NewResponseController(c.Writer).SetReadDeadline(time.Time{})
	return json.Unmarshal(body.Bytes(), target, json.RejectUnknownMembers(true))
}

func (n *naiveServer) answer(c *gin.Context, status int, body any) {
	encoded, err := json.Marshal(body)
	if err != nil {
		status = http.StatusInternalServerError
	}
	c.Header("Content-Type", "application/json")
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(10 * time.Second))
	c.Status(status)
	_, _ = c.Writer.Write(append(encoded, '\n')) // an error means that the caller is gone
}

// accept is the one transaction that gives the handler its name.
func (n *naiveServer) accept(ctx context.Context, request naiveRequest) error {
	return db.InTx(ctx, n.pool, func(tx pgx.Tx) error {
		job, err := n.client.InsertTx(ctx, tx, naiveWork{request.ID}, insertInto(naiveWorkQueue))
		if err != nil {
			return fmt.Errorf("inserting work job: %w", err)
		}
		request.WorkJobID = job.Job.ID
		return insertNaive(ctx, tx, request)
	})
}
