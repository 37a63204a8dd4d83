package db

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that have a meaning of their own here.
const (
	readOnlyTransaction = "25006"
	abortedTransaction  = "25P02"
	notReady            = "55000" // an object isn't in the state that is needed
	lockNotAvailable    = "55P03"
	queryCancelled      = "57014" // by statement_timeout, or by an operator
)

// IsUnavailable tells whether err is the database's, so that the same call may succeed later. The
// database can't be reached, is starting or stopping, out of resources, read-only, too slow,
// denies what Ringback needs, or has a broken schema.
func IsUnavailable(err error) bool {
	if errors.Is(err, context.Canceled) { // by the caller; pgconn's error for it looks like the network's
		return false
	}
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		switch answer.Code[:2] {
		case "08", // connection exception
			"40", // serialization failure, deadlock
			"53", // insufficient resources
			"57", // operator intervention: shutdown, crash, starting up; also statement_timeout
			"58": // system error
			return true
		}
		return answer.Code == readOnlyTransaction || // a failover is under way
			answer.Code == lockNotAvailable ||
			isDenial(answer.Code) || isBreakage(answer) || isWraparound(answer) ||
			answer.Code == "25P03" || answer.Code == "25P04" // a session or transaction timeout
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded) ||
		pgconn.SafeToRetry(err) || strings.Contains(err.Error(), "conn closed") // pgconn has no name for it
}

// IsDenied tells whether an operator has taken away or changed what the service needs, such
// as a privilege, a table or an index, or refuses its login. Only an operator can give it
// back.
func IsDenied(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && (isDenial(answer.Code) || isBreakage(answer))
}

func isDenial(code string) bool {
	switch code {
	case "42501", // no privilege
		"42P01", "42703", "42883", "42704", // no such table, column, function, or type: also a search_path that misses them
		"3D000", "3F000": // no such database, or schema
		return true
	}
	return code[:2] == "28" // the login
}

// isBreakage tells whether any row would meet answer, since the schema isn't as the
// migrations left it, or can't be read.
func isBreakage(answer *pgconn.PgError) bool {
	switch answer.Code {
	case notReady, // such as a published table without a replica identity
		"2200H", // a sequence at its end
		"23502": // no value for a column that is required: the statements give one to each column of the migrations
		return true
	case "42601": // a statement that is none is the program's mistake
		return false
	}
	if isOfForeignFunction(answer) {
		return true
	}
	switch answer.Code[:2] {
	case "42", // such as ON CONFLICT without its index, or a column whose name or type is another's
		"P0", // raised by a trigger
		"XX": // a damaged file
		return !isDenial(answer.Code)
	case "23":
		return answer.ConstraintName != "" && !isOurs(answer.ConstraintName)
	}
	return false
}

// isOfForeignFunction tells whether a function that the migrations didn't make, such as a
// trigger's, failed by a value. The rows that we write have no such values.
func isOfForeignFunction(answer *pgconn.PgError) bool {
	switch answer.Code[:2] {
	case "21", "22", "23", "44", "54":
	default:
		return false
	}
	for line := range strings.Lines(answer.Where) {
		if called := functionOf.FindStringSubmatch(line); called != nil && !ourNames()[called[1]] {
			return true
		}
	}
	return false
}

// functionOf finds the name in a line of an error's context, whose words are in the
// database's language: "PL/pgSQL function name(text) line 3 at RAISE".
var functionOf = regexp.MustCompile(`^PL/[^()]*\b(\w+)\(`)

// isOurs tells whether a row that breaks a constraint is to blame. Other constraints are
// made by hand; a job's number that is taken comes from a sequence that is behind.
func isOurs(constraint string) bool {
	const numbersOfJobs = "river_job_pkey"
	return ourNames()[constraint] || strings.HasSuffix(constraint, "_pkey") && constraint != numbersOfJobs
}

// ourNames are all words of the migrations.
var ourNames = sync.OnceValue(func() map[string]bool {
	files := Migrations()
	paths, err := fs.Glob(files, "*.up.sql")
	if err != nil {
		panic(err) // the pattern is well-formed
	}
	names := map[string]bool{}
	for _, path := range paths {
		text, err := fs.ReadFile(files, path)
		if err != nil {
			panic(err) // the file is embedded
		}
		for _, name := range regexp.MustCompile(`\w+`).FindAllString(string(text), -1) {
			names[name] = true
		}
	}
	return names
})

// isWraparound tells whether Postgres gives out no more transaction ids, so that it doesn't
// give out an id twice. It has no state of its own for that.
func isWraparound(answer *pgconn.PgError) bool {
	return answer.Code == "54000" && (answer.Routine == "GetNewTransactionId" || answer.Routine == "GetNewMultiXactId")
}

// IsRefused tells whether a row of a statement may have caused err. Class 22 is a value that
// doesn't fit its type, 23 a constraint that a row breaks. Class 54 is a value that is too much
// for Postgres, such as JSON that is nested too deep.
func IsRefused(err error) bool {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || isBreakage(refused) || isWraparound(refused) {
		return false
	}
	class := refused.Code[:2]
	return class == "22" || class == "23" || class == "54"
}

