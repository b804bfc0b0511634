{{/*
Values as TOML. Not Helm's toToml: numbers of a values file are floats to Helm, and it writes
`connections = 200000.0` and `5e+06`, which a TOML reader refuses where an integer is wanted.
*/}}

{{- define "fanfare.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end -}}
{{- end -}}

{{/* Any value on one line. A JSON string is a TOML basic string. */}}
{{- define "fanfare.toml.inline" -}}
{{- if kindIs "slice" . -}}
[{{ range $i, $item := . }}{{ if $i }}, {{ end }}{{ include "fanfare.toml.inline" $item }}{{ end }}]
{{- else if kindIs "map" . -}}
{{- $fields := list -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $fields = append $fields (printf "%s = %s" (include "fanfare.toml.key" $key) (include "fanfare.toml.inline" $value)) -}}
{{- end -}}
{{- end -}}
{ {{ join ", " $fields }} }
{{- else if kindIs "float64" . -}}
{{- if eq . (floor .) }}{{ printf "%.0f" . }}{{ else }}{{ printf "%v" . }}{{ end -}}
{{- else if typeIs "json.Number" . -}}
{{- . -}}
{{- else if kindIs "string" . -}}
{{- toRawJson . -}}
{{- else if kindIs "invalid" . -}}
{{- fail "config: null inside a list has no form in TOML" -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* "yes" for a list of tables, which is written as [[…]]. */}}
{{- define "fanfare.toml.isTables" -}}
{{- if and (kindIs "slice" .) (gt (len .) 0) -}}
{{- $all := true -}}
{{- range . }}{{ if not (kindIs "map" .) }}{{ $all = false }}{{ end }}{{ end -}}
{{- if $all }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{/* A table: (dict "path" "a.b" "table" map). Plain keys first, then tables: TOML's order. null leaves a key out. */}}
{{- define "fanfare.toml.table" -}}
{{- $path := .path -}}
{{- range $key, $value := .table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value) (include "fanfare.toml.isTables" $value)) -}}
{{ include "fanfare.toml.key" $key }} = {{ include "fanfare.toml.inline" $value }}
{{ end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- $here := ternary (include "fanfare.toml.key" $key) (printf "%s.%s" $path (include "fanfare.toml.key" $key)) (eq $path "") -}}
{{- if kindIs "map" $value }}
[{{ $here }}]
{{ include "fanfare.toml.table" (dict "path" $here "table" $value) }}
{{- else if include "fanfare.toml.isTables" $value -}}
{{- range $value }}
[[{{ $here }}]]
{{ include "fanfare.toml.table" (dict "path" $here "table" .) }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
