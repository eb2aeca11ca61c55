package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/postern-auth/postern/deploy"
	"github.com/postern-auth/postern/server"
)

// The samples of deploy/ are loaded as they stand: each configuration of Postern by
// Postern, manifests by the schemas of those who read them, where these can be had.

// deployedFile is a file of deploy/.
func deployedFile(t testing.TB, name string) string {
	t.Helper()
	text, err := deploy.Files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// manifest is a document of YAML.
type manifest map[string]any

// at follows a path: keys of maps, indices of lists.
func (m manifest) at(t testing.TB, steps ...any) any {
	t.Helper()
	var v any = map[string]any(m)
	for _, s := range steps {
		switch s := s.(type) {
		case string:
			inner, _ := v.(map[string]any)
			v = inner[s]
		case int:
			list, _ := v.([]any)
			if s >= len(list) {
				t.Fatalf("%v of %v: there are %d", steps, m.name(), len(list))
			}
			v = list[s]
		}
	}
	return v
}

func (m manifest) text(t testing.TB, steps ...any) string {
	t.Helper()
	s, _ := m.at(t, steps...).(string)
	return s
}

func (m manifest) name() string {
	meta, _ := m["metadata"].(map[string]any)
	return fmt.Sprint(m["kind"], "/", meta["name"])
}

// manifests are the documents of a stream.
func manifests(t testing.TB, text string) (all []manifest) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var m map[string]any
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatalf("%v\n%s", err, text)
		case m != nil:
			all = append(all, m)
		}
	}
}

func theOne(t testing.TB, all []manifest, kind string) manifest {
	t.Helper()
	var found []manifest
	for _, m := range all {
		if m["kind"] == kind {
			found = append(found, m)
		}
	}
	if len(found) != 1 {
		t.Fatalf("there are %d of %s", len(found), kind)
	}
	return found[0]
}

// checkSampleConfig does what `postern config check` does with a configuration of a
// sample, whose absolute paths are made ones below dir. The policy goes where the
// configuration looks for it.
func checkSampleConfig(t *testing.T, what, text string, policy map[string]string) *server.Config {
	t.Helper()
	dir := t.TempDir()
	here := regexp.MustCompile(`(^|[ :{"])/(etc|run|var)/`).ReplaceAllString(text, "${1}"+dir+"/$2/")
	cfg, err := parseStandIn(dir, what, here)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return nil
	}
	at := cfg.Policy.Path
	if !filepath.IsAbs(at) {
		at = filepath.Join(dir, at)
	}
	for name, rules := range policy {
		if err := standIn(filepath.Join(at, name), rules); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "postern.yaml"), []byte(here), 0o600); err != nil {
		t.Fatal(err)
	}
	if cfg.Store.Driver == server.DriverPostgres { // which is not here: all but its address is checked
		return cfg
	}
	verifyConfiguration(t, dir, "postern.yaml")
	return cfg
}

// Every configuration of Postern in deploy/ is one that Postern starts with, and its
// policy denies who is nobody.
func TestDeployConfigurations(t *testing.T) {
	t.Parallel()
	tables := map[string]string{"data.yaml": deployedFile(t, "start/policy/data.yaml")}
	n := 0
	err := fs.WalkDir(deploy.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path.Base(name) == "postern.yaml" {
			n++
			checkSampleConfig(t, name, deployedFile(t, name), tables)
		}
		return err
	})
	if err != nil || n < 6 {
		t.Errorf("%d configurations, %v", n, err)
	}
	if deployedFile(t, "kubernetes/base/policy/data.yaml") != tables["data.yaml"] {
		t.Error("the policy of kubernetes/base is another than that of start/")
	}
}

// pods are those of a Deployment, and what the cluster is told of them.
type pods struct {
	what           string
	all            []manifest
	deployment     manifest
	pod, container manifest
	text           string // postern.yaml
	cfg            *server.Config
	ports          map[string]string // of the container, by name
}

