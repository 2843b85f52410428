{{- define "penstock.workerResources" -}}
{{- $resources := deepCopy .resources -}}
{{- if gt (int .gpu.count) 0 -}}
{{- $gpus := dict .gpu.resource (int .gpu.count) -}}
{{- $_ := set $resources "limits" (merge $gpus (default (dict) $resources.limits)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{/* A quantity such as 20Gi as bytes. */}}
{{- define "penstock.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9]+" . -}}
{{- mul (int64 $number) (get $units (trimPrefix $number .)) -}}
{{- end }}
