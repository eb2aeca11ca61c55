# Admission control: every reason why a workload may not be created.
package kubernetes.admission

import input.request.object.spec as spec

operation := input.request.operation

labels := object.get(input.request.object.metadata, "labels", {})

namespace := object.get(input.request, ["object", "metadata", "namespace"], "default")

workload if input.request.kind.kind in {"Pod", "Deployment"}

containers contains c if some c in spec.containers

containers contains c if some c in spec.template.spec.containers

from_trusted_registry(image) if {
	some registry in data.registries
	startswith(image, registry)
}

privileged(container) if container.securityContext.privileged

deny contains "only workloads may be created here" if {
	operation == "CREATE"
	not workload
}

deny contains $"image {c.image} comes from nowhere" if {
	some c in containers
	not from_trusted_registry(c.image)
}

deny contains $"container {c.name} is privileged" if {
	not namespace in data.privileged_namespaces
	some c in containers
	privileged(c)
}

deny contains "label owner is missing" if not labels.owner

deny contains "host network" if {
	spec.hostNetwork == true
	namespace != "kube-system"
}

admit := {"allowed": count(deny) == 0, "reasons": deny}
