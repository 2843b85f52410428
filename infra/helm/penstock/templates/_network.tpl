{{- define "penstock.egress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    {{- range .egressPorts }}
    - {port: {{ . }}}
    {{- end }}
{{- end }}
