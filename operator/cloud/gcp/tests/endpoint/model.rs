//! Google's own description of its API, and whether a request keeps to it.
//!
//! `compute.v1.json` is the discovery document out of the package google-api-python-client; `tests/models.sh` fetches
//! it. Checked are the route, the names of query parameters, and every member, type and enum value of a body.

use std::{fs, path::PathBuf, sync::OnceLock};

use serde_json::{Map, Value};

/// What Google's client adds that the document doesn't hold: the `$`-parameters of every Google API.
const SYSTEM: [&str; 3] = ["$alt", "$apiVersion", "alt"];

/// A method of the API, and what the path says.
pub struct Matched {
    /// For example `compute.instances.insert`.
    pub id: String,
    /// The path from `projects/` on.
    pub path: String,
}

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let folder = std::env::var_os("CONSTELLATION_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/constellation-operator"),
            PathBuf::from,
        );
        let path = folder.join("models/compute.v1.json");
        let text = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run tests/models.sh google", path.display()));
        serde_json::from_slice(&text).unwrap()
    })
}

/// Finds the method of a request, and everything that is wrong with it.
pub fn check(verb: &str, path: &str, query: &[(String, String)], body: Option<&Value>) -> Result<Matched, Vec<String>> {
    let path = path.trim_start_matches("/compute/v1/");
    let (id, method) = method(verb, path).ok_or_else(|| vec![format!("no method {verb} {path}")])?;
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
    match (method["request"]["$ref"].as_str(), body) {
        (Some(schema), Some(body)) => value(&id, &document()["schemas"][schema], body, &mut wrong),
        (Some(schema), None) => wrong.push(format!("{id}: no body, {schema} is wanted")),
        (None, Some(body)) if !body.is_null() => wrong.push(format!("{id}: a body, none is wanted")),
        (None, _) => {}
    }
    if wrong.is_empty() { Ok(Matched { id, path: path.to_owned() }) } else { Err(wrong) }
}

fn method(verb: &str, path: &str) -> Option<(String, &'static Value)> {
    let parts: Vec<_> = path.split('/').collect();
    let fits = |method: &&Value| {
        let template: Vec<_> = method["flatPath"].as_str().unwrap_or_default().split('/').collect();
        method["httpMethod"] == verb
            && template.len() == parts.len()
            && template.iter().zip(&parts).all(|(want, part)| want.starts_with('{') || want == part)
    };
    let resources = document()["resources"].as_object()?.values();
    let mut all = resources.filter_map(|resource| resource["methods"].as_object()).flat_map(Map::values);
    let method = all.find(fits)?;
    Some((method["id"].as_str()?.to_owned(), method))
}

fn value(at: &str, schema: &Value, given: &Value, wrong: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        return value(at, &document()["schemas"][name], given, wrong);
    }
    match schema["type"].as_str() {
        Some("object") => {
            let Some(given) = given.as_object() else { return wrong.push(format!("{at}: an object is wanted")) };
            for (name, member) in given {
                let at = format!("{at}.{name}");
                match schema["properties"].get(name).or_else(|| schema.get("additionalProperties")) {
                    Some(schema) => value(&at, schema, member, wrong),
                    None => wrong.push(format!("{at}: unknown member")),
                }
            }
        }
        Some("array") => match given.as_array() {
            Some(items) => items.iter().for_each(|item| value(&format!("{at}[]"), &schema["items"], item, wrong)),
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
        check("POST", "/compute/v1/projects/p/zones/z/instances", &query, Some(body))
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
        assert!(check("PUT", "/compute/v1/projects/p/zones/z/instances", &[], None).is_err());
    }
}
