package db

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// connectTimeout is below the bound of an API call while the database is unreachable,
// unless the URL says otherwise.
const connectTimeout = 2 * time.Second

// poolConnections is how many connections a pool has, unless the URL says otherwise: on
// two cores as many committers keep Postgres busy, and more only queue inside it.
const poolConnections = 20

// CheckURL tells why a connection string is none, or asks for settings that can't work.
// Its error doesn't quote the string, which may hold a password.
func CheckURL(url string) error {
	config, err := pgxpool.ParseConfig(url)
	var file *fs.PathError
	switch {
	case errors.As(err, &file): // such as the file of sslrootcert
		return fmt.Errorf("names a file that can't be read: %w", file)
	case err != nil && strings.Contains(err.Error(), "unable to add CA to cert pool"):
		return errors.New("names by sslrootcert a file that holds no certificate")
	case err != nil && strings.Contains(err.Error(), "pool_max_conns"):
		return errors.New("sets a pool_max_conns that is not a whole number above 0, such as pool_max_conns=20")
	case err != nil:
		return errors.New("must be a connection string, such as postgres://user:password@host:5432/database")
	}
	if encoding := config.ConnConfig.RuntimeParams["client_encoding"]; encoding != "" && !strings.EqualFold(encoding, "UTF8") && !strings.EqualFold(encoding, "UTF-8") {
		return errors.New("sets a client_encoding other than UTF8: leave it out")
	}
	switch mode := config.ConnConfig.DefaultQueryExecMode; {
	case mode == pgx.QueryExecModeExec || mode == pgx.QueryExecModeSimpleProtocol:
		return errors.New("sets a default_query_exec_mode that sends values without their types: leave it out, or use cache_statement, cache_describe or describe_exec")
	case mode == pgx.QueryExecModeCacheStatement && config.ConnConfig.StatementCacheCapacity == 0:
		return errors.New("sets statement_cache_capacity to 0: leave it out, or add default_query_exec_mode=describe_exec")
	case mode == pgx.QueryExecModeCacheDescribe && config.ConnConfig.DescriptionCacheCapacity == 0:
		return errors.New("sets description_cache_capacity to 0: leave it out, or use default_query_exec_mode=describe_exec")
	}
	return nil
}

// WithoutPassword is a connection string as a URL that may be shown: the role, the hosts and ports,
// and the database.
func WithoutPassword(connection string) string {
	config, err := pgxpool.ParseConfig(connection)
	if err != nil {
		return "a string that can't be read"
	}
	conn := config.ConnConfig
	hosts := []string{net.JoinHostPort(conn.Host, strconv.Itoa(int(conn.Port)))}
	for _, other := range conn.Fallbacks { // the same host without TLS, too
		if host := net.JoinHostPort(other.Host, strconv.Itoa(int(other.Port))); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	shown := url.URL{Scheme: "postgres", User: url.User(conn.User), Host: strings.Join(hosts, ","), Path: "/" + conn.Database}
	return shown.String()
}

// Open returns a pool of connections to the database at url, without connecting yet.
// Every connection has time limits, so that no statement and no forgotten transaction can
// hold other sessions up; a setting in url wins. statementTimeout bounds a statement.
func Open(ctx context.Context, url string, statementTimeout time.Duration) (*pgxpool.Pool, error) {
	config, err := poolConfig(url, statementTimeout)
	if err != nil {
		return nil, err
	}
	// Every row of a step is found by an index. A table that was never analyzed looks small
	// enough to read whole, and a plan made then is kept while the table grows.
	setDefault(config.ConnConfig.RuntimeParams, "enable_seqscan", "off")
	// A commit that is acknowledged is on the disk, whatever somebody set to make a database
	// faster.
	setDefault(config.ConnConfig.RuntimeParams, "synchronous_commit", "on")
	return openPool(ctx, config)
}

// OpenReads is Open for the reads of clients: a quarter of the connections, at least two,
// none of which can write. Every read has an index that holds its rows in order. All
// other plans are ruled out, since a plan that was made for a small table is kept when the
// table has grown.
func OpenReads(ctx context.Context, url string, statementTimeout time.Duration) (*pgxpool.Pool, error) {
	config, err := poolConfig(url, statementTimeout)
	if err != nil {
		return nil, err
	}
	config.MaxConns = max(2, config.MaxConns/4)
	config.MinConns, config.MinIdleConns = min(config.MinConns, config.MaxConns), min(config.MinIdleConns, config.MaxConns)
	settings := config.ConnConfig.RuntimeParams
	for _, plan := range []string{"enable_seqscan", "enable_bitmapscan", "enable_sort"} {
		settings[plan] = "off"
	}
	settings["default_transaction_read_only"] = "on"
	return openPool(ctx, config)
}

// OpenRiver is Open for River and for upkeep, whose commits don't wait for the disk. A
// crash of Postgres undoes at most their last fraction of a second, which is repeated: a
// fetched job is fetched once more. The steps of a request commit on other connections,
// and each such commit puts every earlier commit on the disk, too.
func OpenRiver(ctx context.Context, url string, statementTimeout time.Duration) (*pgxpool.Pool, error) {
	config, err := poolConfig(url, statementTimeout)
	if err != nil {
		return nil, err
	}
	setDefault(config.ConnConfig.RuntimeParams, "synchronous_commit", "off")
	return openPool(ctx, config)
}

func poolConfig(url string, statementTimeout time.Duration) (*pgxpool.Config, error) {
	config, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = poolConnections
	}
	setDefault(config.ConnConfig.RuntimeParams, "statement_timeout", milliseconds(statementTimeout))
	// An idle transaction keeps dead rows from being removed: a single idle transaction
	// halves the queue's throughput within a minute.
	setDefault(config.ConnConfig.RuntimeParams, "idle_in_transaction_session_timeout", milliseconds(10*time.Second))
	// The statements unnest arrays, whose length Postgres can't foresee. Planning each run anew
	// costs more than it finds, and a plan for a large batch may read a whole table.
	setDefault(config.ConnConfig.RuntimeParams, "plan_cache_mode", "force_generic_plan")
	// A plan that the settings rule out, and that is used for want of another, looks dear
	// enough to compile.
	setDefault(config.ConnConfig.RuntimeParams, "jit", "off")
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		conn.TypeMap().RegisterType(&pgtype.Type{
			Name: "timestamptz", OID: pgtype.TimestamptzOID,
			Codec: finiteTimes{&pgtype.TimestamptzCodec{ScanLocation: time.UTC}},
		})
		return nil
	}
	return config, nil
}

