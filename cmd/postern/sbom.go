package main

import (
	"encoding/json"
	"io"
	"runtime/debug"
	"strings"
)

// CycloneDX 1.6, as far as it is needed. There is neither time nor serial number in it:
// the same binary prints the same bytes.
type (
	bom struct {
		Schema     string          `json:"$schema"`
		Format     string          `json:"bomFormat"`
		Spec       string          `json:"specVersion"`
		Version    int             `json:"version"`
		Metadata   bomMetadata     `json:"metadata"`
		Components []bomComponent  `json:"components"`
		Depends    []bomDependency `json:"dependencies"`
	}
	bomMetadata struct {
		Component  bomComponent  `json:"component"`
		Properties []bomProperty `json:"properties,omitempty"`
	}
	bomComponent struct {
		Ref        string        `json:"bom-ref"`
		Type       string        `json:"type"`
		Name       string        `json:"name"`
		Version    string        `json:"version"`
		PURL       string        `json:"purl"`
		Properties []bomProperty `json:"properties,omitempty"`
	}
	bomProperty struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	bomDependency struct {
		Ref string   `json:"ref"`
		On  []string `json:"dependsOn"`
	}
)

// writeSBOM writes what is in a binary. What depends on what is not known of modules in
// a binary; all are noted as dependencies of Postern.
func writeSBOM(w io.Writer, info *debug.BuildInfo) error {
	main := bomComponent{Type: "application", Name: info.Main.Path, Version: info.Main.Version}
	main.PURL = "pkg:golang/" + main.Name + "@" + purlVersion(main.Version)
	main.Ref = main.PURL
	all := bom{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", Spec: "1.6", Version: 1,
		Metadata: bomMetadata{Component: main, Properties: buildSettings(info)},
	}
	parts := append([]*debug.Module{{Path: "std", Version: "v" + stdVersion(info.GoVersion)}}, info.Deps...)
	depends := bomDependency{Ref: main.Ref}
	for _, m := range parts {
		if m.Replace != nil {
			m = m.Replace
		}
		purl := "pkg:golang/" + m.Path + "@" + purlVersion(m.Version)
		c := bomComponent{Ref: purl, Type: "library", Name: m.Path, Version: m.Version, PURL: purl}
		if m.Sum != "" {
			// go.sum's own checksum is of the module's tree, not of a file: it is none of
			// CycloneDX's kinds of hashes.
			c.Properties = []bomProperty{{"postern:go.sum", m.Sum}}
		}
		all.Components = append(all.Components, c)
		depends.On = append(depends.On, purl)
	}
	all.Depends = []bomDependency{depends}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(all)
}

// purlVersion writes a version as a package URL has it.
func purlVersion(v string) string {
	return strings.NewReplacer("+", "%2B", "(", "%28", ")", "%29").Replace(v)
}

// stdVersion is the version of the standard library: go1.26.8 is 1.26.8.
func stdVersion(goVersion string) string {
	first, _, _ := strings.Cut(goVersion, " ")
	return strings.TrimPrefix(first, "go")
}

// buildSettings are those that change what is in the binary.
func buildSettings(info *debug.BuildInfo) (all []bomProperty) {
	all = append(all, bomProperty{"postern:build:go", info.GoVersion})
	for _, s := range info.Settings {
		all = append(all, bomProperty{"postern:build:" + s.Key, s.Value})
	}
	return all
}
