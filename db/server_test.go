package db_test

import (
	"strings"
	"testing"

	"ringback/db"
	"ringback/db/dbtest"
)

func TestCheckServer(t *testing.T) {
	t.Parallel()
	if err := db.CheckServer(t.Context(), dbtest.New(t)); err != nil {
		t.Errorf("a database as it should be: %v", err)
	}
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		err := db.CheckServer(t.Context(), dbtest.NewEncoded(t, encoding))
		if err == nil || !strings.Contains(err.Error(), encoding) || !strings.Contains(err.Error(), "ENCODING 'UTF8'") || db.IsUnavailable(err) {
			t.Errorf("%s: got %v, want a refusal with the remedy", encoding, err)
		}
	}
	err := db.CheckServer(t.Context(), dbtest.NewEmpty(t)+"&search_path=elsewhere")
	if err == nil || !strings.Contains(err.Error(), "CREATE SCHEMA") {
		t.Errorf("a schema that isn't there: got %v, want the remedy", err)
	}
	if err := db.CheckServer(t.Context(), closedPort(t)); !db.IsUnavailable(err) {
		t.Errorf("a server that is away: got %v, want it unavailable", err)
	}
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	const url = "postgres://someone:hunter2@host/db"
	for parameters, want := range map[string]string{
		"": "", "?default_query_exec_mode=cache_describe": "", "?default_query_exec_mode=describe_exec&statement_cache_capacity=0": "", "?client_encoding=utf8": "",
		"?default_query_exec_mode=exec":                                        "default_query_exec_mode",
		"?default_query_exec_mode=simple_protocol":                             "default_query_exec_mode",
		"?statement_cache_capacity=0":                                          "statement_cache_capacity",
		"?default_query_exec_mode=cache_describe&description_cache_capacity=0": "description_cache_capacity",
		"?client_encoding=LATIN1":                                              "client_encoding",
		"?pool_max_conns=0":                                                    "pool_max_conns=20",
		"?pool_max_conns=1e2":                                                  "pool_max_conns=20",
		"?target_session_attrs=anything":                                       "connection string",
		"?sslmode=verify-full&sslrootcert=/nowhere/ca.crt":                     "can't be read: open /nowhere/ca.crt",
		"?sslmode=verify-full&sslrootcert=health_test.go":                      "no certificate",
	} {
		err := db.CheckURL(url + parameters)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("CheckURL(%q): got %v, want %q", parameters, err, want)
		}
	}
}
