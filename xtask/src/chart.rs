//! The Helm chart's template: `manifests/sluice.yaml` with values where that has defaults.
//!
//! **Invariant: one source.** The plain manifest is what is edited; `cargo xtask docs` writes the template. Every rule below must
//! find its text, and `values.yaml` must have that text's value: with default values the template gives the manifest again.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::workspace;

/// The template, from the root of the workspace.
pub(crate) const TEMPLATE: &str = "manifests/helm/sluice/templates/sluice.yaml";
const MANIFEST: &str = "manifests/sluice.yaml";
const VALUES: &str = "manifests/helm/sluice/values.yaml";
const HEAD: &str = "# Generated from manifests/sluice.yaml by `cargo xtask docs`: edit there.\n";

/// One place, or several, where a value stands.
struct Rule {
    /// What is in front of the default, and stays.
    before: &'static str,
    /// The default, as the manifest writes it.
    default: &'static str,
    /// What the template has in its place.
    expression: &'static str,
    /// Where `values.yaml` has the default, as a JSON pointer; empty where no single value stands for it.
    value: &'static str,
}

const fn rule(
    before: &'static str,
    default: &'static str,
    expression: &'static str,
    value: &'static str,
) -> Rule {
    Rule { before, default, expression, value }
}

const IMAGE: &str = concat!("ghcr.io/sluice-net/sluice:", env!("CARGO_PKG_VERSION"));

