# data.kubernetes.admission.decision
package kubernetes.admission

decision := {"allow": true, "deny": deny}

object := input.parsed_body.request.object

containers contains c if some c in object.spec.containers

containers contains c if some c in object.spec.initContainers

deny contains msg if {
	some c in containers
	not startswith(c.image, "registry.test/")
	msg := sprintf("%v comes from elsewhere", [c.image])
}

deny contains "a container runs as root" if {
	some c in containers
	not c.securityContext.runAsNonRoot
	not object.spec.securityContext.runAsNonRoot
}

deny contains msg if {
	some name in data.labels
	not object.metadata.labels[name]
	msg := concat(" ", ["the label is missing:", name])
}

deny contains "not an object" if not is_object(input.parsed_body)
