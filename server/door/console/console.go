// Package console holds the page on which operators look at a replica, and serves its
// files. They are plain HTML, CSS and ES modules, embedded as they are written: there is
// no build step, no framework, and no request to another origin.
//
// The page holds no data. The operator pastes a credential of the admin API into it; the
// page keeps that in a variable, sends it as Authorization with each call of the API
// (JSON over HTTP, the package connect) and forgets it when the tab is closed or reloaded.
// It is in no cookie, no storage and no URL.
//
// Much of what it shows was chosen by attackers: paths, names, reasons of refused
// requests. Three things keep that from becoming code, each by itself:
//
//	dom.js              makes every element; texts get there as text nodes alone
//	the policy          Content-Security-Policy allows scripts and styles of this origin in
//	                    files of their own, and nothing else: default-src 'none'
//	trusted types       the browser refuses innerHTML and its like (trusted-types 'none')
//
// Frames of others, which could have the operator click on what they do not see, are
// refused. Who may ask for the files at all is said by the listener.
package console

import (
	"embed"
	"net/http"
	"path"
)

//go:embed page
var page embed.FS

// Policy is the Content-Security-Policy of all files.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// headers are those of every answer.
var headers = map[string]string{
	"Content-Security-Policy":      Policy,
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Referrer-Policy":              "no-referrer",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Cross-Origin-Embedder-Policy": "require-corp",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
	"Cache-Control":                "no-store", // pages of two releases do not mix
}

// types are said here and not looked up in the machine's tables.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// Handler serves the files by their names; / is the page.
func Handler() http.Handler {
	files := map[string]http.HandlerFunc{}
	for _, name := range Files() {
		text, _ := page.ReadFile("page/" + name) // it was just listed
		files["/"+name] = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", types[path.Ext(name)])
			_, _ = w.Write(text)
		}
	}
	files["/"] = files["/index.html"]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		if serve := files[r.URL.Path]; serve != nil {
			serve(w, r)
			return
		}
		http.Error(w, "there is no such page", http.StatusNotFound)
	})
}

// Files are the names of all files.
func Files() (names []string) {
	entries, _ := page.ReadDir("page")
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
