// Package db is Ringback's whole use of Postgres: the pools, the schema, and the statements, which
// stand in a file by the table that they write or read. Functions take a Querier or a pgx.Tx and
// never begin, commit or retry: the caller owns the transaction, so they compose.
//
// A request is a row that four statements change. Each takes a set of requests, and writes the job
// of the next step in the same transaction. It passes over requests in another state, so a step
// that runs again does no harm:
//
//	                 InsertRequests           FinishRequests              SettleCallbacks
//	status             accepted ──────────────► succeeded, failed or expired
//	callback_state     waiting ───────────────► pending ─────────────────► delivered or dead
//	river_job          work job ► completed     callback job ──────────► completed
//	ordered_requests   the row takes its place                           it leaves, and the
//	                   in the order of its key                           next is released
//
//	CancelRequest       accepted or pending ──► cancelled
//	RedeliverCallbacks  delivered or dead ────► pending, with another callback job
//
// A callback job is stored in River's state pending where its request isn't the first of
// its ordering key: it is held back, and River doesn't fetch it. The statement that ends
// the callback before it makes the job available.
//
// Other statements read or mend. LoadWork and LoadCallbacks come before a step. Mend is for a job
// that was lost (reconcile.go), ReturnJobs for a process that died (processes.go, locks.go),
// RemoveRequests for requests that are old (retention.go).
//
// Three things shape the SQL. Every set is one parameter for each column (columns.go), so
// that a statement is prepared once for any number of rows. Plans are made before the
// arguments are known, so limits are written out, ids are arrays, and no plan may read a
// whole table. And no index is on a column that changes: updates stay heap-only.
package db
