package stage

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestStageEndsAtTheFirstErrorAndTakesDownAllOfIt(t *testing.T) {
	t.Parallel()
	var order []string
	failing, left := errors.New("out of order"), errors.New("still there")
	err := On(t.Context(), func(s *Stage) {
		s.AtEnd(func() error { order = append(order, "first"); return nil })
		s.Scene("measuring nothing", func(s *Stage) {
			s.AtEnd(func() error { order = append(order, "inner"); return left })
			s.Must(nil)
			order = append(order, "measured")
			s.Must(failing)
			t.Error("it goes on after an error")
		})
		t.Error("it goes on after a scene that failed")
	})
	if !errors.Is(err, failing) || !errors.Is(err, left) || !strings.HasPrefix(err.Error(), "measuring nothing: ") {
		t.Errorf("got %v, want both errors, and the scene", err)
	}
	if want := []string{"measured", "inner", "first"}; !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
}
