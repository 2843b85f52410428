{{/* What every pod has: (dict "root" $ "own" the component's values "component" its name) */}}
{{- define "penstock.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .own.affinity }}
affinity: {{- toYaml .own.affinity | nindent 2 }}
{{- else if .component }}
affinity:
  podAntiAffinity: # one node's failure takes as few of them as possible
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "penstock.selector" .root | nindent 14 }}
              app.kubernetes.io/component: {{ .component }}
{{- end }}
{{- with .own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "penstock.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Flags of every process of the fleet. */}}
{{- define "penstock.fleetArgs" -}}
{{- $fleet := .Values.fleet -}}
- {{ printf "--kafka=%s" $fleet.kafka | quote }}
{{- if not $fleet.redisSecret.name }}
- {{ printf "--redis=%s" $fleet.redis | quote }}
{{- end }}
{{ include "penstock.connectionArgs" . }}
- --session-timeout={{ $fleet.sessionTimeoutSeconds }}
- --result-ttl={{ int64 $fleet.resultTtlSeconds }}
- --log-format=json
- --log-level={{ $fleet.logLevel }}
{{- end }}

{{/* Flags of everything that connects to Kafka. */}}
{{- define "penstock.connectionArgs" -}}
{{- $security := .Values.fleet.kafkaSecurity -}}
- --prefix={{ .Values.fleet.prefix }}
{{- if ne $security.protocol "PLAINTEXT" }}
- --kafka-security-protocol={{ $security.protocol }}
{{- end }}
{{- with $security.saslMechanism }}
- --kafka-sasl-mechanism={{ . }}
{{- end }}
{{- if $security.authority.name }}
- --kafka-ssl-cafile=/etc/penstock/kafka-authority/{{ $security.authority.key }}
{{- end }}
{{- if $security.certificate.name }}
- --kafka-ssl-certfile=/etc/penstock/kafka-certificate/tls.crt
- --kafka-ssl-keyfile=/etc/penstock/kafka-certificate/tls.key
{{- end }}
{{- end }}

{{/* Variables of every process of the fleet: what must not be seen in its arguments. */}}
{{- define "penstock.fleetEnv" -}}
{{- $fleet := .Values.fleet -}}
{{- with $fleet.redisSecret }}{{ if .name }}
- name: PENSTOCK_REDIS
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}
{{- end }}{{ end }}
{{- include "penstock.kafkaEnv" . }}
{{- end }}

{{- define "penstock.kafkaEnv" -}}
{{- with .Values.fleet.kafkaSecurity.credentials }}{{ if .name }}
- name: PENSTOCK_KAFKA_SASL_USERNAME
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .usernameKey }}}}
- name: PENSTOCK_KAFKA_SASL_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .passwordKey }}}}
{{- end }}{{ end }}
{{- end }}

{{- define "penstock.fleetMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- with .Values.fleet.kafkaSecurity.authority.name }}
- {name: kafka-authority, mountPath: /etc/penstock/kafka-authority, readOnly: true}
{{- end }}
{{- with .Values.fleet.kafkaSecurity.certificate.name }}
- {name: kafka-certificate, mountPath: /etc/penstock/kafka-certificate, readOnly: true}
{{- end }}
{{- end }}

{{- define "penstock.fleetVolumes" -}}
- name: tmp
  emptyDir: {}
{{- with .Values.fleet.kafkaSecurity.authority.name }}
- name: kafka-authority
  secret: {secretName: {{ . }}}
{{- end }}
{{- with .Values.fleet.kafkaSecurity.certificate.name }}
- name: kafka-certificate
  secret: {secretName: {{ . }}}
{{- end }}
{{- end }}
