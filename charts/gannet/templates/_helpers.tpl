{{/* The operator's name, which its Deployment, Lease and roles share: gannet-operator for the release gannet. Two releases may
so share a namespace. Cut at 63 characters, the limit of a label. */}}
{{- define "gannet.operator" -}}
{{- $base := ternary .Release.Name (printf "%s-gannet" .Release.Name) (contains "gannet" .Release.Name) -}}
{{- printf "%s-operator" ($base | trunc 54 | trimSuffix "-") -}}
{{- end -}}

{{/* What selects the operator's pods: never changes, because a Deployment's selector cannot. */}}
{{- define "gannet.selector" -}}
app.kubernetes.io/name: gannet
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "gannet.labels" -}}
{{ include "gannet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "gannet.serviceAccount" -}}
{{- $account := .Values.operator.serviceAccount -}}
{{- if not (or $account.create $account.name) -}}
{{- fail "operator.serviceAccount.name: name the account that you have made, or set operator.serviceAccount.create to true" -}}
{{- end -}}
{{- $account.name | default (include "gannet.operator" .) -}}
{{- end -}}

{{/* image: a repository and a tag of the values, as one reference. */}}
{{- define "gannet.image" -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .default) -}}
{{- end -}}

{{/* What the operator may do in the namespaces that it watches: what it does, and nothing else. */}}
{{- define "gannet.rules" -}}
- apiGroups: [gannet.dev]
  resources: [cacheclusters]
  verbs: [get, list, watch]
- apiGroups: [gannet.dev]
  resources: [cacheclusters/status]
  verbs: [patch]
# To name a CacheCluster as the owner whose deletion waits for the owned.
- apiGroups: [gannet.dev]
  resources: [cacheclusters/finalizers]
  verbs: [update]
# Server-side apply creates and patches. What is deleted with its CacheCluster is not the operator's to delete.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
# Named by their content, and deleted when no pod needs them any more.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
# Certificates. They are read by name and never listed; a rule cannot say which names, because they follow from those of the
# CacheClusters and from what these say.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, update]
# Where cert-manager issues: what it is asked for, and to be asked again.
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, list, create, patch, delete]
- apiGroups: [cert-manager.io]
  resources: [certificates/status]
  verbs: [patch]
# Pods are made by the StatefulSet's controller; the operator deletes those that are stuck on a bad revision, and touches an
# annotation of those whose mounted certificates are behind.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# A pod that changes in place leaves the endpoints first, by its readiness gate.
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list]
# Claims of volumes whose host is gone are given up when the user says so.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
