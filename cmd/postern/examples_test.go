package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// remark is what an example says of itself.
var remark = regexp.MustCompile(`(?m)   +[a-z].*$`)

// Every command has examples, and they can be typed as they stand: the commands and
// the flags in them exist.
func TestExamples(t *testing.T) {
	t.Parallel()
	n := 0
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		for _, child := range cmd.Commands() {
			look(child)
		}
		if cmd.HasSubCommands() || cmd.Name() == "help" {
			return
		}
		n++
		if !strings.HasPrefix(cmd.Example, "  ") || !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") && !strings.Contains(line, "$(") {
				line = remark.ReplaceAllString(line, "")
				checkCommands(t, docBlock{at: cmd.CommandPath(), text: strings.ReplaceAll(line, "&&", ";")})
			}
		}
	}
	look(newRoot())
	if n < 70 {
		t.Errorf("%d commands", n)
	}
}
