package main

import (
	"fmt"
	"net/http"
	"testing"
)

func TestAnswersGoWrong(t *testing.T) {
	t.Parallel()

	t.Run("shed and failed", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onSync: func(n int, w http.ResponseWriter) {
			switch n {
			case 1:
				w.WriteHeader(http.StatusServiceUnavailable)
			case 2:
				w.WriteHeader(http.StatusTooManyRequests)
			case 3, 4:
				w.WriteHeader(http.StatusInternalServerError)
			case 5:
				panic(http.ErrAbortHandler)
			case 6:
				fmt.Fprint(w, "{}")
			case 7:
				fmt.Fprintf(w, `{"id":%q,"status":"failed"}`, jobID(n))
			case 8:
				w.WriteHeader(http.StatusUnprocessableEntity)
				fmt.Fprint(w, `{"type":"/problems/invalid-input","status":422}`)
			default:
				answerSync(n, w)
			}
		}})
		output := runStorm(t, against(service)...)
		output.want(t, exitOK,
			"sync: connection lost 1, status 422 invalid-input 1, status 500 2, unreadable answer 1, work not succeeded 1")
		output.wantSync(t, requests{ok: 12, shed: 2, rejected: 1, failed: 4, ambiguous: 1})
		output.wantAsync(t, requests{ok: 20})
	})

	t.Run("not one ok", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{
			onSync:  func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
			onAsync: func(_ int, _ job, w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		})
		output := runStorm(t, against(service)...)
		output.want(t, exitBroken, "not one request was answered ok")
		output.wantAsync(t, requests{shed: 20})
	})

	t.Run("no database", func(t *testing.T) {
		t.Parallel()
		// As the service words them: before anything was accepted or done, and perhaps after.
		answers := []string{
			"The service that does the work is down. Nothing was done; try again.",
			"The database doesn't answer, or can't be written. Nothing was accepted; try again.",
			"The database could not finish the call. It may have taken effect all the same: work may be done, and a POST /async may yet be called back.",
		}
		unavailable := func(n int, w http.ResponseWriter) bool {
			if n > len(answers) {
				return false
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintf(w, `{"type":"/problems/unavailable","detail":"%s"}`, answers[n-1])
			return true
		}
		service := start(t, &service{
			onSync: func(n int, w http.ResponseWriter) {
				if !unavailable(n, w) {
					answerSync(n, w)
				}
			},
			onAsync: func(n int, job job, w http.ResponseWriter) {
				if !unavailable(n, w) {
					job.callBack(job.id, "succeeded")
					accept(job, w)
				}
			},
		})
		output := runStorm(t, against(service)...)
		output.want(t, exitOK, "sync: status 503 unavailable 1", "async: status 503 unavailable 1")
		output.wantSync(t, requests{ok: 17, shed: 2, failed: 1})
		output.wantAsync(t, requests{ok: 17, shed: 2, ambiguous: 1})
	})

	t.Run("lost acknowledgement", func(t *testing.T) {
		t.Parallel()
		service := start(t, &service{onAsync: func(n int, job job, w http.ResponseWriter) {
			job.callBack(job.id, "succeeded")
			if n == 5 {
				panic(http.ErrAbortHandler)
			}
			accept(job, w)
		}})
		output := runStorm(t, against(service)...)
		output.want(t, exitOK, "without an acknowledgement, which got lost: 1")
		output.wantAsync(t, requests{ok: 19, ambiguous: 1})
		output.wantCallbacks(t, callbacks{delivered: 19})
	})
}
