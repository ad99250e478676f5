//! Requests checked against the vendor's own model: botocore's `service-2.json`, fetched by `tests/models.sh aws`.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::OnceLock};

use serde_json::Value;

/// A request's parameters as a tree: `Filter.1.Name=x` is Filter → 1 → Name → x.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub value: Option<String>,
    pub children: BTreeMap<String, Tree>,
}

impl Tree {
    pub fn parse(pairs: &[(String, String)]) -> Self {
        let mut root = Self::default();
        for (key, value) in pairs {
            let node = key.split('.').fold(&mut root, |node, part| node.children.entry(part.to_owned()).or_default());
            node.value = Some(value.clone());
        }
        root
    }

    /// The child at a dotted path.
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, part| node.children.get(part))
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        self.at(path)?.value.as_deref()
    }

    /// Entries of a list, in order; `member` between is skipped.
    pub fn list(&self, path: &str) -> Vec<&Self> {
        let Some(node) = self.at(path) else { return Vec::new() };
        let node = node.children.get("member").unwrap_or(node);
        let mut all: Vec<_> =
            node.children.iter().filter_map(|(n, tree)| Some((n.parse::<u32>().ok()?, tree))).collect();
        all.sort_by_key(|(n, _)| *n);
        all.into_iter().map(|(_, tree)| tree).collect()
    }

    pub fn texts(&self, path: &str) -> Vec<&str> {
        self.list(path).into_iter().filter_map(|tree| tree.value.as_deref()).collect()
    }
}

fn model(service: &str) -> &'static Value {
    static MODELS: OnceLock<BTreeMap<&'static str, Value>> = OnceLock::new();
    let models = MODELS.get_or_init(|| {
        let folder = std::env::var_os("CONSTELLATION_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/constellation-operator"),
            PathBuf::from,
        );
        let read = |name: &'static str| {
            let path = folder.join(format!("models/{name}.service-2.json"));
            let text = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run tests/models.sh aws", path.display()));
            (name, serde_json::from_slice(&text).unwrap())
        };
        ["ec2", "elbv2", "kms", "service-quotas"].map(read).into()
    });
    &models[service]
}

/// What is wrong with a request of the query protocols; empty when it keeps to the model.
pub fn check(service: &str, action: &str, params: &Tree) -> Vec<String> {
    let model = model(service);
    let mut wrong = Vec::new();
    let Some(input) = model["operations"][action]["input"]["shape"].as_str() else {
        return vec![format!("{service} has no operation {action}")];
    };
    let mut params = params.clone();
    params.children.retain(|name, _| name != "Action" && name != "Version");
    Walk { shapes: &model["shapes"], ec2: service == "ec2", wrong: &mut wrong }.shape(input, &params, action);
    wrong
}

