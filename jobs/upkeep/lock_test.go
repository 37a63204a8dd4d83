package upkeep

import (
	"testing"
	"time"

	"ringback/db"
)

func TestAbsences(t *testing.T) {
	t.Parallel()
	type look struct {
		at   int    // milliseconds
		free string // holders of locks, a letter each
		beat int    // when b was last seen, milliseconds
	}
	tests := []struct {
		name  string
		from  int // milliseconds
		looks []look
		want  string
	}{
		{"FreeForASecondIsGone", 0, []look{{0, "b", 0}, {500, "b", 0}, {1000, "b", 0}}, "b"},
		{"FreeForLessIsNot", 0, []look{{0, "b", 0}, {500, "b", 0}, {999, "b", 0}}, ""},
		{"FreeOnceIsNot", 0, []look{{5000, "b", 0}}, ""},
		{"HeldInBetweenIsNot", 0, []look{{0, "b", 0}, {500, "", 0}, {1000, "b", 0}}, ""},
		{"HeldAgainIsNot", 0, []look{{0, "b", 0}, {500, "b", 0}, {1000, "b", 0}, {1500, "", 0}}, ""},
		{"SignOfLifeBeginsAnew", 0, []look{{0, "b", 0}, {500, "b", 400}, {1000, "b", 400}}, ""},
		{"ASecondAfterTheLastSignOfLifeIsGone", 0, []look{{0, "b", 0}, {500, "b", 400}, {1000, "b", 400}, {1500, "b", 400}}, "b"},
		{"PauseOfThisProcessBeginsAnew", 0, []look{{0, "b", 0}, {5000, "b", 0}}, ""},
		{"ASecondAfterThePauseIsGone", 0, []look{{0, "b", 0}, {5000, "b", 0}, {5500, "b", 0}, {6000, "b", 0}}, "b"},
		{"LookMissedIsForgiven", 0, []look{{0, "b", 0}, {1000, "b", 0}}, "b"},
		{"FreeWhileTheOthersComeBackIsNot", 2000, []look{{0, "b", 0}, {900, "b", 0}, {1800, "b", 0}, {2700, "b", 0}}, ""},
		{"FreeForASecondAfterThatIsGone", 2000, []look{{0, "b", 0}, {900, "b", 0}, {1800, "b", 0}, {2500, "b", 0}, {3000, "b", 0}}, "b"},
		{"EachIsJudgedByItself", 0, []look{{0, "b", 0}, {500, "bc", 0}, {1000, "bc", 0}}, "b"},
		{"AllMayBeGone", 0, []look{{0, "bc", 0}, {500, "bc", 0}, {1000, "bc", 0}}, "bc"},
		{"NobodyIsWithoutALook", 0, nil, ""},
	}
	at := func(milliseconds int) time.Time { return morning.Add(time.Duration(milliseconds) * time.Millisecond) }
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			absent := absences{from: at(test.from)}
			for _, look := range test.looks {
				var free []db.Process
				for _, id := range look.free {
					free = append(free, db.Process{ID: string(id), SeenAt: at(look.beat)})
				}
				absent = absent.at(at(look.at), free)
			}
			got := map[string]bool{}
			for _, process := range absent.gone() {
				got[process.ID] = true
			}
			for _, id := range "bc" {
				if want := len(test.want) > 0 && (test.want == "bc" || test.want == string(id)); got[string(id)] != want {
					t.Errorf("looks %v, counted from %d: %c is gone: %v, want %v", test.looks, test.from, id, !want, want)
				}
			}
		})
	}
}
