package pacing

import (
	"testing"
	"time"

	"ringback/internal/bubble"
	"ringback/jobs/limit"
)

func TestLookups(t *testing.T) {
	t.Parallel()
	// lookUp looks a name up for a client until no lookup is left, and returns how many there were.
	lookUp := func(t *testing.T, p *Pacing, client string, most int, answered bool) (count int, refused limit.Decision) {
		t.Helper()
		pass, decision := p.Enter(t.Context(), Callback{Client: client, URL: hookURL})
		if pass == nil {
			t.Fatalf("got %+v, want a pass", decision)
		}
		for ; count < most; count++ {
			done, ok := pass.Lookup(t.Context())
			if !ok {
				return count, pass.Refused()
			}
			done(answered)
		}
		return count, limit.Decision{}
	}

	t.Run("WithoutAnAnswerTakeASlotForAsLongAsTheNameServerGoesOn", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := newTestPacing(Config{Workers: 400, Shared: true}, &outsideStub{row: known})
			for range 2 {
				count, refused := lookUp(t, p, "mallory", lookupsAtATime, false)
				if count != lookupsAtATime/2 || refused.Reason != Lookups || !refused.RetryAt.After(time.Now()) {
					t.Errorf("got %d lookups and %+v, want half of %d, and a time to come back", count, refused, lookupsAtATime)
				}
				if count, refused = lookUp(t, p, "acme", 10*lookupsAtATime, true); !refused.OK() {
					t.Errorf("beside mallory's, got %d lookups of acme and %+v, want all", count, refused)
				}
				time.Sleep(askedFor)
			}
		})
	})

	t.Run("ComeBackWithinASecondAtFirst", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := newTestPacing(Config{Workers: 400, Shared: true}, &outsideStub{row: known})
			lookUp(t, p, "mallory", lookupsAtATime, false)
			for range 30 {
				if at := p.reserveLookup("mallory", time.Now()); time.Until(at) > 2*time.Second {
					t.Errorf("got a time in %v, want one within two seconds", time.Until(at))
				}
			}
		})
	})

	t.Run("AreAllOfOneClientThatIsAlone", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			p := newTestPacing(Config{Workers: 400}, &outsideStub{row: known})
			if count, _ := lookUp(t, p, "", 2*lookupsAtATime, false); count != lookupsAtATime {
				t.Errorf("got %d lookups, want %d", count, lookupsAtATime)
			}
		})
	})
}