// checkPods holds what the server is configured to do against what the cluster is told of
// it: a pod can be rolled, found, probed and reached, and has no rights.
func checkPods(t *testing.T, what string, all []manifest) {
	t.Helper()
	p := pods{what: what, all: all, deployment: theOne(t, all, "Deployment"), ports: map[string]string{}}
	p.pod = manifest(p.deployment.at(t, "spec", "template", "spec").(map[string]any))
	p.container = manifest(p.pod.at(t, "containers", 0).(map[string]any))
	p.checkConfiguration(t)
	p.checkVolumes(t)
	p.checkPorts(t)
	p.checkProbes(t)
	p.checkRolling(t)
	p.checkRights(t)
	p.checkSelectors(t)
}

// checkConfiguration reads the configuration and the policy of the ConfigMaps.
func (p *pods) checkConfiguration(t *testing.T) {
	t.Helper()
	policy := map[string]string{}
	for _, m := range p.all {
		if m["kind"] == "ConfigMap" {
			for name, text := range m.at(t, "data").(map[string]any) {
				if name == "postern.yaml" {
					p.text = text.(string)
				} else {
					policy[name] = text.(string)
				}
			}
		}
	}
	p.cfg = checkSampleConfig(t, p.what, p.text, policy)
	if p.cfg == nil || len(policy) == 0 {
		t.Fatalf("%s: no configuration or no policy", p.what)
	}
}

// checkVolumes: whatever the configuration names lies on one, and nearly nothing can be
// written to.
func (p *pods) checkVolumes(t *testing.T) {
	t.Helper()
	mounts := map[string]string{}
	for _, v := range p.container.at(t, "volumeMounts").([]any) {
		m := manifest(v.(map[string]any))
		mounts[m.text(t, "name")] = m.text(t, "mountPath")
		if writable := m["readOnly"] != true; writable != (m["name"] == "state") {
			t.Errorf("%s: %s can be written to: %v", p.what, m["name"], writable)
		}
		if m["subPath"] != nil {
			t.Errorf("%s: %s is a subPath, which is never brought up to date", p.what, m["name"])
		}
	}
	maps := map[string]bool{}
	for _, m := range p.all {
		if m["kind"] == "ConfigMap" {
			maps[m.text(t, "metadata", "name")] = true
		}
	}
	for _, v := range p.pod.at(t, "volumes").([]any) {
		m := manifest(v.(map[string]any))
		if _, used := mounts[m.text(t, "name")]; !used {
			t.Errorf("%s: nobody mounts the volume %s", p.what, m["name"])
		}
		if from := m.text(t, "configMap", "name"); from != "" && !maps[from] {
			t.Errorf("%s: there is no ConfigMap %s", p.what, from)
		}
	}
	if args := fmt.Sprint(p.container["args"]); args != "[serve -c "+mounts["config"]+"/postern.yaml]" {
		t.Errorf("%s: the arguments are %s", p.what, args)
	}
	for _, file := range regexp.MustCompile(`/(?:etc|run|var)/[a-zA-Z0-9_./-]+`).FindAllString(p.text, -1) {
		inside := false
		for _, at := range mounts {
			inside = inside || file == at || strings.HasPrefix(file, at+"/")
		}
		if !inside {
			t.Errorf("%s: %s is on no volume", p.what, file)
		}
	}
}

// checkPorts: they are where the server listens.
func (p *pods) checkPorts(t *testing.T) {
	t.Helper()
	listen := p.cfg.Listen
	for _, v := range p.container.at(t, "ports").([]any) {
		m := manifest(v.(map[string]any))
		p.ports[m.text(t, "name")] = fmt.Sprint(m["containerPort"])
	}
	for name, at := range map[string]string{"grpc": listen.GRPC.String(), "admin": listen.Admin.String(), "gateway": listen.Gateway.String()} {
		if port := at[strings.LastIndexByte(at, ':')+1:]; p.ports[name] != port && !(at == "off" || at == "") {
			t.Errorf("%s: %s listens at %s, and the port is %q", p.what, name, at, p.ports[name])
		}
	}
	for _, v := range theOne(t, p.all, "Service").at(t, "spec", "ports").([]any) {
		m := manifest(v.(map[string]any))
		if target := m.text(t, "targetPort"); p.ports[target] == "" || p.ports[target] != fmt.Sprint(m["port"]) {
			t.Errorf("%s: the Service's port %v leads to %q", p.what, m["port"], target)
		}
	}
}