/// The same for JSON.
pub fn check_json(service: &str, action: &str, body: &Value) -> Vec<String> {
    let model = model(service);
    let Some(input) = model["operations"][action]["input"]["shape"].as_str() else {
        return vec![format!("{service} has no operation {action}")];
    };
    let shape = &model["shapes"][input];
    let given = body.as_object().unwrap();
    let unknown = given.keys().filter(|key| shape["members"].get(key).is_none());
    let mut wrong: Vec<_> = unknown.map(|key| format!("{action}.{key} is unknown")).collect();
    let required = shape["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    wrong.extend(required.filter(|key| !given.contains_key(*key)).map(|key| format!("{action}.{key} is missing")));
    wrong
}

struct Walk<'a> {
    shapes: &'a Value,
    ec2: bool,
    wrong: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn shape(&mut self, name: &str, tree: &Tree, path: &str) {
        let shape = &self.shapes[name];
        match shape["type"].as_str().unwrap() {
            "structure" => self.structure(shape, tree, path),
            "list" => {
                let member = shape["member"]["shape"].as_str().unwrap();
                let tree =
                    if self.ec2 || shape["flattened"] == true { Some(tree) } else { tree.children.get("member") };
                for (n, entry) in tree.into_iter().flat_map(|tree| &tree.children) {
                    if n.parse::<u32>().is_err() {
                        self.wrong.push(format!("{path}.{n} is no number"));
                    }
                    self.shape(member, entry, &format!("{path}.{n}"));
                }
            }
            kind => self.scalar(kind, shape, tree, path),
        }
    }

    fn structure(&mut self, shape: &Value, tree: &Tree, path: &str) {
        let members = shape["members"].as_object().unwrap();
        let wire = |name: &str, member: &Value| {
            let location = member["locationName"].as_str();
            if !self.ec2 {
                return location.unwrap_or(name).to_owned();
            }
            let capital = |text: &str| text[..1].to_uppercase() + &text[1..];
            member["queryName"]
                .as_str()
                .map_or_else(|| location.map_or_else(|| name.to_owned(), capital), str::to_owned)
        };
        let known: BTreeMap<_, _> = members.iter().map(|(name, member)| (wire(name, member), (name, member))).collect();
        for (name, child) in &tree.children {
            match known.get(name) {
                Some((_, member)) => self.shape(member["shape"].as_str().unwrap(), child, &format!("{path}.{name}")),
                None => self.wrong.push(format!("{path}.{name} is unknown")),
            }
        }
        for required in shape["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !known.iter().any(|(wire, (name, _))| *name == required && tree.children.contains_key(wire)) {
                self.wrong.push(format!("{path}.{required} is missing"));
            }
        }
    }

    fn scalar(&mut self, kind: &str, shape: &Value, tree: &Tree, path: &str) {
        let Some(value) = tree.value.as_deref().filter(|_| tree.children.is_empty()) else {
            return self.wrong.push(format!("{path} must be one {kind}"));
        };
        let fits = match kind {
            "boolean" => matches!(value, "true" | "false"),
            "integer" | "long" => value.parse::<i64>().is_ok_and(|number| {
                let bound = |name: &str| shape[name].as_i64();
                bound("min").is_none_or(|min| number >= min) && bound("max").is_none_or(|max| number <= max)
            }),
            "string" => {
                let length = value.chars().count() as u64;
                let listed = shape["enum"].as_array().is_none_or(|list| list.iter().any(|one| one == value));
                listed
                    && shape["min"].as_u64().is_none_or(|min| length >= min)
                    && shape["max"].as_u64().is_none_or(|max| length <= max)
            }
            _ => true,
        };
        if !fits {
            self.wrong.push(format!("{path}={value} is no {kind} that the model allows"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(extra: &[(&str, &str)]) -> Vec<String> {
        let base = [("Action", "RunInstances"), ("Version", "2016-11-15"), ("MinCount", "1"), ("MaxCount", "1")];
        let pairs: Vec<_> = base.iter().chain(extra).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        check("ec2", "RunInstances", &Tree::parse(&pairs))
    }

    #[test]
    fn a_good_request_keeps_to_the_model_and_one_with_one_thing_wrong_does_not() {
        assert_eq!(run(&[("CpuOptions.AmdSevSnp", "enabled"), ("TagSpecification.1.Tag.1.Key", "a")]), [""; 0]);
        for wrong in [
            ("CpuOptions.AmdSevSnp", "Enabled"),
            ("CpuOptions.SevSnp", "enabled"),
            ("CpuOption.AmdSevSnp", "enabled"),
            ("TagSpecifications.1.Tag.1.Key", "a"),
            ("TagSpecification.a.Tag.1.Key", "a"),
            ("EbsOptimized", "yes"),
            ("Ipv6AddressCount", "one"),
        ] {
            assert_eq!(run(&[wrong]).len(), 1, "{wrong:?}");
        }
        assert_eq!(check("ec2", "RunInstance", &Tree::default()).len(), 1);
        assert!(!check("ec2", "RunInstances", &Tree::default()).is_empty(), "required members are missing");
    }
}
