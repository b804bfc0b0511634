{{- define "fanfare.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 56 bytes, so that "-admin" and "-probe" fit behind it. */}}
{{- define "fanfare.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 56 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "fanfare.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 56 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 56 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fanfare.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fanfare.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{/* Of everything but the selectors; the component is the caller's. */}}
{{- define "fanfare.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "fanfare.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fanfare.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fanfare.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "fanfare.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The config file: what was given, and the listeners, which the chart owns. */}}
{{- define "fanfare.configFile" -}}
{{- $owned := dict
  "server" (dict "listen" (printf "%s:8080" .Values.listenAddress))
  "admin" (dict "listen" (printf "%s:8081" .Values.listenAddress)) -}}
{{- include "fanfare.toml.table" (dict "path" "" "table" (mergeOverwrite (deepCopy .Values.config) $owned)) | trim -}}
{{- end -}}

{{/* A setting that may stand in `config`, `secrets` or `env`: the last of them wins, as in the binary. */}}
{{- define "fanfare.brokerKind" -}}
{{- $kind := dig "broker" "kind" "memory" .Values.config -}}
{{- $kind = default $kind (get .Values.secrets "FANFARE_BROKER__KIND") -}}
{{- range .Values.env -}}
{{- if eq .name "FANFARE_BROKER__KIND" }}{{ $kind = default $kind .value }}{{ end -}}
{{- end -}}
{{- $kind -}}
{{- end -}}

{{- define "fanfare.maxReplicas" -}}
{{- ternary .Values.autoscaling.maxReplicas .Values.replicas .Values.autoscaling.enabled | int -}}
{{- end -}}

{{/* A duration as the binary reads it ("90s", "1m 30s", "500ms"), in whole seconds, rounded up: (dict "key" … "value" …). */}}
{{- define "fanfare.seconds" -}}
{{- $text := toString .value | replace " " "" -}}
{{- if not (regexMatch "^([0-9]+(ms|msec|s|sec|secs|m|min|mins|h|hr|hrs))+$" $text) -}}
{{- fail (printf "%s: %q is no duration; write it like \"20s\" or \"1m 30s\" (ms, s, m, h)" .key $text) -}}
{{- end -}}
{{- $units := dict "ms" 1 "msec" 1 "s" 1000 "sec" 1000 "secs" 1000 "m" 60000 "min" 60000 "mins" 60000 "h" 3600000 "hr" 3600000 "hrs" 3600000 -}}
{{- $millis := 0 -}}
{{- range regexFindAll "[0-9]+[a-z]+" $text -1 -}}
{{- $millis = add $millis (mul (regexFind "[0-9]+" . | int64) (get $units (regexFind "[a-z]+" .))) -}}
{{- end -}}
{{- div (add $millis 999) 1000 -}}
{{- end -}}

{{/* From SIGTERM to the last request's end. The defaults are the binary's, for a key set to null. */}}
{{- define "fanfare.drainSeconds" -}}
{{- $sum := 0 -}}
{{- range $key, $default := dict "drain_delay" "0s" "drain_window" "10s" "drain_grace" "5s" -}}
{{- $value := dig "server" $key $default $.Values.config -}}
{{- $sum = add $sum (include "fanfare.seconds" (dict "key" (printf "config.server.%s" $key) "value" $value) | int) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{- define "fanfare.gracePeriodSeconds" -}}
{{- if .Values.termination.gracePeriodSeconds -}}
{{- .Values.termination.gracePeriodSeconds | int -}}
{{- else -}}
{{- add .Values.termination.preStopSleepSeconds (include "fanfare.drainSeconds" . | int) .Values.termination.marginSeconds -}}
{{- end -}}
{{- end -}}