// checkProbes: they speak as the server does.
func (p *pods) checkProbes(t *testing.T) {
	t.Helper()
	scheme := "HTTPS"
	if p.cfg.TLS == nil {
		scheme = "HTTP"
	} else if p.cfg.TLS.ClientCA != "" {
		t.Errorf("%s: probes have no certificate to show", p.what)
	}
	for probe, at := range map[string]string{"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"} {
		if get := fmt.Sprint(p.container.at(t, probe, "httpGet")); get != "map[path:"+at+" port:admin scheme:"+scheme+"]" {
			t.Errorf("%s: %s asks %s", p.what, probe, get)
		}
	}
}

// checkRolling: a new pod comes before an old one goes, and what runs out last is the time
// of the pod.
func (p *pods) checkRolling(t *testing.T) {
	t.Helper()
	sleep, _ := p.container.at(t, "lifecycle", "preStop", "sleep", "seconds").(int)
	grace, _ := p.pod["terminationGracePeriodSeconds"].(int)
	if sleep < 1 || time.Duration(grace-sleep)*time.Second < p.cfg.Shutdown.Drain+5*time.Second {
		t.Errorf("%s: %d s of grace for preStop (%d s) and drain (%v)", p.what, grace, sleep, p.cfg.Shutdown.Drain)
	}
	if roll := fmt.Sprint(p.deployment.at(t, "spec", "strategy", "rollingUpdate")); roll != "map[maxSurge:1 maxUnavailable:0]" {
		t.Errorf("%s: rolls by %s", p.what, roll)
	}
}

// checkRights: the standard `restricted` of Kubernetes, and a root that cannot be written
// to.
func (p *pods) checkRights(t *testing.T) {
	t.Helper()
	if got := fmt.Sprint(p.container["securityContext"]); got != "map[allowPrivilegeEscalation:false capabilities:map[drop:[ALL]] readOnlyRootFilesystem:true]" {
		t.Errorf("%s: the container may %s", p.what, got)
	}
	if s := p.pod.at(t, "securityContext").(map[string]any); s["runAsNonRoot"] != true || s["runAsUser"] != 65532 || p.pod["automountServiceAccountToken"] != false || fmt.Sprint(s["seccompProfile"]) != "map[type:RuntimeDefault]" {
		t.Errorf("%s: the pod may %v", p.what, s)
	}
}

// checkSelectors: everybody who selects pods selects these, and ports that they have.
func (p *pods) checkSelectors(t *testing.T) {
	t.Helper()
	labels := p.deployment.at(t, "spec", "template", "metadata", "labels").(map[string]any)
	for name, selector := range map[string]any{
		"Deployment": p.deployment.at(t, "spec", "selector", "matchLabels"), "Service": theOne(t, p.all, "Service").at(t, "spec", "selector"),
		"PodDisruptionBudget": theOne(t, p.all, "PodDisruptionBudget").at(t, "spec", "selector", "matchLabels"),
		"NetworkPolicy":       theOne(t, p.all, "NetworkPolicy").at(t, "spec", "podSelector", "matchLabels"),
	} {
		m, _ := selector.(map[string]any)
		if len(m) == 0 {
			t.Errorf("%s: %s selects everything", p.what, name)
		}
		for k, v := range m {
			if labels[k] != v {
				t.Errorf("%s: %s looks for %s=%v, and the pod has %v", p.what, name, k, v, labels[k])
			}
		}
	}
	for _, rule := range theOne(t, p.all, "NetworkPolicy").at(t, "spec", "ingress").([]any) {
		m := manifest(rule.(map[string]any))
		for _, v := range m.at(t, "ports").([]any) {
			if name := manifest(v.(map[string]any)).text(t, "port"); p.ports[name] == "" {
				t.Errorf("%s: the NetworkPolicy speaks of a port %q", p.what, name)
			}
		}
	}
}

