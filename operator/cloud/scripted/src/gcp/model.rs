//! Google's own descriptions of its APIs, and whether a request keeps to them.
//!
//! They are the discovery documents out of the package google-api-python-client; `tests/models.sh` fetches them. Checked
//! are the route, the names of query parameters, and every member, type and enum value of a body.

use std::{fs, path::PathBuf, sync::OnceLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

/// What Google's clients add that the documents don't hold: the `$`-parameters of every Google API.
const SYSTEM: [&str; 3] = ["$alt", "$apiVersion", "alt"];

/// An API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Compute Engine.
    Compute,
    /// Cloud KMS.
    Kms,
}

/// A method of the API, and what the path says.
pub struct Matched {
    /// For example `compute.instances.insert`.
    pub id: String,
    /// The path from `projects/` on.
    pub path: String,
    /// What the model says that an answer says that it is; empty where it says nothing.
    pub kind: &'static str,
}

impl Service {
    fn document(self) -> &'static Value {
        static DOCUMENTS: [OnceLock<Value>; 2] = [OnceLock::new(), OnceLock::new()];
        let (place, name) = match self {
            Self::Compute => (&DOCUMENTS[0], "compute.v1.json"),
            Self::Kms => (&DOCUMENTS[1], "cloudkms.v1.json"),
        };
        place.get_or_init(|| {
            let folder = std::env::var_os("CONSTELLATION_CACHE").map_or_else(
                || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/constellation-operator"),
                PathBuf::from,
            );
            let path = folder.join("models").join(name);
            let text =
                fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run tests/models.sh google", path.display()));
            serde_json::from_slice(&text).unwrap()
        })
    }

    /// What goes before a method's `flatPath`.
    fn prefix(self) -> &'static str {
        match self {
            Self::Compute => "/compute/v1/",
            Self::Kms => "/",
        }
    }
}

/// Finds the method of a request, and everything that is wrong with it.
pub fn check(
    service: Service,
    verb: &str,
    path: &str,
    query: &[(String, String)],
    body: Option<&Value>,
) -> Result<Matched, Vec<String>> {
    let document = service.document();
    let path = path.trim_start_matches(service.prefix());
    let (id, method) = method(document, verb, path).ok_or_else(|| vec![format!("no method {verb} {path}")])?;
    let mut wrong = Vec::new();
    let parameters = method["parameters"].as_object().unwrap();
    for (name, value) in query {
        let known = parameters.get(name).filter(|parameter| parameter["location"] == "query");
        match known {
            None if SYSTEM.contains(&name.as_str()) => {}
            None => wrong.push(format!("{id}: unknown query parameter {name}={value}")),
            Some(parameter) => scalar(&format!("{id}?{name}"), parameter, &Value::String(value.clone()), &mut wrong),
        }
    }
    let schemas = &document["schemas"];
    match (method["request"]["$ref"].as_str(), body) {
        (Some(schema), Some(body)) => value(schemas, &id, &schemas[schema], body, &mut wrong),
        (Some(schema), None) => wrong.push(format!("{id}: no body, {schema} is wanted")),
        (None, Some(body)) if !body.is_null() => wrong.push(format!("{id}: a body, none is wanted")),
        (None, _) => {}
    }
    let answer = &schemas[method["response"]["$ref"].as_str().unwrap_or_default()];
    let kind = answer["properties"]["kind"]["default"].as_str().unwrap_or_default();
    if wrong.is_empty() { Ok(Matched { id, path: path.to_owned(), kind }) } else { Err(wrong) }
}

/// The method of a path among those of a resource and of the resources in it.
fn method(resource: &'static Value, verb: &str, path: &str) -> Option<(String, &'static Value)> {
    let own = resource["methods"].as_object().into_iter().flat_map(Map::values);
    let found = own
        .into_iter()
        .find(|method| method["httpMethod"] == verb && fits(method["flatPath"].as_str().unwrap_or_default(), path));
    if let Some(method) = found {
        return Some((method["id"].as_str()?.to_owned(), method));
    }
    let inner = resource["resources"].as_object().into_iter().flat_map(Map::values);
    inner.into_iter().find_map(|resource| method(resource, verb, path))
}

/// Whether a path is of a template, whose parts may be `{any}` or `{any}:verb`. (A project may have a colon in its name.)
fn fits(template: &str, path: &str) -> bool {
    let part = |(want, part): (&str, &str)| match want.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        None => want == part,
        Some((_, verb)) => part.ends_with(verb),
    };
    template.split('/').count() == path.split('/').count() && template.split('/').zip(path.split('/')).all(part)
}

