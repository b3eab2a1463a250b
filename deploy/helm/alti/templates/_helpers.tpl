{{- define "alti.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "alti.selector" -}}
app.kubernetes.io/name: alti
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "alti.labels" -}}
{{ include "alti.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