// toolFor is a program of the environment's variable or the PATH; without it the test is
// skipped, and says how to get it.
func toolFor(t testing.TB, variable, name, howTo string) string {
	t.Helper()
	for _, program := range []string{os.Getenv(variable), name} {
		if found, err := exec.LookPath(program); program != "" && err == nil {
			return found
		}
	}
	t.Skipf("there is no %s (%s, and name it in %s)", name, howTo, variable)
	return ""
}

// output runs a program and returns what it prints; failing is an error of the test.
func output(t testing.TB, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", program, args, err, &stderr, out)
	}
	return string(out)
}

// kustomized is what kubectl or kustomize makes of a directory of deploy/kubernetes.
func kustomized(t testing.TB, name string) string {
	t.Helper()
	program, command := toolFor(t, "POSTERN_KUSTOMIZE", "kubectl", "or kustomize: go install sigs.k8s.io/kustomize/kustomize/v5@v5.8.0"), "kustomize"
	if filepath.Base(program) == "kustomize" {
		command = "build"
	}
	return output(t, program, command, filepath.Join(repository, "deploy", "kubernetes", filepath.FromSlash(name)))
}

func TestDeployKustomize(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"base", "overlays/production"} {
		all := manifests(t, kustomized(t, name))
		checkPods(t, name, all)
		for _, m := range all {
			if at := m.text(t, "metadata", "namespace"); at != "postern" && m["kind"] != "Namespace" {
				t.Errorf("%s: %s is in the namespace %q", name, m.name(), at)
			}
		}
	}
}

// helmChart renders the chart with values, as --set has them.
func helmChart(t testing.TB, values ...string) (text string, err error) {
	t.Helper()
	helm := toolFor(t, "POSTERN_HELM", "helm", "go install helm.sh/helm/v3/cmd/helm@v3.22.0")
	args := []string{"template", "postern", filepath.Join(repository, "deploy", "helm", "postern"), "--namespace", "postern", "--kube-version", "1.30.0"}
	for _, v := range values {
		args = append(args, "--set-json", v)
	}
	out, err := exec.CommandContext(t.Context(), helm, args...).CombinedOutput()
	return string(out), err
}

// chartValues are ways to use the chart.
var chartValues = map[string][]string{
	"as it stands": nil,
	"everything": {
		`config.listen.gateway="0.0.0.0:9193"`, `state={"enabled":true,"sizeLimit":"1Gi"}`, `image.digest="sha256:` + strings.Repeat("a", 64) + `"`, `image.pullSecrets=[{"name":"pull"}]`,
		`podLabels={"team":"edge"}`, `podAnnotations={"a":"b"}`, `extraEnv=[{"name":"A","value":"b"}]`, `nodeSelector={"a":"b"}`, `tolerations=[{"operator":"Exists"}]`,
		`affinity={"nodeAffinity":{}}`, `priorityClassName="system-cluster-critical"`, `serviceAccount={"annotations":{"a":"b"}}`, `networkPolicy.egressPorts=[443,5432]`,
		`policy={"authz.rego":"package postern.authz\n\ndefault decision := false\n"}`,
	},
	"in a mesh": {`config.tls=null`, `tls=""`, `config.callers=[{"name":"mesh","cidrs":["127.0.0.6/32"]}]`},
}

