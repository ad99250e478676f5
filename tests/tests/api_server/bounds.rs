//! Every bound, pattern, enum, type and required field below `spec` of every kind: broken alone, and refused by its path.
//!
//! What can be broken is read from the definitions, and broken in the objects of `filled.yaml`, which are accepted. A field
//! that none of them gives, or a keyword that nothing here breaks, fails.

use std::{collections::BTreeSet, fs};

use futures::{StreamExt as _, stream};
use kube::{Client, core::Status};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{api, definitions, given, root, with};

/// How many objects are judged at once: the API server has two cores.
const AT_ONCE: usize = 8;

/// An object with one thing wrong.
struct Case {
    object: Value,
    /// What is wrong, as a JSON pointer.
    pointer: String,
    /// What the API server says of such things.
    words: &'static str,
}

/// The schemas below one, each by the step that leads to it: a field's name, or `*` for whatever a list or map holds.
fn children(schema: &Value) -> Vec<(&str, &Value)> {
    let fields = schema["properties"].as_object().into_iter().flatten().map(|(name, field)| (name.as_str(), field));
    let each = [&schema["items"], &schema["additionalProperties"]].into_iter().filter(|each| each.is_object());
    fields.chain(each.map(|each| ("*", each))).collect()
}

/// A schema and all below it, by their paths.
fn every(schema: &Value, path: String, found: &mut BTreeSet<String>) {
    for (step, below) in children(schema) {
        every(below, format!("{path}/{step}"), found);
    }
    found.insert(path);
}

/// Breaks each thing that a schema says of the value at `pointer`, and those below, unless an object before broke it.
fn breaks(object: &Value, schema: &Value, path: &str, pointer: &str, reached: &mut BTreeSet<String>) -> Vec<Case> {
    let value = object.pointer(pointer).unwrap();
    let mut found = Vec::new();
    if reached.insert(path.to_owned()) {
        let said = schema.as_object().unwrap();
        found.extend(said.iter().flat_map(|(keyword, bound)| broken(object, keyword, bound, value, pointer)));
        if schema["type"] == "object" && ["additionalProperties", PRESERVED].iter().all(|key| !said.contains_key(*key))
        {
            let pointer = format!("{pointer}/stray");
            found.push(Case { object: with(object.clone(), &pointer, json!(true)), pointer, words: "unknown field" });
        }
    }
    for (step, below) in children(schema) {
        let steps = match value {
            Value::Array(items) => (0..items.len()).map(|index| index.to_string()).collect(),
            Value::Object(entries) if step == "*" => entries.keys().cloned().collect(),
            _ if value.get(step).is_some() => vec![step.to_owned()],
            _ => Vec::new(),
        };
        for place in steps {
            found.extend(breaks(object, below, &format!("{path}/{step}"), &format!("{pointer}/{place}"), reached));
        }
    }
    found
}

/// Says that fields may stand there that the schema doesn't know.
const PRESERVED: &str = "x-kubernetes-preserve-unknown-fields";

/// Breaks one keyword of a value's schema.
fn broken(object: &Value, keyword: &str, bound: &Value, value: &Value, pointer: &str) -> Vec<Case> {
    let (wrong, words) = match keyword {
        "enum" => (json!("?"), "Unsupported value"),
        "maxItems" | "maxProperties" => (of_size(value, whole(bound) + 1), "Too many"),
        "maxLength" => (of_size(value, whole(bound) + 1), "Too long"),
        "maximum" => (json!(whole(bound) + 1), "should be less than or equal to"),
        "minItems" | "minLength" | "minProperties" => (of_size(value, whole(bound) - 1), "at least"),
        "minimum" => (json!(whole(bound) - 1), "should be greater than or equal to"),
        "pattern" => (json!("?"), "should match"),
        "required" => {
            let all = bound.as_array().unwrap().iter().map(|field| format!("{pointer}/{}", field.as_str().unwrap()));
            let without = |pointer: String| (with(object.clone(), &pointer, Value::Null), pointer);
            let case = |(object, pointer)| Case { object, pointer, words: "Required value" };
            return all.map(without).map(case).collect();
        }
        "type" => (if bound == "string" { json!(7) } else { json!("?") }, "must be of type"),
        // What is below is looked at there, rules have their own tests (rules.rs), and formats only say how numbers are kept.
        "additionalProperties"
        | "description"
        | "format"
        | "items"
        | "properties"
        | "x-kubernetes-list-map-keys"
        | "x-kubernetes-list-type"
        | "x-kubernetes-validations"
        | PRESERVED => return Vec::new(),
        _ => panic!("nothing here breaks {keyword}, which {pointer} has"),
    };
    let mut object = object.clone();
    *object.pointer_mut(pointer).unwrap() = wrong;
    vec![Case { object, pointer: pointer.to_owned(), words }]
}