// Fault is a kind of trouble with the database that no statement is to blame for.
type Fault string

// All kinds of it.
const (
	Away        Fault = "away"
	Untrusted   Fault = "untrusted" // by its certificate, or for want of TLS
	ReadOnly    Fault = "read_only"
	DiskFull    Fault = "disk_full"
	NoResources Fault = "no_resources" // such as connections or memory, or open files of this process
	Locked      Fault = "locked"
	Denied      Fault = "denied"     // a privilege, the login, or a table or column that is gone
	Broken      Fault = "broken"     // the schema isn't as the migrations left it, or can't be read
	Wraparound  Fault = "wraparound" // transaction ids are used up
	Slow        Fault = "slow"       // a statement or commit took too long, such as a commit that waits for a standby
)

// Faults are all kinds of trouble, each with its remedy.
var Faults = map[Fault]string{
	Away:        "bring the database back, or name its new address in DATABASE_URL; waiting steps go on by themselves",
	Untrusted:   "renew the certificate of the database, or name the authority that signed it by sslrootcert in DATABASE_URL; or, where the database refused TLS, set ssl = on there",
	ReadOnly:    "promote a standby, or name the primary in DATABASE_URL (several addresses may stand there, with commas); new connections take the first address that can be written; or reset default_transaction_read_only, where somebody set it for the server, the database or the role",
	DiskFull:    "free space on the database's disk or enlarge it",
	NoResources: "end sessions of other programs (pg_stat_activity), raise max_connections (or the memory) of the database or the CONNECTION LIMIT of the role or database, or lower pool_max_conns in DATABASE_URL; where the error says too many open files, raise the limit of this process (ulimit -n, LimitNOFILE); waiting steps go on by themselves",
	Locked:      "end the session that holds the lock: SELECT pg_terminate_backend(pid)",
	Denied:      "give back what the error names: a privilege (GRANT), the login or password of DATABASE_URL's role, the database (ALTER DATABASE … ALLOW_CONNECTIONS), or the table, column or search_path that somebody changed; waiting steps go on by themselves",
	Broken:      "undo what the error names: an index, trigger, constraint or column that somebody dropped, added or changed; a table that is published without REPLICA IDENTITY; a sequence behind the numbers of its table (setval); or repair a damaged index (REINDEX); waiting steps go on by themselves",
	Wraparound:  "VACUUM the database, once the oldest transactions (pg_stat_activity), prepared transactions (pg_prepared_xacts) and replication slots (pg_replication_slots) are ended; waiting steps go on by themselves",
	Slow:        "look in pg_stat_activity for the wait of the statements: a lock (end the session that holds it), SyncRep (a synchronous standby that is gone: bring it back, or take it out of synchronous_standby_names), or a disk that is too slow",
}

// RemedyOf is the remedy of the fault that err shows, for an err for which IsUnavailable holds.
func RemedyOf(err error) string {
	if fault := faultOf(err); fault != "" {
		return Faults[fault]
	}
	return Faults[Away]
}

// faultOf tells which fault of the database err shows, "" for none.
func faultOf(err error) Fault {
	var answer *pgconn.PgError
	switch {
	case err == nil || !IsUnavailable(err):
		return ""
	case strings.Contains(err.Error(), "read only connection"): // pgconn has no name for it
		return ReadOnly
	case errors.As(err, &answer) && answer.Code == notReady && IsConnectError(err): // by ALLOW_CONNECTIONS false
		return Denied
	case isMistrust(err):
		return Untrusted
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return NoResources
	case errors.As(err, &answer) && isBreakage(answer):
		return Broken
	case errors.As(err, &answer) && isWraparound(answer):
		return Wraparound
	case answer != nil:
		return faultOfState(answer.Code)
	case errors.Is(err, context.DeadlineExceeded) && !IsConnectError(err):
		return Slow
	}
	return Away
}

func faultOfState(code string) Fault {
	switch {
	case code == readOnlyTransaction:
		return ReadOnly
	case code == "53100":
		return DiskFull
	case code[:2] == "53":
		return NoResources
	case code == lockNotAvailable:
		return Locked
	case isDenial(code):
		return Denied
	case code == queryCancelled, code[:2] == "25":
		return Slow
	case code[:2] == "40": // a deadlock is over once it is told
		return ""
	}
	return Away
}

// IsConnectError tells whether err shows that no connection came about.
func IsConnectError(err error) bool {
	var connect *pgconn.ConnectError
	return errors.As(err, &connect)
}

// isOfOne tells whether a fault may concern a single table, and so a single step.
func (f Fault) isOfOne() bool { return f.isWait() || f.isOfSchema() }

// isOfSchema tells whether an operator has to give back a part of the schema.
func (f Fault) isOfSchema() bool { return f == Denied || f == Broken }

// isWait tells whether a lock may be behind a fault.
func (f Fault) isWait() bool { return f == Locked || f == Slow }