fn value(schemas: &Value, at: &str, schema: &Value, given: &Value, wrong: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        return value(schemas, at, &schemas[name], given, wrong);
    }
    match schema["type"].as_str() {
        Some("object") => {
            let Some(given) = given.as_object() else { return wrong.push(format!("{at}: an object is wanted")) };
            for (name, member) in given {
                let at = format!("{at}.{name}");
                match schema["properties"].get(name).or_else(|| schema.get("additionalProperties")) {
                    Some(schema) => value(schemas, &at, schema, member, wrong),
                    None => wrong.push(format!("{at}: unknown member")),
                }
            }
        }
        Some("array") => match given.as_array() {
            Some(items) => {
                for item in items {
                    value(schemas, &format!("{at}[]"), &schema["items"], item, wrong);
                }
            }
            None => wrong.push(format!("{at}: a list is wanted")),
        },
        _ => scalar(at, schema, given, wrong),
    }
}

/// 64-bit numbers are strings in JSON (Google API discovery, "Type and format summary").
fn scalar(at: &str, schema: &Value, given: &Value, wrong: &mut Vec<String>) {
    let query = at.contains('?');
    let digits = |text: &str| text.parse::<i128>().is_ok();
    let fits = match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("string"), Some("int64" | "uint64")) => given.as_str().is_some_and(digits),
        // RFC 4648, section 4 ("Type and format summary", `byte`).
        (Some("string"), Some("byte")) => given.as_str().is_some_and(|text| STANDARD.decode(text).is_ok()),
        (Some("string"), _) => given.is_string(),
        (Some("boolean"), _) if query => matches!(given.as_str(), Some("true" | "false")),
        (Some("boolean"), _) => given.is_boolean(),
        (Some("integer"), _) if query => given.as_str().is_some_and(digits),
        (Some("integer"), _) => given.is_i64() || given.is_u64(),
        (Some("number"), _) => given.is_number(),
        (Some("any"), _) => true,
        _ => false,
    };
    if !fits {
        return wrong.push(format!("{at}: {given} is no {} {}", schema["type"], schema["format"]));
    }
    if let Some(known) = schema["enum"].as_array().filter(|known| !known.contains(given)) {
        wrong.push(format!("{at}: {given} is none of {known:?}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn insert(body: &Value, query: &[(&str, &str)]) -> Result<Matched, Vec<String>> {
        let query: Vec<_> = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        check(Service::Compute, "POST", "/compute/v1/projects/p/zones/z/instances", &query, Some(body))
    }

    #[test]
    fn the_model_accepts_a_good_request_and_refuses_it_with_one_thing_wrong() {
        let good = json!({"name": "n", "disks": [{"diskSizeGb": "20"}],
            "confidentialInstanceConfig": {"confidentialInstanceType": "SEV_SNP"}, "labels": {"a": "b"}});
        assert_eq!(insert(&good, &[("requestId", "x"), ("$alt", "json")]).ok().unwrap().id, "compute.instances.insert");
        let spoilt: [fn(&mut Value); 5] = [
            |v| v["confidentialInstanceConfig"]["confidentialInstanceType"] = json!("SNP"),
            |v| v["disks"][0]["diskSizeGb"] = json!(20),
            |v| v["disk"] = json!([]),
            |v| v["labels"]["a"] = json!(1),
            |v| v["canIpForward"] = json!("no"),
        ];
        for spoil in spoilt {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert_eq!(insert(&bad, &[]).err().map(|wrong| wrong.len()), Some(1), "{bad}");
        }
        assert!(insert(&good, &[("request_id", "x")]).is_err());
        assert!(check(Service::Compute, "PUT", "/compute/v1/projects/p/zones/z/instances", &[], None).is_err());
    }

    #[test]
    fn a_verb_belongs_to_the_path_and_bytes_are_base64() {
        let key = "/v1/projects/p/locations/l/keyRings/r/cryptoKeys/k";
        let encrypt = |verb: &str, body: Value| {
            check(Service::Kms, "POST", &format!("{key}{verb}"), &[], Some(&body)).map(|matched| matched.id)
        };
        let good = json!({"plaintext": "AAA=", "plaintextCrc32c": "1"});
        let id = encrypt(":encrypt", good.clone()).unwrap();
        assert_eq!(id, "cloudkms.projects.locations.keyRings.cryptoKeys.encrypt");
        assert!(encrypt("", good.clone()).is_err() && encrypt(":enc", good).is_err());
        assert!(encrypt(":encrypt", json!({"plaintext": "AAA"})).is_err());
        assert!(encrypt(":encrypt", json!({"plaintext": "AAA=", "plaintextCrc32c": 1})).is_err());
        assert!(encrypt(":encrypt", json!({"text": "AAA="})).is_err());
    }
}
