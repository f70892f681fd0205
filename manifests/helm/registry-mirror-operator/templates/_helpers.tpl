{{- /* The image by digest if one is given, else by tag. */ -}}
{{- define "registry-mirror.image" -}}
{{- with .Values.image -}}
{{- $tag := .tag -}}
{{- if not (or .tag .digest) -}}
{{- $tag = $.Chart.AppVersion -}}
{{- end -}}
{{- .repository -}}
{{- with $tag }}:{{ . }}{{ end -}}
{{- with .digest }}@{{ . }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /*
The annotations of an object, or nothing. Takes root, wave (when Argo CD applies it), crd, and precious (whether data
that nobody else has would go with the object).
*/ -}}
{{- define "registry-mirror.annotations" -}}
{{- $annotations := dict -}}
{{- if and .crd .root.Values.crds.keep -}}
{{- $_ := set $annotations "helm.sh/resource-policy" "keep" -}}
{{- end -}}
{{- if .root.Values.argocdWaves -}}
{{- $_ := set $annotations "argocd.argoproj.io/sync-wave" .wave -}}
{{- if .precious -}}
{{- $_ := set $annotations "argocd.argoproj.io/sync-options" "Prune=false" -}}
{{- end -}}
{{- end -}}
{{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end -}}
{{- end -}}
