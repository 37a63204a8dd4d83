package fingerprint

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"ringback/internal/bubble"
	"ringback/work"
)

func TestDo(t *testing.T) {
	t.Parallel()

	t.Run("FingerprintsAText", func(t *testing.T) {
		t.Parallel()
		// The digests are sha256sum's.
		tests := []struct {
			name  string
			input Input
			want  Result
		}{
			{"OneWord", Input{Text: "hello"}, Result{
				SHA256:  "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
				SimHash: "a430d84680aabd0b", Bytes: 5, Lines: 1, Words: 1,
				TopWords: []WordCount{{"hello", 1}},
			}},
			{"OneMoreRound", Input{Text: "hello", Rounds: 1}, Result{
				SHA256:  "9595c9df90075148eb06860365df33584b75bff782a510c6cd4883a419833d50",
				SimHash: "a430d84680aabd0b", Bytes: 5, Lines: 1, Words: 1,
				TopWords: []WordCount{{"hello", 1}},
			}},
			{"ManyLines", Input{Text: "b a\nB c,\n"}, Result{
				SHA256:  "62e764f0af9056608909e30c67a061caa1532f8a9796f4f39f3bbf33ccb1f50c",
				SimHash: "af63de4c8601e1a4", Bytes: 9, Lines: 2, Words: 4,
				TopWords: []WordCount{{"b", 2}, {"a", 1}, {"c", 1}},
			}},
			{"NoWords", Input{Text: " "}, Result{
				SHA256:  "36a9e7f1c95b82ffb99743e0c5c4ce95d83c9a430aac59f84ef3cbfab6145068",
				SimHash: "0000000000000000", Bytes: 1, Lines: 1, TopWords: []WordCount{},
			}},
		}
		for _, test := range tests {
			var got Result
			output, err := Do(t.Context(), encode(t, test.input))
			if err != nil {
				t.Fatalf("Do(%s): %v", test.name, err)
			}
			if err := json.Unmarshal(output, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Do(%s): -want +got:\n%s", test.name, diff)
			}
		}
	})

	t.Run("EqualInputGivesEqualBytes", func(t *testing.T) {
		t.Parallel()
		input := encode(t, Input{Text: strings.Repeat("one two three two three three é\n", 500), Rounds: 10})
		want, err := Do(t.Context(), input)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			got, err := Do(t.Context(), input)
			if err != nil || string(got) != string(want) {
				t.Fatalf("Do again: got %s, %v, want %s", got, err, want)
			}
		}
	})

	t.Run("NearTextsHaveNearSimHashes", func(t *testing.T) {
		t.Parallel()
		text := strings.Fields(strings.Repeat("the quick brown fox jumps over a lazy dog ", 5))
		near := simHash(text) ^ simHash(append(text, "twice"))
		far := simHash(text) ^ simHash(strings.Fields("wholly other words stand in this sentence"))
		if countOnes(near) >= countOnes(far) {
			t.Errorf("bits that differ: near %d, far %d, want fewer near than far", countOnes(near), countOnes(far))
		}
	})

	t.Run("StopsWhileItWaits", func(t *testing.T) {
		t.Parallel()
		bubble.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			_, err := Do(ctx, encode(t, Input{Text: "x", Delay: MaxDelay}))
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("got %v after %v, want the deadline's error after 1s", err, time.Since(start))
			}
		})
	})

	t.Run("StopsWhileItComputes", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := hash(ctx, "x", MaxRounds); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	})
}

