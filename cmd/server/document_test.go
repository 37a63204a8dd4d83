package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"ringback/api/contract"
	"ringback/db/dbtest"
	"ringback/work/fingerprint"
)

// The page of the document works in a browser under its own policy, calls no other host,
// and makes a call.
func TestPageOfTheDocument(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	b := openBrowser(t, p)
	b.base = p.url
	waiting := chromedp.WithPollingTimeout(time.Minute)
	b.do(t, chromedp.Navigate(b.base+"/docs"),
		chromedp.Poll(fmt.Sprintf(`document.querySelectorAll(".opblock").length === %d`, len(contract.Load(t).Routes())), nil, waiting),
		chromedp.Click(`#operations-Work-doSync .opblock-summary-control`, chromedp.ByQuery),
		chromedp.Click(`#operations-Work-doSync .try-out__btn`, chromedp.ByQuery),
		chromedp.Click(`#operations-Work-doSync .execute`, chromedp.ByQuery),
		chromedp.Poll(`document.querySelector("#operations-Work-doSync .live-responses-table tbody .response-col_status")?.innerText.startsWith("200")`, nil, waiting),
	)
	b.wantNothingWrong(t)
}
