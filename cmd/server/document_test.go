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

// untilServed tells whether the call was answered with 200, and calls again where a busy
// machine refused it.
const untilServed = `(() => {
	const operation = document.querySelector("#operations-Work-doSync");
	const status = operation.querySelector(".live-responses-table tbody .response-col_status")?.innerText ?? "";
	if (status.startsWith("503")) operation.querySelector(".execute").click();
	return status.startsWith("200");
})()`

// The page of the document works in a browser under its own policy, calls no other host,
// and makes a call.
func TestPageOfTheDocument(t *testing.T) {
	t.Parallel()
	p := startHere(t, dbtest.New(t), nil, fingerprint.Do)
	b := openBrowser(t, p)
	b.base = p.url
	waiting := chromedp.WithPollingTimeout(dbtest.Patience)
	b.do(t, chromedp.Navigate(b.base+"/docs"),
		chromedp.Poll(fmt.Sprintf(`document.querySelectorAll(".opblock").length === %d`, len(contract.Load(t).Routes())), nil, waiting),
		chromedp.Click(`#operations-Work-doSync .opblock-summary-control`, chromedp.ByQuery),
		chromedp.Click(`#operations-Work-doSync .try-out__btn`, chromedp.ByQuery),
		chromedp.Click(`#operations-Work-doSync .execute`, chromedp.ByQuery),
		chromedp.Poll(untilServed, nil, waiting, chromedp.WithPollingInterval(100*time.Millisecond)),
	)
	b.wantNothingWrong(t)
}
