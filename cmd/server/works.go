package main

import (
	"ringback/work"
	"ringback/work/fingerprint"
)

// works is what this program offers: a line for each kind of work in Go.
var works = work.Set{"fingerprint": fingerprint.Work}

// defaultWork is what calls mean that name none, unless the settings say otherwise.
const defaultWork = "fingerprint"
