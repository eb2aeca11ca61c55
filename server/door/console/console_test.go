package console_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postern-auth/postern/server/door/console"
)

func get(path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	console.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil))
	return w
}

// Every file is served, as what it is, with all the headers; nothing else is.
func TestFiles(t *testing.T) {
	t.Parallel()
	kinds := map[string]string{"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
	names := console.Files()
	if len(names) < 8 {
		t.Fatal(names)
	}
	for _, name := range append(names, "") {
		w := get("/" + name)
		kind := kinds[name[strings.LastIndexByte(name, '.')+1:]]
		if name == "" {
			kind = "text/html"
		}
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusOK || !strings.HasPrefix(got, kind) || kind == "" {
			t.Errorf("/%s: %d %s", name, w.Code, got)
		}
		guarded(t, name, w.Header())
	}
	for _, path := range []string{"/nothing.js", "/page/app.js", "/../console.go", "/app.js/", "//app.js", "/.", "/x/index.html"} {
		w := get(path)
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
		guarded(t, path, w.Header())
	}
}

// guarded looks at the headers without which a mistake of the page would be worse.
func guarded(t *testing.T, name string, h http.Header) {
	t.Helper()
	for field, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		if got := h.Get(field); got != want {
			t.Errorf("/%s: %s is %q", name, field, got)
		}
	}
	directives := strings.Split(h.Get("Content-Security-Policy"), "; ")
	for _, want := range []string{
		"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'",
		"frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
	} {
		if !slices.Contains(directives, want) {
			t.Errorf("/%s: the policy lacks %s", name, want)
		}
	}
	for _, never := range []string{"unsafe", "*", "http", "data:", "blob:"} {
		if strings.Contains(h.Get("Content-Security-Policy"), never) {
			t.Errorf("/%s: the policy allows %s", name, never)
		}
	}
	for field := range h {
		if strings.HasPrefix(field, "Access-Control-") || field == "Set-Cookie" {
			t.Errorf("/%s: %s", name, field)
		}
	}
}

// What would make text into code, or keep a credential, is not in the scripts. The browser
// would refuse some of it; this finds it before.
func TestScriptsAreTame(t *testing.T) {
	t.Parallel()
	never := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|localStorage|sessionStorage|document\.cookie|indexedDB|javascript:|https?://|\.style\b|cssText|DOMParser|srcdoc|postMessage|importScripts|serviceWorker`)
	comment := regexp.MustCompile(`(^|\s)//.*`) // and not what follows https:
	markup := regexp.MustCompile(`(?i)\son[a-z]+\s*=|<style|style=|<script[^>]*>[^<]|https?://`)
	for _, name := range console.Files() {
		text := get("/" + name).Body.String()
		if strings.HasSuffix(name, ".js") {
			text = strings.ReplaceAll(text, "http://www.w3.org/2000/svg", "")               // a name
			text = strings.ReplaceAll(text, "postern check https://shop.test/products", "") // what people may type
			for line := range strings.Lines(text) {
				if never.MatchString(comment.ReplaceAllString(line, "")) {
					t.Errorf("%s: %s", name, line)
				}
			}
		}
		if strings.HasSuffix(name, ".html") && markup.MatchString(text) {
			t.Errorf("%s: %q", name, markup.FindString(text))
		}
		if strings.HasSuffix(name, ".css") && regexp.MustCompile(`url\(|@import|expression`).MatchString(text) {
			t.Errorf("%s asks for something else", name)
		}
	}
}

// Whatever a file names is there.
func TestFilesAreComplete(t *testing.T) {
	t.Parallel()
	named := regexp.MustCompile(`(?:from|import|href|src)[ =]["'](?:\./)?([a-z]+\.(?:js|css|svg))["']`)
	seen := map[string]bool{"index.html": true}
	for _, name := range console.Files() {
		for _, found := range named.FindAllStringSubmatch(get("/"+name).Body.String(), -1) {
			seen[found[1]] = true
			if !slices.Contains(console.Files(), found[1]) {
				t.Errorf("%s names %s, which is not there", name, found[1])
			}
		}
	}
	for _, name := range console.Files() {
		if !seen[name] {
			t.Errorf("nothing names %s", name)
		}
	}
}
