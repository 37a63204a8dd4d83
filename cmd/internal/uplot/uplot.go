// Package uplot holds uPlot, which draws the charts of the pages: MIT, see LICENSE.
package uplot

import _ "embed" // for the files

// JS defines uPlot.
//
//go:embed uPlot.iife.min.js
var JS string

// CSS is its style sheet.
//
//go:embed uPlot.min.css
var CSS string