func TestDeployHelm(t *testing.T) {
	t.Parallel()
	for name, values := range chartValues {
		text, err := helmChart(t, values...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		checkPods(t, name, manifests(t, text))
	}
	for name, values := range map[string][]string{
		"a misspelt value":          {`replica=2`},
		"no policy":                 {`policy=null`},
		"nobody could probe it":     {`config.listen.admin="127.0.0.1:9192"`},
		"nobody could ask it":       {`config.listen.grpc="off"`},
		"probes have no cert":       {`config.tls={"cert":"a","key":"b","client_ca":"c"}`},
		"a digest that is none":     {`image.digest="latest"`},
		"a file outside":            {`policy={"../authz.rego":"package a"}`},
		"another version of config": {`config.version=2`},
	} {
		if text, err := helmChart(t, values...); err == nil {
			t.Errorf("%s is rendered:\n%s", name, text)
		}
	}
	helm := toolFor(t, "POSTERN_HELM", "helm", "")
	output(t, helm, "lint", "--strict", filepath.Join(repository, "deploy", "helm", "postern"))
}

// TestDeploySchemas asks the API server's own validation, with the definitions of
// Gateway API, Envoy Gateway and Istio, about every manifest.
func TestDeploySchemas(t *testing.T) {
	t.Parallel()
	validate := toolFor(t, "POSTERN_KUBECTL_VALIDATE", "kubectl-validate", "go install sigs.k8s.io/kubectl-validate@v0.0.4")
	crds := os.Getenv("POSTERN_CRDS")
	if crds == "" {
		t.Skip("POSTERN_CRDS names no directory with the CustomResourceDefinitions of Gateway API, Envoy Gateway and Istio: .ci/run deploy fetches them")
	}
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	judge := func(name string) (string, error) {
		out, err := exec.CommandContext(t.Context(), validate, filepath.Join(dir, name+".yaml"), "--local-crds", crds, "--version", "1.30").CombinedOutput()
		return string(out), err
	}
	texts := map[string]string{
		"base": kustomized(t, "base"), "production": kustomized(t, "overlays/production"),
		"envoy-gateway": deployedFile(t, "envoy-gateway/envoy-gateway.yaml"), "istio": deployedFile(t, "istio/istio.yaml"),
	}
	for name, values := range chartValues {
		text, err := helmChart(t, values...)
		if err != nil {
			t.Fatal(text)
		}
		texts["helm "+name] = text
	}
	for name, text := range texts {
		put(name, text)
		if out, err := judge(name); err != nil || strings.Count(out, "OK") != 1 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	// The check can fail: one wrong word each.
	for name, change := range map[string][]string{
		"base":          {"readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true"},
		"envoy-gateway": {"failOpen: false", "failOpen: sometimes"},
		"istio":         {"action: CUSTOM", "action: CUSTOMS"},
	} {
		if !strings.Contains(texts[name], change[0]) {
			t.Fatalf("%s has no %s", name, change[0])
		}
		put("wrong "+name, strings.Replace(texts[name], change[0], change[1], 1))
		if out, err := judge("wrong " + name); err == nil {
			t.Errorf("%s with %s: %s", name, change[1], out)
		}
	}
}

// The mesh's configuration is read into Istio's own type, by a program of its own: its
// module is none of Postern's.
func TestDeployMeshConfig(t *testing.T) {
	t.Parallel()
	version := os.Getenv("POSTERN_ISTIO_API")
	if version == "" {
		t.Skip("POSTERN_ISTIO_API names no version of istio.io/api, such as v1.31.1: .ci/run deploy does")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module mesh\n\ngo 1.26.0\n\nrequire istio.io/api " + version + "\n", "main.go": meshReader} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "mesh")
	for _, args := range [][]string{{"mod", "tidy"}, {"build", "-o", program, "."}} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod -buildvcs=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
	read := func(text string) error {
		mesh, err := json.Marshal(theOne(t, manifests(t, text), "IstioOperator").at(t, "spec", "meshConfig"))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Stdin = bytes.NewReader(mesh)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	text := deployedFile(t, "istio/meshconfig.yaml")
	if err := read(text); err != nil {
		t.Error(err)
	}
	if err := read(regexp.MustCompile(`# (includeRequest.*)`).ReplaceAllString(text, "$1")); err != nil {
		t.Error("what is a comment: ", err)
	}
	if err := read(strings.Replace(text, "failOpen", "failsOpen", 1)); err == nil {
		t.Error("a misspelt field is read")
	}
}

const meshReader = `package main

import (
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/encoding/protojson"
	mesh "istio.io/api/mesh/v1alpha1"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = protojson.Unmarshal(text, &mesh.MeshConfig{})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
`

// The samples for Istio and Envoy Gateway say the same things of Postern as that for
// Kubernetes does: where it is, and that nobody gets in without it.
func TestDeployMeshes(t *testing.T) {
	t.Parallel()
	gateway := manifests(t, deployedFile(t, "envoy-gateway/envoy-gateway.yaml"))
	asks := manifest(theOne(t, gateway, "SecurityPolicy").at(t, "spec", "extAuth").(map[string]any))
	if asks["failOpen"] != false || asks["statusOnError"] != 503 || asks["headersToExtAuth"] != nil {
		t.Errorf("Envoy Gateway: %v", asks)
	}
	if at := fmt.Sprint(asks.at(t, "grpc", "backendRefs")); at != "[map[name:postern namespace:postern port:9191]]" {
		t.Error("Envoy Gateway asks at ", at)
	}
	traffic := theOne(t, gateway, "ClientTrafficPolicy")
	if traffic.text(t, "spec", "path", "escapedSlashesAction") != "RejectRequest" || traffic.text(t, "spec", "headers", "withUnderscoresAction") != "RejectRequest" {
		t.Errorf("Envoy Gateway reads requests otherwise: %v", traffic["spec"])
	}
	mesh := theOne(t, manifests(t, deployedFile(t, "istio/meshconfig.yaml")), "IstioOperator")
	provider := manifest(mesh.at(t, "spec", "meshConfig", "extensionProviders", 0).(map[string]any))
	grpc := provider.at(t, "envoyExtAuthzGrpc").(map[string]any)
	if grpc["failOpen"] != false || grpc["statusOnError"] != "503" || grpc["service"] != "postern.postern.svc.cluster.local" || grpc["port"] != 9191 {
		t.Errorf("Istio asks at %v", grpc)
	}
	policies := manifests(t, deployedFile(t, "istio/istio.yaml"))
	named := 0
	for _, m := range policies {
		if m.text(t, "spec", "action") == "CUSTOM" {
			named++
			if m.text(t, "spec", "provider", "name") != provider["name"] {
				t.Errorf("%s names another provider", m.name())
			}
		}
	}
	if named != 1 {
		t.Errorf("%d policies ask Postern", named)
	}
}

// Nothing in the Compose project has rights that it does not need, and Postern knows its
// caller by the network that both are in.
func TestDeployCompose(t *testing.T) {
	t.Parallel()
	all := manifests(t, deployedFile(t, "compose/compose.yaml"))[0]
	cfg := checkSampleConfig(t, "compose", deployedFile(t, "compose/postern.yaml"), map[string]string{"data.yaml": deployedFile(t, "start/policy/data.yaml")})
	subnet := netip.MustParsePrefix(all.text(t, "networks", "inside", "ipam", "config", 0, "subnet"))
	if len(cfg.Callers) != 1 || !slices.Equal(cfg.Callers[0].CIDRs, []netip.Prefix{subnet}) || all.at(t, "networks", "inside", "internal") != true {
		t.Errorf("callers %v, network %v", cfg.Callers, all.at(t, "networks"))
	}
	for name, s := range all.at(t, "services").(map[string]any) {
		m := manifest(s.(map[string]any))
		if m["read_only"] != true || fmt.Sprint(m["cap_drop"]) != "[ALL]" || fmt.Sprint(m["security_opt"]) != "[no-new-privileges:true]" || m["privileged"] != nil {
			t.Errorf("%s has rights", name)
		}
		if reached := m["ports"] != nil || slices.Contains(m.at(t, "networks").([]any), any("edge")); reached != (name == "envoy") {
			t.Errorf("%s can be reached: %v", name, reached)
		}
	}
	if grace, err := time.ParseDuration(all.text(t, "services", "postern", "stop_grace_period")); err != nil || grace <= cfg.Shutdown.Drain {
		t.Errorf("%v to stop in, %v", grace, err)
	}
	docker := deployedText(t, "docker/Dockerfile")
	for _, line := range []string{"USER 65532:65532", "deploy/build.sh build", `ENTRYPOINT ["/postern"]`, `CMD ["/postern", "ready"]`, "FROM gcr.io/distroless/static-debian12:nonroot"} {
		if !strings.Contains(docker, line) {
			t.Errorf("the Dockerfile has no %s", line)
		}
	}
	last := docker[strings.LastIndex(docker, "\nFROM "):]
	if regexp.MustCompile(`(?m)^RUN |^USER (0|root)|^ADD `).MatchString(last) {
		t.Error("something runs in the image, or as root")
	}
	if test := fmt.Sprint(all.at(t, "services", "postern", "healthcheck", "test")); test != "[CMD /postern ready]" {
		t.Error("health is ", test)
	}
}

// The Compose specification's own schema says that it is a project, where it can be had.
func TestDeployComposeSchema(t *testing.T) {
	t.Parallel()
	modules, schema := os.Getenv("POSTERN_CYCLONEDX"), os.Getenv("POSTERN_COMPOSE_SCHEMA")
	if modules == "" || schema == "" {
		t.Skip("POSTERN_CYCLONEDX names no directory with the npm package ajv, or POSTERN_COMPOSE_SCHEMA no compose-spec.json: .ci/run deploy has both")
	}
	judge := func(text string) ([]byte, error) {
		project, err := json.Marshal(manifests(t, text)[0])
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "node", "-e", composeCheck, schema)
		cmd.Dir, cmd.Stdin = modules, bytes.NewReader(project)
		return cmd.CombinedOutput()
	}
	text := deployedFile(t, "compose/compose.yaml")
	if out, err := judge(text); err != nil {
		t.Errorf("%v %s", err, out)
	}
	if out, err := judge(strings.Replace(text, "cap_drop", "cap_drops", 1)); err == nil {
		t.Errorf("a misspelt word is taken: %s", out)
	}
}

const composeCheck = `
const Ajv = require('ajv/dist/2020');
const { readFileSync } = require('fs');
const ajv = new Ajv({ strict: false, validateFormats: false });
const check = ajv.compile(JSON.parse(readFileSync(process.argv[1], 'utf8')));
if (!check(JSON.parse(readFileSync(0, 'utf8')))) { console.log(JSON.stringify(check.errors)); process.exit(1); }
`

// deployedText is a file of deploy/ that is not among those that init writes.
func deployedText(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "deploy", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The unit is one that systemd reads, with little left that it may do.
func TestDeploySystemd(t *testing.T) {
	t.Parallel()
	unit := deployedFile(t, "systemd/postern.service")
	for _, line := range []string{
		"Type=notify", "DynamicUser=yes", "CapabilityBoundingSet=", "NoNewPrivileges=yes", "ProtectSystem=strict", "LoadCredential=pepper:/etc/credstore/postern.pepper",
		"StateDirectory=postern", "ExecReload=/bin/kill -HUP $MAINPID", "MemoryDenyWriteExecute=yes",
	} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("the unit has no %s", line)
		}
	}
	config := deployedFile(t, "systemd/postern.yaml")
	if !strings.Contains(config, "${file:/run/credentials/postern.service/pepper}") || !strings.Contains(config, "/var/lib/postern/") {
		t.Error("the configuration looks elsewhere for the pepper or the store")
	}
	analyze := toolFor(t, "POSTERN_SYSTEMD_ANALYZE", "systemd-analyze", "Debian: apt-get install systemd")
	// As it stands, but for a program that exists.
	dir := t.TempDir()
	file := filepath.Join(dir, "postern.service")
	verify := func(text string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "/usr/local/bin/postern", "/bin/true")), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file).CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%v: %s", err, out)
		}
		return string(out)
	}
	if said := verify(unit); strings.Contains(said, file+":") || strings.Contains(said, "postern.service:") {
		t.Error(said)
	}
	if said := verify(strings.Replace(unit, "ProtectSystem=strict", "ProtectSystem=very", 1)); !strings.Contains(said, "postern.service:") {
		t.Error("a wrong word is taken: ", said)
	}
	_ = verify(unit)
	if out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=20", file).CombinedOutput(); err != nil {
		t.Errorf("an exposure above 2.0: %v\n%s", err, out)
	}
}
