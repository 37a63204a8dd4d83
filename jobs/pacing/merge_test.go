package pacing

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ringback/db"
)

func TestChangeKeepsWhatOthersStored(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0).UTC()
	soon, later, latest := now.Add(2*time.Minute), now.Add(10*time.Minute), now.Add(time.Hour)
	to := func(closings map[string]closing) db.Receiver { return db.Receiver{Closings: encodeClosings(closings)} }
	alice := func(c closing) db.Receiver { return to(map[string]closing{"alice": c}) }
	all := closing{Trips: 3, Down: later, Paused: latest, OneByOne: latest, Claimed: soon, Shook: true}
	bob := map[string]closing{"bob": {Paused: latest}}
	took := db.Receiver{Rate: 100, InFlight: 4, AnsweredFrom: prefixes(here)}
	granted := db.Receiver{GrantedUntil: latest, PerMinute: 60, Prefixes: prefixes(here)}
	for name, test := range map[string]struct{ row, before, stored, want db.Receiver }{
		"nothing is stored":                      {row: alice(all), want: alice(all)},
		"another's closing":                      {stored: alice(all), want: alice(all)},
		"another's closing of another client":    {row: to(bob), stored: alice(all), want: to(map[string]closing{"alice": all, "bob": bob["bob"]})},
		"the later time of each":                 {row: alice(closing{Trips: 1, Down: soon, Paused: latest}), stored: alice(closing{Trips: 2, Down: later, Paused: soon}), want: alice(closing{Trips: 2, Down: later, Paused: latest})},
		"its own closing that ended":             {before: alice(all), stored: alice(all)},
		"its own closing that ended, and longer": {before: alice(closing{Down: soon, Trips: 1}), stored: alice(closing{Down: later, Trips: 2}), want: alice(closing{Down: later, Trips: 2})},
		"its own closing that began anew":        {row: alice(closing{Trips: 2, Down: soon}), before: alice(all), stored: alice(all), want: alice(closing{Trips: 2, Down: soon})},
		"another's closing whose time is over":   {stored: alice(closing{Trips: 1, Down: now, Paused: now, OneByOne: now, Claimed: now})},
		"another's breaker":                      {stored: db.Receiver{ClosedUntil: later, Openings: 3}, want: db.Receiver{ClosedUntil: later, Openings: 3}},
		"another's breaker, half open":           {stored: db.Receiver{ClosedUntil: now.Add(-time.Minute), Openings: 3}, want: db.Receiver{ClosedUntil: now.Add(-time.Minute), Openings: 3}},
		"another's breaker of long ago":          {stored: db.Receiver{ClosedUntil: now.Add(-longestClosing), Openings: 3}},
		"its own breaker that closed":            {before: db.Receiver{ClosedUntil: later, Openings: 3}, stored: db.Receiver{ClosedUntil: later, Openings: 3}},
		"another's pace":                         {stored: took, want: took},
		"its own pace":                           {row: took, stored: db.Receiver{Rate: 7, InFlight: 1, AnsweredFrom: prefixes("192.0.2.7:443")}, want: took},
		"its own pace that it lost":              {before: took, stored: took},
		"another's grant":                        {stored: granted, want: granted},
		"its own grant that ended":               {before: granted, stored: granted},
		"the later end":                          {row: db.Receiver{ExpiresAt: soon}, stored: db.Receiver{ExpiresAt: later}, want: db.Receiver{ExpiresAt: later}},
	} {
		got := Change{Row: test.row, Before: test.before}.Over(test.stored, now)
		if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
