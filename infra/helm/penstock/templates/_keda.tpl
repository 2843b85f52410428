{{/* The topic of a model version, and its consumer group; protocol/naming.py has the rule, and a test compares them. */}}
{{- define "penstock.topic" -}}
{{- $name := .model | replace "-" "--" -}}
{{- $escaped := "" -}}
{{- range $character := splitList "" $name -}}
{{- if regexMatch "^[a-zA-Z0-9_-]$" $character -}}
{{- $escaped = printf "%s%s" $escaped $character -}}
{{- else -}}
{{- $escaped = printf "%s-%s" $escaped (printf "% X" $character | replace " " "-") -}}
{{- end -}}
{{- end -}}
{{ .prefix }}.infer.{{ $escaped }}.{{ .version }}
{{- end }}

{{/* Parameters of KEDA's Kafka trigger that are in Secrets, as secretTargetRef; empty if there are none. */}}
{{- define "penstock.kedaSecrets" -}}
{{- with .Values.fleet.kafkaSecurity -}}
{{- if .credentials.name }}
- {parameter: username, name: {{ .credentials.name }}, key: {{ .credentials.usernameKey }}}
- {parameter: password, name: {{ .credentials.name }}, key: {{ .credentials.passwordKey }}}
{{- end }}
{{- if .authority.name }}
- {parameter: ca, name: {{ .authority.name }}, key: {{ .authority.key }}}
{{- end }}
{{- if .certificate.name }}
- {parameter: cert, name: {{ .certificate.name }}, key: tls.crt}
- {parameter: key, name: {{ .certificate.name }}, key: tls.key}
{{- end }}
{{- end -}}
{{- end }}

{{/* "true" if a group has KEDA's Kafka trigger. */}}
{{- define "penstock.lags" -}}
{{- $root := . -}}
{{- range $name, $values := .Values.workerGroups -}}
{{- $group := include "penstock.group" (dict "root" $root "group" $values) | fromYaml -}}
{{- if eq $group.scaling.trigger "kafka" }}true{{ end -}}
{{- end -}}
{{- end }}

{{/* The names of a group's models, for our scaler. */}}
{{- define "penstock.modelNames" -}}
{{- $names := list -}}
{{- range .models }}{{ $names = append $names .name }}{{ end -}}
{{- uniq $names | join "," -}}
{{- end }}
