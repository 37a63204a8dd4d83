// Package cli has the commands of callers. They speak HTTP with an API key, as any caller
// does, and know neither the database nor the settings of a server.
package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Program is the program that the commands are part of.
type Program struct {
	Environ     map[string]string
	Version     string
	LocalSecret string // signs callbacks in local mode
}

// Commands are all commands of callers. Each takes the flag --json of the command above it.
func Commands(p Program) []*cobra.Command {
	return []*cobra.Command{requestsCommands(p), listenCommand(p), worksCommand(p)}
}

// Group is a command that does nothing without a subcommand.
func Group(name, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: name + " COMMAND", Short: short, Long: long, DisableFlagsInUseLine: true,
		Args: func(group *cobra.Command, args []string) error {
			var names []string
			for _, command := range group.Commands() {
				names = append(names, command.Name())
			}
			if len(args) == 0 {
				return fmt.Errorf("%s must be followed by one of %s", name, strings.Join(names, ", "))
			}
			return fmt.Errorf("%s must be followed by one of %s, not %q", name, strings.Join(names, ", "), args[0])
		},
		RunE: func(*cobra.Command, []string) error { return nil }, // its Args refuse everything
	}
}

// asJSON tells whether a command is to print for programs.
func asJSON(command *cobra.Command) bool {
	set, err := command.Flags().GetBool("json")
	return set && err == nil
}

// WriteJSON writes a value on a line of its own. JSON may hold the control characters beyond
// ASCII's first 32 as they are, which some terminals obey, so they are escaped.
func WriteJSON(out io.Writer, value any) error {
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	var line bytes.Buffer
	for _, r := range string(encoded) {
		if unicode.IsControl(r) {
			fmt.Fprintf(&line, `\u%04x`, r)
		} else {
			line.WriteRune(r)
		}
	}
	line.WriteByte('\n')
	_, err = out.Write(line.Bytes())
	return err
}

// choice is a flag that takes some words only.
type choice struct {
	value *string
	words []string
}

// Choice is a flag that takes some words only.
func Choice(value *string, words ...string) pflag.Value { return &choice{value, words} }

func (c *choice) String() string { return *c.value }
func (c *choice) Type() string   { return "word" }

func (c *choice) Set(text string) error {
	if !slices.Contains(c.words, text) {
		last := len(c.words) - 1
		return fmt.Errorf("must be %s or %s", strings.Join(c.words[:last], ", "), c.words[last])
	}
	*c.value = text
	return nil
}

// addChoice gives a command such a flag, and shells the words.
func addChoice(command *cobra.Command, value *string, name string, words ...string) {
	command.Flags().Var(Choice(value, words...), name, strings.Join(words, ", "))
	_ = command.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
}

// given is a flag that takes a text. An empty text, as of a shell's variable that isn't set,
// is refused: it would mean the same as no flag, and so select everything.
func given(value *string) pflag.Value { return (*text)(value) }

type text string

func (t *text) String() string { return string(*t) }
func (t *text) Type() string   { return "string" }

func (t *text) Set(value string) error {
	if value == "" {
		return errors.New("must not be empty")
	}
	*t = text(value)
	return nil
}

// Switch adds a flag that stands alone, or before true or false.
func Switch(flags *pflag.FlagSet, value *bool, name, short, usage string) {
	flags.VarPF((*onOff)(value), name, short, usage).NoOptDefVal = "true"
}

type onOff bool

func (o *onOff) String() string { return strconv.FormatBool(bool(*o)) }
func (o *onOff) Type() string   { return "bool" }

func (o *onOff) Set(text string) error {
	read, err := strconv.ParseBool(text)
	if err != nil {
		return errors.New("must be true or false")
	}
	*o = onOff(read)
	return nil
}

// webURL reads a URL by http or https that names a host, with a port that there is.
func webURL(text string) (*url.URL, bool) {
	read, err := url.Parse(text)
	if err != nil || read.Scheme != "http" && read.Scheme != "https" || read.Hostname() == "" || read.Fragment != "" {
		return nil, false
	}
	return read, read.Port() == "" || isPort(read.Port())
}

func isPort(text string) bool {
	number, err := strconv.ParseUint(text, 10, 16)
	return err == nil && number > 0
}

// moment is a flag that takes a time, or how long ago it was.
type moment struct{ time.Time }

func (m *moment) Type() string { return "time" }

func (m *moment) String() string {
	if m.IsZero() {
		return ""
	}
	return m.UTC().Format(time.RFC3339Nano)
}

func (m *moment) Set(text string) (err error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		m.Time = time.Now().Add(-ago)
		return nil
	}
	// The zero time would mean the same as no flag: that of a program's empty field.
	if m.Time, err = time.Parse(time.RFC3339, text); err != nil || m.IsZero() {
		return errors.New("must be a time such as 2026-11-24T00:00:00Z, or how long ago it was, such as 2h")
	}
	return nil
}

// numberIn reads a whole number.
func numberIn(value *int, least, most int) pflag.Value { return &number{value, least, most} }

type number struct {
	value       *int
	least, most int
}

func (n *number) String() string { return fmt.Sprint(*n.value) }
func (n *number) Type() string   { return "N" }

func (n *number) Set(text string) error {
	read, err := strconv.Atoi(text)
	if err != nil || read < n.least || read > n.most {
		return fmt.Errorf("must be a whole number from %d to %d", n.least, n.most)
	}
	*n.value = read
	return nil
}

// parseID reads the id of a request, which is the webhook-id of its callbacks, too.
func parseID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(strings.TrimPrefix(text, "req_"))
	if err != nil {
		return id, fmt.Errorf("%q is not the id of a request, such as 01a20bd7-2978-722f-bf9b-7fdc9ae0399b", text)
	}
	return id, nil
}

// printable makes foreign text fit for a terminal, on one line.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
