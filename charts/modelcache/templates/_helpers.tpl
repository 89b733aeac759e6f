{{/* Prefix of all names. */}}
{{- define "modelcache.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "modelcache.operator" -}}{{ include "modelcache.name" . }}-operator{{- end -}}
{{- define "modelcache.agent" -}}{{ include "modelcache.name" . }}-agent{{- end -}}

{{/* Name of the Secret with the cluster's keys. */}}
{{- define "modelcache.key" -}}{{ .Values.key.secretName | default (printf "%s-key" (include "modelcache.name" .)) }}{{- end -}}

{{/* User name of a service account of the release; takes a dictionary of root and name. */}}
{{- define "modelcache.user" -}}
system:serviceaccount:{{ .root.Release.Namespace }}:{{ .name }}
{{- end -}}

{{- define "modelcache.labels" -}}
app.kubernetes.io/name: modelcache
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: modelcache
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* Labels that never change, by which pods are found; takes a dictionary of root and component. */}}
{{- define "modelcache.selector" -}}
app.kubernetes.io/name: modelcache
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Full name of an image; takes a dictionary of root and image. */}}
{{- define "modelcache.image" -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{/* What both containers may do: nothing. */}}
{{- define "modelcache.restricted" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Labels in one line, key=value,key=value; takes a dictionary of them, or nothing. */}}
{{- define "modelcache.labelList" -}}
{{- $list := list -}}
{{- range $key, $value := . }}{{ $list = append $list (printf "%s=%s" $key $value) }}{{ end -}}
{{- join "," $list -}}
{{- end -}}

{{/* Directives of the log. The libraries speak of every connection; at debug we want our own words. */}}
{{- define "modelcache.log" -}}
{{- $level := .Values.logLevel -}}
{{- if has $level (list "debug" "trace") -}}
info,modelcache_operator={{ $level }},modelcache_agent={{ $level }},modelcache_swarm={{ $level }}
{{- else -}}
{{ $level }}
{{- end -}}
{{- end -}}

{{/* Annotations by which a plain Prometheus finds a pod; takes a dictionary of root and port. */}}
{{- define "modelcache.scrape" -}}
{{- if .root.Values.metrics.annotations }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- end -}}

{{/* Environment by which agents announce themselves. */}}
{{- define "modelcache.announce" -}}
{{- if .Values.agent.discovery.announce }}
{{- if not .Values.agent.hostNetwork }}
{{- fail "agent.discovery.announce needs agent.hostNetwork: pod networks carry neither multicast nor broadcast; agents find each other by their Service there" }}
{{- end }}
{{- with .Values.agent.discovery }}
- {name: MODELCACHE_ANNOUNCE, value: "true"}
- {name: MODELCACHE_LAN_GROUP, value: "{{ .group }}"}
- {name: MODELCACHE_LAN_GROUP_V6, value: "{{ .groupV6 }}"}
- {name: MODELCACHE_LAN_PORT, value: "{{ .port }}"}
- {name: MODELCACHE_LAN_TTL, value: "{{ .ttl }}"}
{{- with .interfaces }}
- {name: MODELCACHE_LAN_INTERFACES, value: {{ join "," . | quote }}}
{{- end }}
{{- with .exclude }}
- {name: MODELCACHE_LAN_EXCLUDE, value: {{ join "," . | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.agent.discovery.hali }}
{{- if not (and $.Values.agent.discovery.announce $.Values.agent.plainBitTorrent.port) }}
{{- fail "agent.discovery.hali needs agent.discovery.announce and agent.plainBitTorrent.port, because hali is told on the nodes' network what it can take from that port: set both, or leave it out" }}
{{- end }}
- {name: MODELCACHE_HALI_SECRET_FILE, value: /var/run/secrets/modelcache-hali}
{{- end }}
{{- end -}}