// parseURL reads a connection string. Every connection leads to a server that can be
// written, unless url says otherwise. A connection whose server can't be written any more
// is closed, and the next connection looks for another address.
func parseURL(url string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parsing database URL: %w", hideSecrets(err))
	}
	conn := config.ConnConfig
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = connectTimeout
	}
	if !strings.Contains(url, "target_session_attrs") && os.Getenv("PGTARGETSESSIONATTRS") == "" {
		conn.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	closesOn := conn.OnPgError
	conn.OnPgError = func(session *pgconn.PgConn, err *pgconn.PgError) bool {
		return err.Code != readOnlyTransaction && err.Code != abortedTransaction && closesOn(session, err)
	}
	setDefault(conn.RuntimeParams, "application_name", "ringback")
	setDefault(conn.RuntimeParams, "client_encoding", "UTF8") // regardless of the role's default
	conn.RuntimeParams["standard_conforming_strings"] = "on"  // likewise; pgx quotes no strings without it
	// Each statement is written to see what was committed before it. In any stricter isolation,
	// Postgres ends steps that meet each other.
	conn.RuntimeParams["default_transaction_isolation"] = "read committed"
	// Idle connections wait for the next step, hold the lock of the process, and listen.
	setDefault(conn.RuntimeParams, "idle_session_timeout", "0")
	setDefault(conn.RuntimeParams, transactionTimeout, "0") // statements are bounded, and so are idle transactions
	// As a replica, a session fires no trigger, and a request that is cancelled is in no list.
	conn.RuntimeParams[replicationRole] = "origin"
	return config, nil
}

const (
	// transactionTimeout is a parameter since Postgres 17.
	transactionTimeout = "transaction_timeout"
	// replicationRole may be set by few roles, so it is set only where it must be.
	replicationRole = "session_replication_role"
)

// atStart are the parameters that poolers take when a connection begins. All others are
// set once it is there.
var atStart = []string{"application_name", "client_encoding", "datestyle", "options", "standard_conforming_strings", "timezone"}

// setLater takes the parameters that aren't in atStart out of config, and sets them as
// soon as a connection is there.
func setLater(config *pgxpool.Config) {
	var names, values []string
	for name, value := range config.ConnConfig.RuntimeParams {
		if !slices.Contains(atStart, strings.ToLower(name)) {
			names, values = append(names, name), append(values, value)
			delete(config.ConnConfig.RuntimeParams, name)
		}
	}
	prepare := config.AfterConnect
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := setParameters(ctx, conn, names, values); err != nil || prepare == nil {
			return err
		}
		return prepare(ctx, conn)
	}
}

// setParameters sets session parameters, in a single round trip.
func setParameters(ctx context.Context, conn *pgx.Conn, names, values []string) error {
	if len(names) == 0 {
		return nil
	}
	const sql = `
		SELECT set_config(name, value, false)
		FROM unnest($1::text[], $2::text[]) AS parameter (name, value)
		WHERE CASE name
		      WHEN $3 THEN current_setting('server_version_num')::integer >= 170000
		      WHEN $4 THEN current_setting(name) = 'replica'
		      ELSE true
		      END`
	_, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol, names, values, transactionTimeout, replicationRole)
	var answer *pgconn.PgError
	switch {
	case errors.As(err, &answer) && strings.Contains(answer.Message, replicationRole):
		return fmt.Errorf("no trigger would fire in this session: reset session_replication_role, by ALTER ROLE … RESET, ALTER DATABASE … RESET or ALTER SYSTEM RESET: %w", err)
	case err != nil:
		return fmt.Errorf("setting the parameters of a connection: %w", err)
	}
	return nil
}

func openPool(ctx context.Context, config *pgxpool.Config) (*pgxpool.Pool, error) {
	setLater(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("opening database pool: %w", err)
	}
	return pool, nil
}

// hideSecrets drops the connection string, which holds the password, from the
// error of a parser that quotes it.
func hideSecrets(err error) error {
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		return errors.New("not a valid connection string")
	}
	return err
}

func setDefault(params map[string]string, name, value string) {
	if _, ok := params[name]; !ok {
		params[name] = value
	}
}

func milliseconds(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

// connectWithParameters makes a connection with the parameters of a pool. A server that
// fails config's check of its certificate doesn't count as away.
func connectWithParameters(ctx context.Context, config *pgxpool.Config) (*pgx.Conn, error) {
	config = config.Copy()
	setLater(config)
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if why := distrust(config.ConnConfig, err); why != "" {
		return nil, errors.New(why)
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to database: %w", err)
	}
	if err := config.AfterConnect(ctx, conn); err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	return conn, nil
}
