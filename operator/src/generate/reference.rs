//! The page `docs/reference/crds.md`: fields, defaults, bounds, rules, conditions and reasons, read from the schemas.

use std::fmt::Write;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
    JSONSchemaPropsOrBool,
};

use super::definitions;
use crate::api::conditions::{ConditionType, cluster, pool, reason, sector};

const HEAD: &str = "\
# Custom resources

Generated from `operator/src/api` by `cargo xtask generate`; a test fails when this page is stale.

All kinds are of group `curio.filecoin.io`, version `v1alpha1`, live in a namespace, and come with `kubectl get curio`. Names of
Secrets, claims and clusters mean objects of the same namespace.
";

/// Fields whose schema is Kubernetes' own, and what it is called there.
const EMBEDDED: [(&str, &str); 6] = [
    ("affinity", "Affinity"),
    ("conditions", "list of Condition"),
    ("env", "list of EnvVar"),
    ("resources", "ResourceRequirements"),
    ("tolerations", "list of Toleration"),
    ("topologySpreadConstraints", "list of TopologySpreadConstraint"),
];

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for (definition, conditions) in definitions().iter().zip([cluster::ALL, pool::ALL, sector::ALL]) {
        kind(&mut page, definition, conditions);
    }
    reasons(&mut page);
    page
}

fn kind(page: &mut String, definition: &CustomResourceDefinition, conditions: &[ConditionType]) {
    let names = &definition.spec.names;
    let version = &definition.spec.versions[0];
    let short = names.short_names.as_deref().unwrap_or_default().join("`, `");
    let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    let schema = schema.expect("a derived definition has a schema");

    line(page, format_args!("\n## {}\n", names.kind));
    line(
        page,
        format_args!("`kubectl get {}`, short `{short}`. {}", names.plural, one_line(schema.description.as_deref())),
    );
    let columns = version.additional_printer_columns.iter().flatten();
    let (always, wide): (Vec<_>, Vec<_>) = columns.partition(|column| column.priority.unwrap_or_default() == 0);
    line(page, format_args!("\nColumns: NAME, {}; with `-o wide` also {}.", titles(&always), titles(&wide)));
    if let Some(selectable) = &version.selectable_fields {
        let paths: Vec<String> =
            selectable.iter().map(|field| format!("`{}`", field.json_path.trim_start_matches('.'))).collect();
        line(page, format_args!("Field selectors: {}.", paths.join(", ")));
    }
    if version.subresources.as_ref().is_some_and(|subresources| subresources.scale.is_some()) {
        line(page, format_args!("`kubectl scale` sets `spec.replicas`."));
    }

    let properties = schema.properties.as_ref().expect("every kind has spec and status");
    for (section, heading) in [("spec", "What you write"), ("status", "What the operator reports")] {
        line(
            page,
            format_args!("\n### {heading}: `{section}`\n\n| field | type | default | meaning |\n|---|---|---|---|"),
        );
        fields(page, "", &properties[section]);
    }
    let mut refusals = Vec::new();
    rules("", schema, &mut refusals);
    line(page, format_args!("\n### What the API server refuses\n\n| field | it says |\n|---|---|"));
    for (field, message) in refusals {
        line(page, format_args!("| `{field}` | {} |", cell(&message)));
    }
    line(page, format_args!("\n### Conditions\n\n| type | true when | reasons |\n|---|---|---|"));
    for condition in conditions {
        let reasons = condition.reasons.join(", ");
        line(page, format_args!("| `{}` | {} | {reasons} |", condition.name, cell(condition.meaning)));
    }
}

fn titles(columns: &[&CustomResourceColumnDefinition]) -> String {
    columns.iter().map(|column| column.name.to_uppercase()).collect::<Vec<_>>().join(", ")
}

fn reasons(page: &mut String) {
    line(
        page,
        format_args!("\n## Reasons\n\nA reason means the same in every condition.\n\n| reason | meaning |\n|---|---|"),
    );
    for reason in reason::ALL {
        line(page, format_args!("| `{}` | {} |", reason.name, cell(reason.meaning)));
    }
}