/// A bound as a number; some are written as `254.0`.
fn whole(bound: &Value) -> i64 {
    bound.as_f64().unwrap().to_string().parse().unwrap()
}

/// A list, map or text with so many items, entries or letters.
fn of_size(value: &Value, size: i64) -> Value {
    let size = usize::try_from(size).unwrap();
    match value {
        Value::Array(items) => vec![items[0].clone(); size].into(),
        Value::Object(entries) => {
            let any = entries.values().next().unwrap();
            (0..size).map(|number| (format!("k{number}"), any.clone())).collect()
        }
        _ => "a".repeat(size).into(),
    }
}

/// The API server's word on an object; a field that it doesn't know is a mistake, as for kubectl.
async fn judged(client: &Client, object: &Value) -> Result<(), Box<Status>> {
    let place = format!("{}?dryRun=All&fieldValidation=Strict", api(client, object).resource_url());
    let request = http::Request::post(place).header("Content-Type", "application/json");
    match client.request::<Value>(request.body(serde_json::to_vec(object).unwrap()).unwrap()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status),
        Err(error) => panic!("{error}"),
    }
}

/// Whether a refusal names the place and says the words.
fn is_about(status: &Status, case: &Case) -> bool {
    // The same field is /spec/zones/0 and spec.zones[0].
    fn parts(path: &str) -> Vec<&str> {
        path.split(['/', '.', '[', ']']).filter(|part| !part.is_empty()).collect()
    }
    let wanted = parts(&case.pointer);
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    // Fields that aren't known are told of in the message alone.
    causes.any(|cause| cause.message.contains(case.words) && parts(&cause.field) == wanted)
        || (status.message.contains(case.words) && status.message.split('"').any(|field| parts(field) == wanted))
}

#[tokio::test]
async fn each_bound_is_kept_alone_and_the_refusal_names_the_field() {
    let client = &given("bounds").await;
    let (mut all, mut reached, mut cases) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let text = fs::read_to_string(root().join("tests/tests/api_server/filled.yaml")).unwrap();
    let filled: Vec<_> = serde_yaml::Deserializer::from_str(&text).map(|it| Value::deserialize(it).unwrap()).collect();
    for object in &filled {
        if let Err(refusal) = judged(client, object).await {
            panic!("{}: {}", object["metadata"]["name"], refusal.message);
        }
    }
    for definition in definitions() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        for served in definition["spec"]["versions"].as_array().unwrap() {
            let spec = &served["schema"]["openAPIV3Schema"]["properties"]["spec"];
            every(spec, kind.to_owned(), &mut all);
            for object in filled.iter().filter(|object| object["kind"] == kind) {
                cases.extend(breaks(object, spec, kind, "/spec", &mut reached));
            }
        }
    }
    let missing: Vec<_> = all.difference(&reached).collect();
    assert!(missing.is_empty(), "no object of filled.yaml has {missing:?}");
    assert!(cases.len() > 500, "{} cases", cases.len());
    let judge = |case: Case| async move {
        match judged(client, &case.object).await {
            Err(refusal) if is_about(&refusal, &case) => None,
            other => Some((case.object["kind"].clone(), case.pointer, case.words, other.err().map(|it| it.message))),
        }
    };
    let wrong: Vec<_> = stream::iter(cases).map(judge).buffer_unordered(AT_ONCE).collect().await;
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
