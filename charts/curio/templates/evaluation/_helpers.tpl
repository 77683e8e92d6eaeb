{{/* Labels of a part of the evaluation: (list . "postgres"). */}}
{{- define "curio.evaluation.labels" -}}
{{ include "curio.evaluation.selector" . }}
app.kubernetes.io/component: evaluation
{{ include "curio.common" (index . 0) }}
{{- end }}

{{/* Labels of its pod. Without versions: a new chart alone must not restart the chain, which would forget everything. */}}
{{- define "curio.evaluation.pod" -}}
{{ include "curio.evaluation.selector" . }}
app.kubernetes.io/component: evaluation
app.kubernetes.io/part-of: curio
{{- end }}

{{- define "curio.evaluation.selector" -}}
app.kubernetes.io/name: curio-{{ index . 1 }}
{{- end }}

{{/* A word of a Secret: the one that is there, so that an upgrade changes nothing, or a new one: (list . "secret" "key"). */}}
{{- define "curio.evaluation.word" -}}
{{- $root := index . 0 }}
{{- $found := lookup "v1" "Secret" $root.Release.Namespace (index . 1) }}
{{- $word := dig "data" (index . 2) "" $found }}
{{- if $word }}{{ $word | b64dec }}{{ else }}{{ randAlphaNum 48 }}{{ end }}
{{- end }}

{{- define "curio.evaluation.claim" -}}
accessModes: [ReadWriteOnce]
{{- with (index . 0).Values.evaluation.storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ index . 1 }}
{{- end }}

{{/* A claim as a RunnerPool describes it: (list . "1Gi"). */}}
{{- define "curio.evaluation.template" -}}
{{- with (index . 0).Values.evaluation.storageClassName }}
storageClassName: {{ . }}
{{- end }}
size: {{ index . 1 }}
{{- end }}

{{/* The miner that the devnet has from its first epoch on. */}}
{{- define "curio.evaluation.miner" -}}
f01001
{{- end }}