func TestCheck(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, input, want, wantErr string }{
		{"MinimalInput", `{"text":"x"}`, `{"text":"x","rounds":0,"delay_ms":0}`, ""},
		{"EscapesAreDecoded", `{ "text": "\u00e9<" }`, `{"text":"é<","rounds":0,"delay_ms":0}`, ""},
		{
			"LongestText", `{"text":"` + strings.Repeat("x", MaxTextBytes) + `"}`,
			`{"text":"` + strings.Repeat("x", MaxTextBytes) + `","rounds":0,"delay_ms":0}`, "",
		},
		{"LargestNumbers", `{"text":"x","rounds":1000000,"delay_ms":30000}`, `{"text":"x","rounds":1000000,"delay_ms":30000}`, ""},
		{"NoText", `{}`, "", "text is required"},
		{"Null", `null`, "", "text is required"},
		{"EmptyText", `{"text":""}`, "", "text is required"},
		{"TextTooLong", `{"text":"` + strings.Repeat("x", MaxTextBytes+1) + `"}`, "", "text must be at most 65536 bytes"},
		{"NUL", `{"text":"a\u0000b"}`, "", "text must not contain U+0000"},
		{"RoundsTooMany", `{"text":"x","rounds":1000001}`, "", "rounds must be from 0 to 1000000"},
		{"RoundsNegative", `{"text":"x","rounds":-1}`, "", "rounds must be from 0"},
		{"DelayTooLong", `{"text":"x","delay_ms":30001}`, "", "delay_ms must be from 0 to 30000"},
		{"UnknownField", `{"text":"x","colour":1}`, "", "unknown object member"},
		{"OtherCase", `{"Text":"x"}`, "", "unknown object member"},
		{"TwiceTheSameField", `{"text":"x","text":"y"}`, "", "duplicate"},
		{"WrongType", `{"text":1}`, "", "/text"},
		{"Fraction", `{"text":"x","rounds":1.5}`, "", "/rounds"},
		{"HugeExponent", `{"text":"x","rounds":1e999999}`, "", "/rounds"},
		{"LoneSurrogate", `{"text":"\ud800"}`, "", "surrogate"},
		{"Array", `[]`, "", "array"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := Check(jsontext.Value(test.input))
			if string(got) != test.want {
				t.Errorf("Check(%.80s): got %.80s, want %.80s", test.input, got, test.want)
			}
			if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("Check(%.80s): got error %v, want one with %q", test.input, err, test.wantErr)
			}
		})
	}
}

func FuzzCheckThenDo(f *testing.F) {
	for _, seed := range []string{`{"text":"hello"}`, `{"text":"\ud800"}`, `{"text":"a\u0000"}`, `{"text":"x","rounds":3,"delay_ms":0}`, `null`, `[`, "{\"text\":\"\xff\"}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		input, err := Check(jsontext.Value(raw))
		if err != nil {
			return
		}
		if again, err := Check(input); err != nil || string(again) != string(input) {
			t.Fatalf("Check(%q) = %q, and again %q, %v: want the same", raw, input, again, err)
		}
		var in Input
		if err := json.Unmarshal(input, &in); err != nil {
			t.Fatal(err)
		}
		in.Rounds, in.Delay = in.Rounds%100, 0
		result, err := Do(t.Context(), encode(t, in))
		if err != nil || !result.IsValid() || len(result) > work.MaxResultBytes {
			t.Fatalf("Do(%q): got %q, %v, want a small valid result", input, result, err)
		}
	})
}

// BenchmarkDo is a fingerprint without extra rounds.
func BenchmarkDo(b *testing.B) {
	const sentence = "The quick brown fox jumps over the lazy dog, again and again.\n"
	for name, size := range map[string]int{"200B": 200, "64KiB": MaxTextBytes} {
		b.Run(name, func(b *testing.B) {
			input := encode(b, Input{Text: strings.Repeat(sentence, size/len(sentence)+1)[:size]})
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := Do(b.Context(), input); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func encode(t testing.TB, input Input) jsontext.Value {
	t.Helper()
	encoded, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

func countOnes(v uint64) (ones int) {
	for ; v != 0; v &= v - 1 {
		ones++
	}
	return ones
}

func TestSchemaAgreesWithCheck(t *testing.T) {
	t.Parallel()
	catalog, err := work.NewCatalog(work.Set{"fingerprint": Work}, "fingerprint", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	_, err = catalog.Default().Accept(jsontext.Value(`{"rounds":-1,"delay_ms":30001,"colour":1}`))
	var all work.Mistakes
	if !errors.As(err, &all) || len(all) != 4 {
		t.Errorf("got %v, want four mistakes", err)
	}
	for _, limit := range []int{MaxTextBytes, MaxRounds, MaxDelay} {
		if !strings.Contains(schema, fmt.Sprint(limit)) {
			t.Errorf("the schema doesn't name %d", limit)
		}
	}
}
