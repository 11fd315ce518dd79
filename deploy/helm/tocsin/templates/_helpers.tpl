{{/* Names */}}

{{- define "tocsin.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{/* At most 50 characters, so that the longest suffix still fits a label. */}}
{{- define "tocsin.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "tocsin.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "tocsin.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "tocsin.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tocsin.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "tocsin.configSecretName" -}}
{{- default (printf "%s-config" (include "tocsin.fullname" .)) .Values.existingConfigSecret -}}
{{- end }}

{{- define "tocsin.tokensSecretName" -}}
{{- default (printf "%s-tokens" (include "tocsin.fullname" .)) .Values.tokens.existingSecret -}}
{{- end }}

{{- define "tocsin.hooksSecretName" -}}
{{- default (printf "%s-tokens" (include "tocsin.fullname" .)) .Values.hooks.existingSecret -}}
{{- end }}

{{- define "tocsin.claimName" -}}
{{- default (include "tocsin.fullname" .) .Values.store.sqlite.existingClaim -}}
{{- end }}

{{/* Labels */}}

{{- define "tocsin.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tocsin.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: daemon
{{- end }}

{{- define "tocsin.baseLabels" -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/name" (include "tocsin.name" .)
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "app.kubernetes.io/part-of" "tocsin" -}}
{{- toYaml (merge $labels .Values.commonLabels) -}}
{{- end }}

{{- define "tocsin.labels" -}}
{{ include "tocsin.baseLabels" . }}
app.kubernetes.io/component: daemon
{{- end }}

{{/* The image; a digest wins over a tag. */}}
{{- define "tocsin.image" -}}
{{- $registry := default .Values.image.registry (dig "imageRegistry" "" .Values.global) -}}
{{- $name := .Values.image.repository -}}
{{- if $registry -}}{{- $name = printf "%s/%s" (trimSuffix "/" $registry) $name -}}{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end }}

{{- define "tocsin.imagePullSecrets" -}}
{{- $all := list -}}
{{- range concat (dig "imagePullSecrets" list .Values.global) .Values.imagePullSecrets -}}
{{- $all = append $all (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- if $all -}}
imagePullSecrets:
  {{- toYaml (uniq $all) | nindent 2 }}
{{- end -}}
{{- end }}

{{/* A security context without the keys that were set to null. */}}
{{- define "tocsin.withoutNulls" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $kept $key $value -}}{{- end -}}
{{- end -}}
{{- toYaml $kept -}}
{{- end }}

{{/* What only a start reads: the store and the listener. */}}

{{- define "tocsin.storeUrl" -}}
{{- if eq .Values.store.backend "sqlite" -}}
sqlite:////var/lib/tocsin/tocsin.db
{{- else if .Values.existingConfigSecret -}}
postgresql
{{- else -}}
{{- with .Values.store.postgresql -}}
{{- $host := required "store.postgresql.host: name the database's host" .host -}}
{{- printf "postgresql://%s@%s:%d/%s?sslmode=%s" (include "tocsin.percent" .username) $host (int .port) (include "tocsin.percent" .database) .sslmode -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "tocsin.percent" -}}
{{- urlquery . | replace "+" "%20" -}}
{{- end }}

{{- define "tocsin.listen" -}}
{{- printf "%s:%d" .Values.http.address (int .Values.http.port) -}}
{{- end }}

{{/* Whether the only node comes from the environment, which is filled from keys of a Secret. */}}
{{- define "tocsin.fromEnvironment" -}}
{{- if not (or .Values.existingConfigSecret .Values.config.nodes) -}}
{{- if omit .Values.config "nodes" -}}
{{- fail "config.nodes: name at least one DSS node, as {name: prod, url: https://dss.example.com, api_key_file: /run/secrets/tocsin/dss-api-key}" -}}
{{- end -}}
yes
{{- end -}}
{{- end }}

{{/* What the values must be together, each as a sentence. */}}
{{- define "tocsin.check" -}}
{{- if and (eq .Values.store.backend "sqlite") (gt (int .Values.replicaCount) 1) -}}
{{- fail "replicaCount: SQLite has one writer and so one pod; set store.backend: postgresql to run several" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: name the Gateway, as [{name: public, namespace: gateways}]" -}}
{{- end -}}
{{- end }}

{{/* tocsin.yaml: the values' `config` with what the chart knows better. */}}
{{- define "tocsin.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $store := merge (dict "url" (include "tocsin.storeUrl" .)) (default dict $config.store) -}}
{{- $own := dict "listen" (include "tocsin.listen" .) "tokens_file" "/run/secrets/tocsin-http/tokens" -}}
{{- if .Values.hooks.enabled -}}
{{- $_ := set $own "hooks_secret_file" "/run/secrets/tocsin-http/hooks-secret" -}}
{{- end -}}
{{- $http := merge $own (default dict $config.http) -}}
{{- if and .Values.ingress.enabled .Values.ingress.hosts (not $http.external_url) -}}
{{- $scheme := .Values.ingress.tls | empty | ternary "http" "https" -}}
{{- $_ := set $http "external_url" (printf "%s://%s" $scheme (first .Values.ingress.hosts).host) -}}
{{- else if and .Values.httpRoute.enabled .Values.httpRoute.hostnames (not $http.external_url) -}}
{{- $_ := set $http "external_url" (printf "https://%s" (first .Values.httpRoute.hostnames)) -}}
{{- end -}}
{{- $_ := set $config "store" $store -}}
{{- $_ := set $config "http" $http -}}
{{- if and .Values.templates (not $config.templates) -}}
{{- $_ := set $config "templates" (list "*.j2") -}}
{{- end -}}
{{- toYaml $config -}}
{{- end }}

{{/* The matchers that pick this release's series. */}}
{{- define "tocsin.promSelector" -}}
{{- default (printf "job=%q,namespace=%q" (include "tocsin.fullname" .) .Release.Namespace) .Values.prometheusRule.selector -}}
{{- end }}

{{/* The tokens file of the HTTP API: name, scope, digest. The daemon sees no token, only what it knows one by. */}}
{{- define "tocsin.tokensFile" -}}
viewer viewer {{ sha256sum .viewer }}
operator operator {{ sha256sum .operator }}
{{ end }}

{{/* Parts of the pod */}}

{{- define "tocsin.env" -}}
{{- if include "tocsin.fromEnvironment" . }}
{{- $secret := default (printf "%s-dss" (include "tocsin.fullname" .)) .Values.secrets.existingSecret }}
- name: TOCSIN_DSS_URL
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: dss-url}}
- name: TOCSIN_DSS_API_KEY_FILE
  value: /run/secrets/tocsin/dss-api-key
- name: TOCSIN_NOTIFY
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: notify, optional: true}}
- name: TOCSIN_STORE_URL
  value: {{ include "tocsin.storeUrl" . | quote }}
- name: TOCSIN_HTTP_LISTEN
  value: {{ include "tocsin.listen" . | quote }}
{{- else }}
- name: TOCSIN_CONFIG   # for the commands that people run in the pod
  value: /etc/tocsin/tocsin.yaml
{{- end }}
{{- if and (eq .Values.store.backend "postgresql") .Values.store.postgresql.existingSecret }}
- name: PGPASSWORD   # read by the PostgreSQL driver; so the configuration holds no password
  valueFrom:
    secretKeyRef:
      name: {{ .Values.store.postgresql.existingSecret }}
      key: {{ .Values.store.postgresql.passwordKey }}
{{- end }}
{{- if or .Values.caBundle.existingSecret .Values.caBundle.existingConfigMap }}
- name: SSL_CERT_FILE
  value: /etc/tocsin-ca/{{ .Values.caBundle.key }}
- name: REQUESTS_CA_BUNDLE
  value: /etc/tocsin-ca/{{ .Values.caBundle.key }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tocsin.secretSources" -}}
{{- $names := .Values.secrets.extraExistingSecrets -}}
{{- if and (include "tocsin.fromEnvironment" .) (not .Values.secrets.existingSecret) -}}{{- $names = prepend $names (printf "%s-dss" (include "tocsin.fullname" .)) -}}{{- end -}}
{{- if .Values.secrets.existingSecret -}}{{- $names = prepend $names .Values.secrets.existingSecret -}}{{- end -}}
{{- if .Values.secrets.values -}}{{- $names = append $names (printf "%s-secrets" (include "tocsin.fullname" .)) -}}{{- end -}}
{{- $sources := list -}}
{{- range $names -}}{{- $sources = append $sources (dict "secret" (dict "name" .)) -}}{{- end -}}
{{- if $sources -}}{{- toYaml $sources -}}{{- end -}}
{{- end }}

{{/* The values' affinity, and that of the preset where several replicas may share a machine. */}}
{{- define "tocsin.affinity" -}}
{{- $preset := dict -}}
{{- if and .Values.podAntiAffinityPreset (gt (int .Values.replicaCount) 1) -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "tocsin.selectorLabels" . | fromYaml)) -}}
{{- if eq .Values.podAntiAffinityPreset "hard" -}}
{{- $preset = dict "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) -}}
{{- else -}}
{{- $preset = dict "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term))) -}}
{{- end -}}
{{- end -}}
{{- $all := hasKey .Values.affinity "podAntiAffinity" | ternary .Values.affinity (merge (deepCopy .Values.affinity) $preset) -}}
{{- if $all -}}{{- toYaml $all -}}{{- end -}}
{{- end }}
