package server

import (
	"fmt"
	"slices"

	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/strictyaml"
	"github.com/postern-auth/postern/server/target"
)

// targets are what is read of what requests would do.
func (c *Config) targets() target.Config {
	t := target.Config{Models: c.Models, Tenancy: c.Tenancy, Reads: map[string]target.Protocol{}}
	for i := range c.Routes {
		if r := &c.Routes[i]; r.Reads != "" {
			t.Reads[r.Name] = r.Reads
		}
	}
	return t
}

// assembleTargets makes the reader of targets; nil if there is nothing to read.
func assembleTargets(cfg *Config) (check.Targets, error) {
	r, err := target.New(cfg.targets())
	if r == nil || err != nil {
		return nil, err
	}
	return r, nil
}

// checkTargets holds `models` and `tenancy` against routes and callers.
func (c *Config) checkTargets(report report) {
	names, asked := []string{}, false
	for i := range c.Routes {
		names = append(names, c.Routes[i].Name)
		reads := c.Routes[i].Reads
		asked = asked || reads == target.OpenAI || reads == target.Anthropic || reads == target.Gateway
		if reads == target.Gateway && c.Models.Header == "" && c.Models.Metadata.Key == "" && len(c.Models.Paths) == 0 {
			report(fmt.Sprintf("routes[%d].reads", i), "nothing but the body says which model is asked", "set models.header, models.metadata or models.paths, or read the body: openai or anthropic")
		}
		if c.Routes[i].InstallationWide && len(c.Tenancy) == 0 {
			report(fmt.Sprintf("routes[%d].installation_wide", i), "nothing says what belongs to a tenant", "add `tenancy`, or remove it")
		}
	}
	for i := range c.Tenancy {
		for j, name := range c.Tenancy[i].Routes {
			if !slices.Contains(names, name) {
				report(fmt.Sprintf("tenancy[%d].routes[%d]", i, j), fmt.Sprintf("there is no route %q", name), strictyaml.Suggest(name, names))
			}
		}
		checkNoRepeats(report, fmt.Sprintf("tenancy[%d].routes", i), c.Tenancy[i].Routes)
	}
	if !asked && (len(c.Models.Tiers) > 0 || len(c.Models.Category.Known) > 0) {
		report("models", "no route reads which model is asked", "add `reads: openai`, anthropic or gateway to the routes that lead to models")
	}
	c.checkModelTrust(report)
}

// checkModelTrust refuses fields that nobody is believed to set.
func (c *Config) checkModelTrust(report report) {
	believed := func(t Trust) bool {
		return slices.ContainsFunc(c.Callers, func(caller Caller) bool { return slices.Contains(caller.Trust, t) })
	}
	for _, f := range []struct {
		path string
		set  bool
		who  Trust
	}{
		{"models.header", c.Models.Header != "", TrustModels},
		{"models.category.header", c.Models.Category.Header != "", TrustModels},
		{"models.metadata", c.Models.Metadata.Key != "", TrustContextExtensions},
		{"models.category.metadata", c.Models.Category.Metadata.Key != "", TrustContextExtensions},
	} {
		if f.set && !believed(f.who) {
			report(f.path, "no caller is believed to say so", fmt.Sprintf("add `trust: [%s]` to the caller under `callers` that does", f.who))
		}
	}
}
