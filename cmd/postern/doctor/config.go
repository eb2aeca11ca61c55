package doctor

import "strings"

// lookAtConfig is `postern config check`.
func (x *examination) lookAtConfig() {
	for _, fault := range x.Faults {
		text, _, _ := strings.Cut(fault.Error(), "\n") // the line of the file itself may be left out
		x.problem("config", text, "`postern config check -c "+x.File+"` shows the place")
	}
	if len(x.Faults) == 0 {
		x.ok("config", "%s is good", x.File)
	}
	if x.Config != nil {
		x.lookAtDangers()
	}
}

// lookAtDangers names the settings that say themselves what they are.
func (x *examination) lookAtDangers() {
	if x.Config.OnFault != "deny" {
		x.warn("config", "on_fault is "+string(x.Config.OnFault)+": a gateway that fails open lets requests through that Postern could not decide on", "leave it out")
	}
	if x.Config.Plaintext.InsecureAccept {
		x.warn("config", "plaintext.insecure_accept: credentials that anybody on the way has read are taken for good", "leave it out where clients use TLS")
	}
	if x.Config.Upstream.InsecureKeepCredential {
		x.warn("config", "upstream.insecure_keep_credential: services get their callers' credentials and can use them elsewhere", "use upstream.identity_token")
	}
}
