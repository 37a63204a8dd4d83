package db

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"
)

// field is a column of a table, for its rows of type T. The statements that write and
// read whole rows take their parts from a table's list of fields. README.md says what
// else a new column needs.
type field[T any] struct {
	name   string
	kind   string             // SQL type of the argument that writes the column; empty where rows aren't written with it
	values func(rows []T) any // that argument: an array with a value of each row
	store  string             // expression that the argument is stored by; empty for the name
	read   string             // expression that the column is read by; empty for the name
	target func(row *T) any   // where the column is read to; nil where it isn't read with the others
}

// written is a field that rows are written with, and read into target unless that is nil.
func written[T, V any](name, kind string, value func(T) V, target func(*T) any) field[T] {
	return field[T]{name: name, kind: kind, values: func(rows []T) any { return column(rows, value) }, target: target}
}

// by gives a field other expressions than its name.
func (f field[T]) by(store, read string) field[T] {
	f.store, f.read = store, read
	return f
}

// fields are columns in the order in which statements name them.
type fields[T any] []field[T]

// written are the fields that rows are written with.
func (all fields[T]) written() fields[T] {
	return all.having(func(f field[T]) bool { return f.values != nil })
}

// read are the fields that are read together.
func (all fields[T]) read() fields[T] {
	return all.having(func(f field[T]) bool { return f.target != nil })
}

func (all fields[T]) having(is func(field[T]) bool) (some fields[T]) {
	for _, f := range all {
		if is(f) {
			some = append(some, f)
		}
	}
	return some
}

// names are the columns, separated by commas.
func (all fields[T]) names() string {
	return all.join(func(_ int, f field[T]) string { return f.name })
}

// stored are the expressions that store unnested arguments.
func (all fields[T]) stored() string {
	return all.join(func(_ int, f field[T]) string { return cmp.Or(f.store, f.name) })
}

// reads are the expressions that read the columns, under their names.
func (all fields[T]) reads() string {
	return all.join(func(_ int, f field[T]) string {
		if f.read == "" {
			return f.name
		}
		return f.read + " AS " + f.name
	})
}

// replaced sets the columns to the conflicting row's.
func (all fields[T]) replaced() string {
	return all.join(func(_ int, f field[T]) string { return f.name + " = excluded." + f.name })
}

// arrays are the parameters from $first on, for unnest.
func (all fields[T]) arrays(first int) string {
	return all.join(func(i int, f field[T]) string { return fmt.Sprintf("$%d::%s[]", first+i, f.kind) })
}

func (all fields[T]) join(part func(i int, f field[T]) string) string {
	parts := make([]string, len(all))
	for i, f := range all {
		parts[i] = part(i, f)
	}
	return strings.Join(parts, ", ")
}

// args are the arguments of arrays.
func (all fields[T]) args(rows []T) []any {
	args := make([]any, len(all))
	for i, f := range all {
		args[i] = f.values(rows)
	}
	return args
}

// targets are where a row's columns are read to.
func (all fields[T]) targets(row *T) []any {
	targets := make([]any, len(all))
	for i, f := range all {
		targets[i] = f.target(row)
	}
	return targets
}

// column takes a value of each item. A statement that unnests such columns has one text,
// and so is prepared once, for any number of rows.
func column[T, V any](items []T, value func(T) V) pgtype.FlatArray[V] {
	values := make(pgtype.FlatArray[V], len(items)) // pgx would read a plain slice by reflection
	for i, item := range items {
		values[i] = value(item)
	}
	return values
}
