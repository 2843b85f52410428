{{/* Names are at most 26 + "-worker-" + 20 characters: KEDA puts "keda-hpa-" before them, and a name has 63. */}}
{{- define "penstock.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 26 | trimSuffix "-" -}}
{{- end }}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* (dict "chart" the chart's image, "own" a group's) → a reference */}}
{{- define "penstock.image" -}}
{{- $image := mergeOverwrite (deepCopy .root.Values.image) (deepCopy (default (dict) .own)) -}}
{{- $tag := default .root.Chart.AppVersion $image.tag -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ $tag }}{{ end -}}
{{- end }}

{{/* A group's values over the defaults, as YAML: (dict "root" $ "group" its values) */}}
{{- define "penstock.group" -}}
{{- mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy (default (dict) .group)) | toYaml -}}
{{- end }}

{{/* How many partitions a new topic of the group has; fewer than workers would leave some of them idle. */}}
{{- define "penstock.partitions" -}}
{{- $most := ternary .replicas .scaling.maxReplicas (eq .scaling.trigger "none") | int -}}
{{- if and .partitions (lt (int .partitions) $most) -}}
{{- fail (printf "partitions is %d, but up to %d workers share a model version: the rest would have no work; set partitions to at least %d, or 0" (int .partitions) $most $most) -}}
{{- end -}}
{{- default (max 4 $most) (int .partitions) -}}
{{- end }}

{{/* "true" if a group is scaled by our scaler. */}}
{{- define "penstock.pushes" -}}
{{- $root := . -}}
{{- range $name, $values := .Values.workerGroups -}}
{{- $group := include "penstock.group" (dict "root" $root "group" $values) | fromYaml -}}
{{- if eq $group.scaling.trigger "push" }}true{{ end -}}
{{- end -}}
{{- end }}
