package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by release builds: -ldflags "-X main.version=1.2.3".
var version string

func versionCommand() *cobra.Command {
	var sbom bool
	var output format
	var binary string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version, and what it was built with",
		Long: `Prints the version and what Postern was built from and with. With --sbom it prints a
bill of materials (CycloneDX 1.6, JSON): every module that is in this binary, with
version and checksum, from the build information that the linker wrote. The same
binary always prints the same.`,
		Example: `  postern version
  postern version -o json
  postern version --sbom > postern.cdx.json
  postern version --sbom --binary dist/postern_linux_arm64`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, err := buildOf(binary)
			if err != nil {
				return err
			}
			if sbom {
				return writeSBOM(cmd.OutOrStdout(), info)
			}
			return printVersion(cmd.OutOrStdout(), output, builtFrom(info))
		},
	}
	cmd.Flags().BoolVar(&sbom, "sbom", false, "print the bill of materials: what is in this binary (CycloneDX)")
	cmd.Flags().StringVar(&binary, "binary", "", "tell of this file instead, which may be for another platform")
	outputFlag(cmd, &output)
	exclusive(cmd, "sbom", "output")
	return cmd
}

// build is what there is to know of a binary: enough to build the same again.
type build struct {
	Version  string `json:"version" yaml:"version"`
	Go       string `json:"go" yaml:"go"`
	Platform string `json:"platform" yaml:"platform"`
	Commit   string `json:"commit,omitempty" yaml:"commit,omitempty"`
	Time     string `json:"commit_time,omitempty" yaml:"commit_time,omitempty"`
	Modified bool   `json:"modified" yaml:"modified"` // the sources were not those of the commit
	CGO      bool   `json:"cgo" yaml:"cgo"`
	Trimmed  bool   `json:"trimpath" yaml:"trimpath"`
	Modules  int    `json:"modules" yaml:"modules"`
}

// buildOf reads what the linker wrote into a binary, or into this one.
func buildOf(binary string) (*debug.BuildInfo, error) {
	if binary != "" {
		return buildinfo.ReadFile(binary)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil, errors.New("this binary has no build information; build it with modules")
	}
	info.Main.Version = buildVersion()
	return info, nil
}

func builtFrom(info *debug.BuildInfo) (b build) {
	b = build{Version: info.Main.Version, Go: info.GoVersion, Modules: len(info.Deps)}
	system, machine := runtime.GOOS, runtime.GOARCH
	defer func() { b.Platform = system + "/" + machine }()
	for _, s := range info.Settings {
		switch s.Key {
		case "GOOS":
			system = s.Value
		case "GOARCH":
			machine = s.Value
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		case "CGO_ENABLED":
			b.CGO = s.Value == "1"
		case "-trimpath":
			b.Trimmed = s.Value == "true"
		}
	}
	return b
}

func printVersion(w io.Writer, output format, b build) error {
	if output != "table" {
		return encodeValue(w, output, b)
	}
	fmt.Fprintf(w, "postern %s (%s %s)\n", b.Version, b.Go, b.Platform)
	if b.Commit == "" {
		return nil
	}
	changed := ""
	if b.Modified {
		changed = ", with changes"
	}
	_, err := fmt.Fprintf(w, "commit %s of %s%s\n", b.Commit, b.Time, changed)
	return err
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

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
