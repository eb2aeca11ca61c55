package main

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

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
