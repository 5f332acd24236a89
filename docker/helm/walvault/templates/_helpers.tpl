{{- define "walvault.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "walvault.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "walvault.labels" -}}
{{ include "walvault.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "walvault.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "walvault.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "walvault.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- /* The configuration: what the values say, over what the chart knows. */ -}}
{{- define "walvault.config" -}}
{{- $admin := dict "listen" "127.0.0.1:9847" "token_file" (printf "/etc/walvault/%s" .Values.secret.adminTokenItem) }}
{{- if .Values.tls.secretName }}
{{- $admin = merge (dict "listen" "0.0.0.0:9847" "tls_cert" "/etc/walvault-tls/tls.crt" "tls_key" "/etc/walvault-tls/tls.key") $admin }}
{{- end }}
{{- $known := dict "admin" $admin }}
{{- if eq .Values.mode "statefulset" }}
{{- $_ := set $known "postgres" (dict "url" "postgresql://walvault@/postgres?host=/var/run/postgresql") }}
{{- else if not (dig "postgres" "url" "" .Values.config) }}
{{- /* It may hold a password: then it comes from the environment. */ -}}
{{- $inEnvironment := false }}
{{- range .Values.env }}{{ if eq .name "WALVAULT__POSTGRES__URL" }}{{ $inEnvironment = true }}{{ end }}{{ end }}
{{- if not (or $inEnvironment .Values.envFrom) }}
{{- fail "set config.postgres.url, or WALVAULT__POSTGRES__URL in env from a Secret: walvault must know its server" }}
{{- end }}
{{- end }}
{{- if .Values.secret.keyItem }}
{{- $_ := set $known "encryption" (dict "key_file" (printf "/etc/walvault/%s" .Values.secret.keyItem)) }}
{{- end }}
{{- /* Helm reads every number as a floating one. */ -}}
{{- regexReplaceAll "(?m)= ([0-9]+)\\.0$" (toToml (merge (deepCopy .Values.config) $known)) "= ${1}" }}
{{- end }}

{{- define "walvault.mounts" -}}
- { name: walvault, mountPath: /etc/walvault, readOnly: true }
{{- end }}

{{- /* What a Pod that only reads the archive has. */ -}}
{{- define "walvault.configVolume" -}}
- name: walvault
  projected:
    defaultMode: 0400
    sources:
      - secret:
          name: {{ .Values.secret.name }}
          items:
            {{- range uniq (compact (concat (list .Values.secret.keyItem .Values.secret.adminTokenItem) .Values.secret.moreItems)) }}
            - { key: {{ . }}, path: {{ . }} }
            {{- end }}
      - configMap: { name: {{ include "walvault.name" . }} }
{{- end }}

{{- define "walvault.environment" -}}
{{- with .Values.env }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.envFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "walvault.probe" -}}
{{- if .Values.tls.secretName }}
httpGet: { path: /livez, port: walvault, scheme: HTTPS }
{{- else }}
exec: { command: [walvaultd, health] }
timeoutSeconds: 5
{{- end }}
{{- end }}

{{- /* The container itself, without name's dash and without restartPolicy. */ -}}
{{- define "walvault.container" -}}
image: {{ include "walvault.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [walvaultd]
args: [run]
{{- include "walvault.environment" . }}
ports:
  - { name: walvault, containerPort: 9847 }
{{- /* Not /startupz: PostgreSQL is started only after this has succeeded. And no readiness probe: an archive that is away must not
       take the database out of its Service. */}}
startupProbe:
  {{- include "walvault.probe" . | nindent 2 }}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  {{- include "walvault.probe" . | nindent 2 }}
  periodSeconds: 20
  failureThreshold: 3
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext: {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  {{- include "walvault.mounts" . | nindent 2 }}
  {{- if .Values.tls.secretName }}
  - { name: walvault-tls, mountPath: /etc/walvault-tls, readOnly: true }
  {{- end }}
  {{- if ne .Values.mode "deployment" }}
  - { name: socket, mountPath: /var/run/postgresql }
  {{- end }}
{{- end }}

{{- /* For initContainers: of this chart's Pods and of others'. Those of others have a volume "socket" with PostgreSQL's. */ -}}
{{- define "walvault.initContainers" -}}
- name: walvault
  restartPolicy: Always
  {{- include "walvault.container" . | nindent 2 }}
{{- end }}

{{- define "walvault.volumes" -}}
{{ include "walvault.configVolume" . }}
{{- if .Values.tls.secretName }}
- name: walvault-tls
  secret: { secretName: {{ .Values.tls.secretName }}, defaultMode: 0400 }
{{- end }}
{{- end }}

{{- define "walvault.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
