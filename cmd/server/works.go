package main

import (
	"ringback/work"
	"ringback/work/fingerprint"
)

// works are the kinds of work of this program: a line for each kind in Go.
var works = work.Set{"fingerprint": fingerprint.Work}

// defaultWork is the work of calls that name none, unless the settings say otherwise.
const defaultWork = "fingerprint"