const RULES: &[Rule] = &[
    rule("", "kube-system", "{{ .Release.Namespace }}", ""),
    rule("image: &image ", IMAGE, r#"{{ include "sluice.image" . | quote }}"#, ""),
    rule("imagePullPolicy: ", "IfNotPresent", "{{ .Values.image.pullPolicy }}", "/image/pullPolicy"),
    rule("SLUICE_API_SERVER: ", r#""""#, "{{ .Values.apiServer | quote }}", "/apiServer"),
    rule("SLUICE_UPLINK: ", r#""""#, r#"{{ join "," .Values.uplinks | quote }}"#, ""),
    rule("SLUICE_MTU: ", r#""0""#, r#""{{ int .Values.mtu }}""#, "/mtu"),
    rule(
        "SLUICE_KUBE_PROXY_REPLACEMENT: ",
        r#""true""#,
        "{{ .Values.kubeProxyReplacement | quote }}",
        "/kubeProxyReplacement",
    ),
    rule("SLUICE_MASQUERADE: ", r#""true""#, "{{ .Values.masquerade | quote }}", "/masquerade"),
    rule("SLUICE_CNI_CHAIN: ", "auto", "{{ .Values.cni.chain }}", "/cni/chain"),
    rule(
        "SLUICE_STARTUP_TAINT: ",
        "node.sluice.dev/agent-not-ready",
        "{{ .Values.startupTaint | quote }}",
        "/startupTaint",
    ),
    rule("SLUICE_METRICS_ADDRESS: ", r#""""#, "{{ .Values.metricsAddress | quote }}", "/metricsAddress"),
    rule("SLUICE_LOG_LEVEL: ", "info", "{{ .Values.log.level | quote }}", "/log/level"),
    rule("SLUICE_LOG_FORMAT: ", "json", "{{ .Values.log.format }}", "/log/format"),
    rule("value: \"127.0.0.1:", "9961", "{{ int .Values.healthPort }}", "/healthPort"),
    rule("port: ", "9961", "{{ int .Values.healthPort }}", "/healthPort"),
    rule("path: ", "/etc/cni/net.d", "{{ .Values.cni.confDir | quote }}", "/cni/confDir"),
    rule("path: ", "/opt/cni/bin", "{{ .Values.cni.binDir | quote }}", "/cni/binDir"),
    rule(
        "priorityClassName: ",
        "system-node-critical",
        "{{ .Values.priorityClassName }}",
        "/priorityClassName",
    ),
    rule("tolerations: ", "[{operator: Exists}]", "{{ toJson .Values.tolerations }}", "/tolerations"),
    rule("nodeSelector: ", "{kubernetes.io/os: linux}", "{{ toJson .Values.nodeSelector }}", "/nodeSelector"),
    rule(
        "resources: &resources",
        "\n          requests: {cpu: 50m, memory: 50Mi}\n          limits: {memory: 512Mi}",
        " {{ toJson .Values.resources }}",
        "/resources",
    ),
    rule(
        "updateStrategy:",
        "\n    type: RollingUpdate\n    rollingUpdate: {maxUnavailable: 10%}",
        " {{ toJson .Values.updateStrategy }}",
        "/updateStrategy",
    ),
    // Agents read their options when they start; here a change of one starts them again.
    rule(
        "kubectl.kubernetes.io/default-container: agent",
        "",
        "\n        sluice.dev/values: {{ toJson .Values | sha256sum }}\
         {{- with .Values.podAnnotations }}\n        {{- toYaml . | nindent 8 }}\n        {{- end }}",
        "",
    ),
    rule(
        "serviceAccountName: sluice",
        "",
        "\n      {{- with .Values.imagePullSecrets }}\n      imagePullSecrets: {{ toJson . }}\n      {{- end }}",
        "",
    ),
];

/// The template as it should be.
///
/// # Errors
/// When a file cannot be read, when the manifest has lost a text that a rule replaces, or when `values.yaml` has another default.
pub(crate) fn template() -> Result<String> {
    render(&read(MANIFEST)?, &yaml(&read(VALUES)?)?)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(workspace::root().join(path)).with_context(|| format!("reading {path}"))
}

fn yaml(text: &str) -> Result<Value> {
    serde_saphyr::from_str(text).with_context(|| format!("reading as YAML: {text}"))
}

fn render(manifest: &str, values: &Value) -> Result<String> {
    ensure!(!manifest.contains("{{"), "{MANIFEST} has a \"{{{{\", which Helm would read");
    // Its first comment is about applying that file.
    let objects = manifest.find("apiVersion:").with_context(|| format!("{MANIFEST} has no object"))?;
    let mut text = format!("{HEAD}{}", &manifest[objects..]);
    for Rule { before, default, expression, value } in RULES {
        let found = format!("{before}{default}");
        ensure!(
            text.contains(&found),
            "{MANIFEST} has no {found:?} any more: mend RULES in xtask/src/chart.rs"
        );
        text = text.replace(&found, &format!("{before}{expression}"));
        if !value.is_empty() {
            let (wanted, there) = (plain(&yaml(default)?), values.pointer(value).map(plain));
            ensure!(
                there.as_ref() == Some(&wanted),
                "{VALUES}: {value} is {there:?}, {MANIFEST} has {wanted:?}"
            );
        }
    }
    Ok(text)
}

/// A value as text: the options in the manifest are strings, whatever the chart has.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const VERSION: &str = env!("CARGO_PKG_VERSION");

    fn values() -> Value {
        yaml(&read(VALUES).expect(VALUES)).expect(VALUES)
    }

    #[test]
    fn default_values_give_the_plain_manifest() {
        template().expect("a template");
        let values = values();
        assert_eq!(values["uplinks"], Value::Array(Vec::new()));
        assert_eq!(format!("{}:{VERSION}", plain(&values["image"]["repository"])), IMAGE);
    }

    #[test]
    fn what_the_manifest_and_the_values_disagree_on_is_refused() {
        let manifest = read(MANIFEST).expect(MANIFEST);
        let refused =
            |manifest: &str, values: &Value| render(manifest, values).expect_err("refused").to_string();
        let error = refused(&manifest.replace("SLUICE_MTU", "SLUICE_MUT"), &values());
        assert!(error.contains("SLUICE_MTU"), "{error}");
        let mut other = values();
        other["mtu"] = 1500.into();
        let error = refused(&manifest, &other);
        assert!(error.contains("/mtu"), "{error}");
    }

    /// The keys of `values` and of `schema`, as far down as the schema closes its objects, are the same.
    fn compare(path: &str, values: &Value, schema: &Value) {
        let (Some(values), Some(properties)) = (values.as_object(), schema["properties"].as_object()) else {
            return;
        };
        assert_eq!(
            schema["additionalProperties"],
            Value::Bool(false),
            "{path} takes any key: a typo would pass"
        );
        let known: BTreeSet<&String> = properties.keys().filter(|key| *key != "global").collect();
        let unknown: Vec<_> = values.keys().filter(|key| !known.contains(key)).collect();
        assert!(unknown.is_empty(), "the schema refuses {path}: {unknown:?}");
        for (key, value) in values {
            compare(&format!("{path}.{key}"), value, &properties[key]);
        }
    }

    #[test]
    fn the_schema_knows_every_value_and_refuses_a_typo() {
        let schema = read("manifests/helm/sluice/values.schema.json").expect("the schema");
        let schema: Value = serde_json::from_str(&schema).expect("JSON");
        compare("values", &values(), &schema);
    }

    #[test]
    fn every_file_that_names_the_version_names_this_one() {
        let read = |path: &str| read(path).expect(path);
        let chart = yaml(&read("manifests/helm/sluice/Chart.yaml")).expect("YAML");
        assert_eq!([plain(&chart["version"]), plain(&chart["appVersion"])], [VERSION, VERSION]);
        let label = format!("image.version=\"{VERSION}\"");
        assert!(read("Containerfile").contains(&label), "{label}");
        for file in [MANIFEST, "manifests/uninstall.yaml"] {
            assert!(read(file).contains(IMAGE), "{file}");
        }
    }
}
