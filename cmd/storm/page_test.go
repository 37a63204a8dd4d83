package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// early runs before any other script of the page, and keeps its errors.
const early = `<script>
const problems = [];
addEventListener("error", event => problems.push(event.message));
addEventListener("securitypolicyviolation", event => problems.push("blocked " + event.blockedURI));
console.error = (...words) => problems.push(words.join(" "));
</script>`

// late runs after the drawing, and leaves its findings in the page.
const late = `<script>
function luminance(color) {
  const [r, g, b] = color.match(/\w\w/g).map(hex => parseInt(hex, 16) / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
setTimeout(() => {
  const style = getComputedStyle(document.documentElement);
  const card = luminance(style.getPropertyValue("--card"));
  const contrasts = {};
  for (const name of ["ink", "soft", "blue", "orange", "green", "red", "grey", "good", "bad"]) {
    const other = luminance(style.getPropertyValue("--" + name));
    contrasts[name] = (Math.max(card, other) + 0.05) / (Math.min(card, other) + 0.05);
  }
  const plots = [...document.querySelectorAll("section canvas")].map(canvas => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const colors = new Set();
    for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 200) colors.add(pixels.slice(i, i + 3).join());
    return {title: canvas.closest("section").querySelector("h2").textContent, colors: colors.size};
  });
  document.body.setAttribute("data-found", JSON.stringify({problems, plots, contrasts,
    dark: card < 0.5, overflows: document.documentElement.scrollWidth > innerWidth}));
}, 100);
</script>`

// pageFindings are late's findings.
type pageFindings struct {
	Problems []string
	Plots    []struct {
		Title  string
		Colors int
	}
	Contrasts map[string]float64
	Dark      bool
	Overflows bool
}

func TestPageInABrowser(t *testing.T) {
	t.Parallel()
	browser := findBrowser(t)
	page := stormPage(t)
	if links := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page, -1); len(links) != 1 || links[0][1] != "data:," {
		t.Errorf("links: got %q, want none but an empty icon", links)
	}
	for name, scheme := range map[string]int{"dark": 0, "light": 1} {
		t.Run(name, func(t *testing.T) {
			found := visit(t, browser, page, fmt.Sprintf("--blink-settings=preferredColorScheme=%d", scheme))
			if len(found.Problems) > 0 {
				t.Errorf("errors on the page: %q", found.Problems)
			}
			if found.Dark != (name == "dark") {
				t.Errorf("dark: got %v", found.Dark)
			}
			if found.Overflows {
				t.Error("the page is wider than the window")
			}
			for color, contrast := range found.Contrasts {
				if contrast < 3 { // WCAG 2.2, 1.4.11, for graphics
					t.Errorf("contrast of %s: got %.1f, want at least 3", color, contrast)
				}
			}
			checkPlots(t, found)
		})
	}
}

// checkPlots wants each chart, and a line in it: with axes and grid alone, a
// canvas holds fewer colours.
func checkPlots(t *testing.T, found pageFindings) {
	t.Helper()
	drawn := make(map[string]int)
	for _, plot := range found.Plots {
		drawn[plot.Title] = plot.Colors
	}
	for _, title := range []string{
		"Rate", "Shed and failed", "Sync latency", "Async acknowledgement", "Time to callback", "Backlog", "Latency distribution",
	} {
		if drawn[title] < 20 {
			t.Errorf("plot %q: got %d colours, want a drawing; all plots: %v", title, drawn[title], drawn)
		}
	}
}

// stormPage is the report of a short run in which everything happens.
func stormPage(t *testing.T) string {
	t.Helper()
	service := &service{onSync: func(n int, w http.ResponseWriter) {
		if n%3 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		answerSync(n, w)
	}}
	service.onAsync = service.callBackLate // so that there is a backlog to draw
	start(t, service)
	file := filepath.Join(t.TempDir(), "report.html")
	runStorm(t, "-target", service.url, "-rate", "400", "-duration", "1s", "-html", file, "-slo", "shed<50%").want(t, exitOK)
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// findBrowser skips where there is none; make test says so aloud.
func findBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("NOT TESTED: the HTML report, for want of Chromium on this machine")
	return ""
}

// visit loads a page in a browser without a network and returns late's findings.
func visit(t *testing.T, browser, page string, flags ...string) pageFindings {
	t.Helper()
	directory := t.TempDir()
	probed := strings.Replace(strings.Replace(page, "<head>", "<head>"+early, 1), "</body>", late+"</body>", 1)
	file := filepath.Join(directory, "page.html")
	if err := os.WriteFile(file, []byte(probed), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), browser, append(flags,
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--host-resolver-rules=MAP * ~NOTFOUND", "--user-data-dir="+directory, "--window-size=1280,900",
		"--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", "file://"+file)...)
	command.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	command.Stderr = &stderr
	dom, err := command.Output()
	if err != nil {
		t.Fatalf("running %s: %v\n%s", browser, err, stderr.String())
	}
	if strings.Contains(stderr.String(), ":CONSOLE") {
		t.Errorf("want nothing on the console, got\n%s", stderr.String())
	}
	return readFindings(t, dom)
}

func readFindings(t *testing.T, dom []byte) pageFindings {
	t.Helper()
	match := regexp.MustCompile(`data-found="([^"]*)"`).FindSubmatch(dom)
	if match == nil {
		t.Fatalf("the page did not get to its end:\n%s", dom[:min(len(dom), 2000)])
	}
	var found pageFindings
	if err := json.Unmarshal([]byte(html.UnescapeString(string(match[1]))), &found); err != nil {
		t.Fatal(err)
	}
	return found
}
