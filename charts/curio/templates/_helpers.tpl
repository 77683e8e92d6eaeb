{{/* Name of the release's objects. */}}
{{- define "curio.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "curio.operator" -}}
{{ include "curio.fullname" . }}-operator
{{- end }}

{{/* Cluster-scoped objects of two releases must not meet. */}}
{{- define "curio.clusterWide" -}}
{{ printf "%s-%s" .Release.Namespace (include "curio.fullname" .) }}
{{- end }}

{{- define "curio.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "curio.operator" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name the account that the operator is to use, or set serviceAccount.create=true" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "curio.selector" -}}
app.kubernetes.io/name: curio-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels that every object of the chart carries beside its name. */}}
{{- define "curio.common" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: curio
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "curio.labels" -}}
app.kubernetes.io/name: curio-operator
{{ include "curio.common" . }}
{{- end }}

{{/* A reference to one of our images: (list . "runner"). */}}
{{- define "curio.image" -}}
{{- $root := index . 0 }}
{{- $which := index . 1 }}
{{- $images := $root.Values.images }}
{{- $default := printf "%s/curio-%s:%s" (trimSuffix "/" $images.registry) $which (default $root.Chart.AppVersion $images.tag) }}
{{- include "curio.pinned" (list (printf "images.%s" $which) (default $default (index $images $which))) }}
{{- end }}

{{/* A reference that means the same image tomorrow: (list "name of the value" "reference"). */}}
{{- define "curio.pinned" -}}
{{- $value := index . 0 }}
{{- $reference := index . 1 }}
{{- if hasSuffix ":latest" $reference }}
{{- fail (printf "%s: %q names whatever image is newest; name a version or a digest" $value $reference) }}
{{- end }}
{{- if not (regexMatch "(:[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})$" $reference) }}
{{- fail (printf "%s: %q has no tag; write it like registry.example/curio:1.2.3 or with @sha256:..." $value $reference) }}
{{- end }}
{{- $reference }}
{{- end }}

{{- define "curio.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What the pod security standard `restricted` wants of a pod: the user's number. */}}
{{- define "curio.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The same of a container. */}}
{{- define "curio.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