/// A row for each field below `schema`, depth first, as `a.b[].c`.
fn fields(page: &mut String, prefix: &str, schema: &JSONSchemaProps) {
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{prefix}{name}");
        let embedded = EMBEDDED.iter().find(|(embedded, _)| embedded == name).map(|(_, type_)| *type_);
        let required = schema.required.iter().flatten().any(|required| required == name);
        let default = match &field.default {
            Some(default) => format!("`{}`", default.0),
            None if required => "required".to_owned(),
            None => String::new(),
        };
        let type_ = embedded.map_or_else(|| type_of(field), str::to_owned);
        line(page, format_args!("| `{path}` | {} | {default} | {} |", cell(&type_), cell(&meaning(field))));
        if embedded.is_some() {
            continue;
        }
        fields(page, &format!("{path}."), field);
        if let Some(item) = item_of(field) {
            fields(page, &format!("{path}[]."), item);
        }
    }
}

fn meaning(field: &JSONSchemaProps) -> String {
    let bounds = bounds(field);
    match (one_line(field.description.as_deref()), bounds.is_empty()) {
        (text, true) => text,
        (text, false) if text.is_empty() => bounds,
        (text, false) => format!("{text} {bounds}"),
    }
}

/// Bounds that a schema can say without a rule.
fn bounds(field: &JSONSchemaProps) -> String {
    let mut said = Vec::new();
    let number = |bound: f64| format!("{bound}");
    match (field.minimum.map(number), field.maximum.map(number)) {
        (Some(least), Some(most)) => said.push(format!("{least} to {most}.")),
        (Some(least), None) => said.push(format!("At least {least}.")),
        (None, Some(most)) => said.push(format!("At most {most}.")),
        (None, None) => {}
    }
    match (field.min_items, field.max_items) {
        (Some(least), Some(most)) => said.push(format!("{least} to {most} entries.")),
        (Some(least), None) => said.push(format!("At least {least} entries.")),
        (None, Some(most)) => said.push(format!("At most {most} entries.")),
        (None, None) => {}
    }
    let pattern = field.pattern.as_ref().or_else(|| item_of(field).and_then(|item| item.pattern.as_ref()));
    said.extend(pattern.map(|pattern| format!("Matches `{pattern}`.")));
    said.join(" ")
}

fn type_of(field: &JSONSchemaProps) -> String {
    if let Some(values) = &field.enum_ {
        let words = values.iter().filter_map(|value| value.0.as_str()).map(|word| format!("`{word}`"));
        return words.collect::<Vec<_>>().join(" | ");
    }
    if field.x_kubernetes_preserve_unknown_fields == Some(true) {
        return "free object".to_owned();
    }
    match (field.type_.as_deref(), item_of(field)) {
        (Some("array"), Some(item)) => format!("list of {}", type_of(item)),
        (Some("object"), _) => match additional(field) {
            Some(value) => format!("map to {}", type_of(value)),
            None => "object".to_owned(),
        },
        (Some(plain), _) => plain.to_owned(),
        (None, _) => "string or number".to_owned(),
    }
}

fn item_of(field: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match field.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(item) => Some(item),
        JSONSchemaPropsOrArray::Schemas(items) => items.first(),
    }
}

fn additional(field: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match field.additional_properties.as_ref()? {
        JSONSchemaPropsOrBool::Schema(value) => Some(value),
        JSONSchemaPropsOrBool::Bool(_) => None,
    }
}

/// Every rule with the field it belongs to.
fn rules(path: &str, schema: &JSONSchemaProps, found: &mut Vec<(String, String)>) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        let field = if path.is_empty() { "metadata.name" } else { path };
        found.push((field.to_owned(), rule.message.clone().unwrap_or_else(|| rule.rule.clone())));
    }
    let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
    for (name, field) in schema.properties.iter().flatten() {
        rules(&format!("{prefix}{name}"), field, found);
    }
    if let Some(item) = item_of(schema) {
        rules(&format!("{path}[]"), item, found);
    }
}

fn one_line(text: Option<&str>) -> String {
    text.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text that cannot end its cell of a table.
fn cell(text: &str) -> String {
    text.trim().replace('|', "\\|")
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("a string can be written to");
}
