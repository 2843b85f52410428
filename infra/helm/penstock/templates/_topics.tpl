{{- define "penstock.topicsPod" -}}
{{- $root := .root -}}
{{- include "penstock.pod" (dict "root" $root "own" dict "component" "") }}
restartPolicy: OnFailure
containers:
  - name: topics
    image: {{ include "penstock.image" (dict "root" $root "own" dict) }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args:
      - topics
      - --kafka={{ $root.Values.fleet.kafka }}
      {{- include "penstock.connectionArgs" $root | nindent 6 }}
      {{- range .topics }}
      - {{ . | quote }}
      {{- end }}
    {{- with include "penstock.kafkaEnv" $root }}
    env: {{- . | indent 6 }}
    {{- end }}
    {{- include "penstock.container" $root | nindent 4 }}
    resources: {{- toYaml $root.Values.topics.resources | nindent 6 }}
    volumeMounts:
      {{- include "penstock.fleetMounts" $root | nindent 6 }}
volumes:
  {{- include "penstock.fleetVolumes" $root | nindent 2 }}
{{- end }}
