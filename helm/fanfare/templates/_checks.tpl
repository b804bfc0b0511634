{{/* What a schema cannot say. Each refusal names the setting and what to choose. */}}
{{- define "fanfare.checks" -}}

{{- if or (dig "server" "listen" "" .Values.config) (dig "admin" "listen" "" .Values.config) -}}
{{- fail "config.server.listen and config.admin.listen are the chart's (ports 8080 and 8081): leave them out; `listenAddress` chooses the address." -}}
{{- end -}}

{{- $auth := dig "auth" dict .Values.config -}}
{{- $inEnvironment := false -}}
{{- range $name, $_ := .Values.secrets -}}
{{- if hasPrefix "FANFARE_AUTH__" $name }}{{ $inEnvironment = true }}{{ end -}}
{{- end -}}
{{- range .Values.env -}}
{{- if hasPrefix "FANFARE_AUTH__" .name }}{{ $inEnvironment = true }}{{ end -}}
{{- end -}}
{{- if not (or $auth $inEnvironment) -}}
{{- fail "config.auth is missing: in a pod Fanfare listens on every address, and there it refuses to serve without a decision on who may do what. Choose `config.auth.jwt` (the key as `secrets.FANFARE_AUTH__JWT__SECRET`, or in `existingSecret` together with `config.auth.jwt: {}`) or say what is open to everybody: `config.auth.anonymous: {subscribe: [\"public.>\"], publish: []}`." -}}
{{- end -}}

{{- if dig "jwt" "secret" "" $auth -}}
{{- fail "config.auth.jwt.secret would stand readable in a ConfigMap: give it as `secrets.FANFARE_AUTH__JWT__SECRET`, or in a Secret named by `existingSecret`." -}}
{{- end -}}
{{- if regexMatch "://[^/@\\s\"]*:[^/@\\s\"]+@" (toJson (dig "broker" dict .Values.config)) -}}
{{- fail "config.broker has a URL with a password, which would stand readable in a ConfigMap: give the URL as `secrets.FANFARE_BROKER__REDIS__URL` or `secrets.FANFARE_BROKER__NATS__URL`, or in a Secret named by `existingSecret`." -}}
{{- end -}}

{{- $kind := include "fanfare.brokerKind" . -}}
{{- $replicas := include "fanfare.maxReplicas" . | int -}}
{{- if and (eq $kind "memory") (gt $replicas 1) -}}
{{- fail (printf "config.broker.kind is \"memory\", which pods do not share: with %d replicas each would see a part of the events. Choose `config.broker.kind: redis` or `nats`, or set `replicas: 1` and `autoscaling.enabled: false`." $replicas) -}}
{{- end -}}

{{- if .Values.autoscaling.enabled -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas." -}}
{{- end -}}
{{- if not (or .Values.autoscaling.targetConnections .Values.autoscaling.targetCPUUtilizationPercentage) -}}
{{- fail "autoscaling.enabled needs a target: `autoscaling.targetConnections` or `autoscaling.targetCPUUtilizationPercentage`." -}}
{{- end -}}
{{- end -}}

{{- $needed := add .Values.termination.preStopSleepSeconds (include "fanfare.drainSeconds" . | int) -}}
{{- if le (include "fanfare.gracePeriodSeconds" . | int) (int $needed) -}}
{{- fail (printf "termination.gracePeriodSeconds is %s, not above preStopSleepSeconds + the drain (config.server.drain_delay, drain_window, drain_grace) = %d: the pod would be killed while it lets its streams go. Raise it, or leave it 0 to have it computed." (include "fanfare.gracePeriodSeconds" .) $needed) -}}
{{- end -}}

{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled needs `ingress.hosts`." -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs `httpRoute.parentRefs`: the Gateway that carries it." -}}
{{- end -}}
{{- end -}}
