package console

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"ringback/db"
	"ringback/jobs"
)

const (
	// groupedLetters is how many of a client's dead letters are grouped, the latest first, and
	// groupedInAll how many of all clients: each takes a look at its latest attempt.
	groupedLetters = 1000
	groupedInAll   = 10_000
	// redeliveredAtOnce is how many dead letters a click delivers again.
	redeliveredAtOnce = 1000
	redeliveryRate    = 10 // a second
)

// letterGroup is a group of dead letters that failed alike.
type letterGroup struct{ db.DeadLetterGroup }

// Said is the receiver's answer in a few words.
func (g letterGroup) Said() string {
	return said(db.Attempt{Outcome: g.Outcome, HTTPStatus: g.HTTPStatus, Cause: g.Cause})
}

// Requests is the URL of the group's requests.
func (g letterGroup) Requests() string {
	return "/requests?" + url.Values{"client": {g.Client}, "host": {g.Host}, "callback": {string(db.CallbackDead)}}.Encode()
}

// Redeliver is the URL that asks whether to deliver the group again.
func (g letterGroup) Redeliver() string {
	return "/dead-letters/redeliver?" + url.Values{"client": {g.Client}, "host": {g.Host}}.Encode()
}

type deadLettersPage struct {
	Groups      []letterGroup
	Most, InAll int
}

func (c *Console) deadLetters(r *http.Request) (view, error) {
	names, err := c.clientNames(r.Context())
	if err != nil {
		return view{}, err
	}
	groups, err := db.GroupDeadLetters(r.Context(), c.Reads, names, groupedLetters, groupedInAll)
	if err != nil {
		return view{}, err
	}
	page := deadLettersPage{Groups: make([]letterGroup, len(groups)), Most: groupedLetters, InAll: groupedInAll}
	for i, group := range groups {
		page.Groups[i] = letterGroup{group}
	}
	return view{page: "deadletters", title: "Dead letters", data: page}, nil
}

// askRedeliver is the dry run: it counts the dead letters that would be delivered again.
func (c *Console) askRedeliver(r *http.Request) (view, error) {
	matched, more, err := c.matching(r)
	if err != nil {
		return view{}, err
	}
	client, host := r.Form.Get("client"), r.Form.Get("host")
	number := strconv.Itoa(len(matched))
	if more {
		number = "the oldest " + number
	}
	refused := 0
	for _, request := range matched {
		if c.CheckCallback(request.Client, request.CallbackURL) != nil {
			refused++
		}
	}
	q := question{
		Asks: fmt.Sprintf("Deliver %s dead letters of %s to %s again, %d a second?", number, client, host, redeliveryRate),
		Does: "Deliver again", Back: "/dead-letters", Fields: map[string]string{"client": client, "host": host},
	}
	if refused > 0 {
		q.Asks += fmt.Sprintf(" %d may not go there any more, and would stay.", refused)
	}
	return view{page: "question", title: "Deliver dead letters again", data: q}, nil
}

func (c *Console) matching(r *http.Request) (matched []db.Request, more bool, err error) {
	if err := r.ParseForm(); err != nil {
		return nil, false, mistake("the form can't be read")
	}
	filter := db.Filter{
		Client: r.Form.Get("client"), Mode: db.Async, CallbackState: db.CallbackDead, CallbackHost: strings.ToLower(strings.TrimSpace(r.Form.Get("host"))),
		OldestFirst: true, Limit: redeliveredAtOnce, Window: 2 * redeliveredAtOnce,
	}
	if filter.Client == "" || filter.CallbackHost == "" {
		return nil, false, mistake("a client and a host are needed")
	}
	// A window may hold few dead letters of the host. The search ends with the dead
	// letters.
	for len(matched) < filter.Limit {
		page, err := db.ListRequests(r.Context(), c.Reads, filter)
		if err != nil {
			return nil, false, err
		}
		matched = append(matched, page.Requests...)
		if more = page.Next != uuid.Nil; !more {
			break
		}
		filter.Cursor = page.Next
	}
	if len(matched) == 0 {
		return nil, false, mistake("there are no such dead letters any more")
	}
	return matched[:min(len(matched), filter.Limit)], more, nil
}

func (c *Console) redeliver(r *http.Request) (view, error) {
	matched, _, err := c.matching(r)
	if err != nil {
		return view{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), pageTimeout)
	defer cancel()
	var wanted []jobs.Redelivery
	for _, request := range matched {
		if c.CheckCallback(request.Client, request.CallbackURL) == nil {
			wanted = append(wanted, jobs.Redelivery{
				Redelivery:  db.Redelivery{RequestID: request.ID, Client: request.Client, From: db.CallbackDead},
				CallbackURL: request.CallbackURL,
			})
		}
	}
	for i, due := range jobs.Spaced(time.Now(), len(wanted), redeliveryRate) {
		wanted[i].At = due
	}
	done, err := c.Queue.Redeliver(ctx, wanted)
	if err != nil {
		return view{}, err
	}
	told := fmt.Sprintf("%d of %d dead letters are on their way again.", done.Count, len(matched))
	if refused := len(matched) - len(wanted); refused > 0 {
		told += fmt.Sprintf(" %d may not go there any more.", refused)
	}
	for _, refusal := range done.Refused {
		told += fmt.Sprintf(" %d were refused: %s.", refusal.Count, refusal.Reason)
	}
	return view{page: "told", title: "Dead letters", data: told}, nil
}
