package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// browser is a real Chromium without a window, driven over the WebDriver protocol (W3C):
// a handful of calls of JSON over HTTP.
type browser struct {
	testing.TB

	session string // its URL
}

// chromium finds the browser and its driver. Where they are not installed the test is
// skipped, unless $POSTERN_CHROMIUM says that they must be there.
func chromium(t testing.TB) (program, driver string) {
	t.Helper()
	driver, err := exec.LookPath("chromedriver")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if program == "" {
			program, _ = exec.LookPath(name)
		}
	}
	switch {
	case err == nil && program != "":
		return program, driver
	case os.Getenv("POSTERN_CHROMIUM") != "":
		t.Fatal("no chromium or no chromedriver")
	}
	t.Skip("needs a browser: apt-get install chromium chromium-driver")
	return "", ""
}

var driverPort = regexp.MustCompile(`started successfully on port (\d+)`)

// newBrowser starts a browser with an empty profile, until the test ends.
func newBrowser(t testing.TB) *browser {
	t.Helper()
	program, driver := chromium(t)
	cmd := exec.Command(driver, "--port=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	b := &browser{TB: t}
	for lines := bufio.NewScanner(out); b.session == "" && lines.Scan(); {
		if found := driverPort.FindStringSubmatch(lines.Text()); found != nil {
			b.session = "http://127.0.0.1:" + found[1] + "/session"
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	args := []string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--window-size=1280,900", "--user-data-dir=" + t.TempDir(),
	}
	var made struct{ SessionID string }
	b.call("POST", "", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName": "chrome", "goog:chromeOptions": map[string]any{"binary": program, "args": args},
		"goog:loggingPrefs": map[string]any{"browser": "ALL", "performance": "ALL"},
	}}}, &made)
	b.session += "/" + made.SessionID
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if req, err := http.NewRequestWithContext(ctx, http.MethodDelete, b.session, nil); err == nil {
			if res, err := http.DefaultClient.Do(req); err == nil {
				_ = res.Body.Close()
			}
		}
	})
	return b
}

// call makes one call of the protocol, which must succeed.
func (b *browser) call(method, path string, body, into any) {
	b.Helper()
	if err := b.try(method, path, body, into); err != nil {
		b.Fatalf("the browser: %s %s: %v", method, path, err)
	}
}

func (b *browser) try(method, path string, body, into any) error {
	var text []byte
	if method == http.MethodPost {
		text, _ = json.Marshal(body)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, b.session+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var said struct{ Value json.RawMessage }
	if err := json.NewDecoder(res.Body).Decode(&said); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%.300s", said.Value)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(said.Value, into)
}

func (b *browser) visit(url string) {
	b.Helper()
	b.call("POST", "/url", map[string]any{"url": url}, nil)
}

// js runs the body of a function in the page.
func (b *browser) js(script string, args ...any) (value any) {
	b.Helper()
	b.call("POST", "/execute/sync", map[string]any{"script": script, "args": append([]any{}, args...)}, &value)
	return value
}

// shows waits until an expression is true in the page, and says what stands there if it
// never is.
func (b *browser) shows(what, expression string, args ...any) {
	b.Helper()
	for deadline := time.Now().Add(40 * time.Second); b.js("return !!("+expression+")", args...) != true; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("never: %s\nthe page says:\n%v", what, b.js("return document.body.innerText"))
		}
	}
}

// says waits for a text somewhere in the page.
func (b *browser) says(text string) {
	b.Helper()
	b.shows(text, "document.body.innerText.includes(arguments[0])", text)
}

// element waits for one, and finds it.
func (b *browser) element(selector string) (path string) {
	b.Helper()
	b.shows(selector, "document.querySelector(arguments[0])", selector)
	var found map[string]string
	b.call("POST", "/element", map[string]any{"using": "css selector", "value": selector}, &found)
	for _, id := range found {
		path = "/element/" + id
	}
	return path
}

// click clicks as a person does: what is covered or gone cannot be. The page may draw
// itself anew at that moment.
func (b *browser) click(selector string) {
	b.Helper()
	var err error
	for range 20 {
		if err = b.try("POST", b.element(selector)+"/click", map[string]any{}, nil); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.Fatalf("%s cannot be clicked: %v", selector, err)
}

// fill writes into a control, in the place of what is there.
func (b *browser) fill(selector, text string) {
	b.Helper()
	at := b.element(selector)
	b.call("POST", at+"/clear", map[string]any{}, nil)
	b.call("POST", at+"/value", map[string]any{"text": text}, nil)
}

// press sends keys to where the focus is.
func (b *browser) press(selector, keys string) {
	b.Helper()
	b.call("POST", b.element(selector)+"/value", map[string]any{"text": keys}, nil)
}

// logged returns a log of the browser since the last look.
func (b *browser) logged(kind string) (messages []string) {
	b.Helper()
	var entries []struct{ Message string }
	b.call("POST", "/se/log", map[string]any{"type": kind}, &entries)
	for _, e := range entries {
		messages = append(messages, e.Message)
	}
	return messages
}

// behaved fails the test if the page was kept from something by its own policy, threw an
// error, or asked anybody but its own origin.
func (b *browser) behaved(origin string) {
	b.Helper()
	for _, line := range b.logged("browser") {
		if !strings.Contains(line, "Failed to load resource") { // an answer that is a no
			b.Error("the browser's console: ", line)
		}
	}
	asked := 0
	for _, line := range b.logged("performance") {
		var event struct {
			Message struct {
				Method string
				Params struct{ Request struct{ URL string } }
			}
		}
		if json.Unmarshal([]byte(line), &event) != nil || event.Message.Method != "Network.requestWillBeSent" {
			continue
		}
		url := event.Message.Params.Request.URL
		if asked++; !strings.HasPrefix(url, origin+"/") && !strings.HasPrefix(url, "data:") && !strings.HasPrefix(url, "chrome") {
			b.Error("the page asked ", url)
		}
	}
	if asked == 0 {
		b.Error("no request was seen")
	}
}
