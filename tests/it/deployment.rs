//! Docker, Compose, Prometheus and Grafana files: they parse, and what they name exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use yaml_rust2::{Yaml, YamlLoader};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn yaml(path: &str) -> Yaml {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    YamlLoader::load_from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}")).remove(0)
}

/// Words made of what metric names are made of.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
}

fn is_ours(name: &str) -> bool {
    name.starts_with("callferry_") || name.starts_with("process_")
}

/// Names declared in the source: the string literals of the two files that declare metrics.
fn declared() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in ["src/metrics.rs", "src/observe/process.rs"] {
        let source = fs::read_to_string(root().join(file)).unwrap();
        for literal in source.split('"').skip(1).step_by(2).filter(|l| is_ours(l) && words(l).count() == 1) {
            names.insert(literal.to_owned());
        }
    }
    assert!(names.contains("callferry_rows_read_total"), "{names:?}");
    names
}

/// Names used in a Prometheus expression, a histogram's parts under its own name.
fn used(expression: &str, declared: &BTreeSet<String>) -> BTreeSet<String> {
    words(expression)
        .filter(|w| is_ours(w))
        .map(|w| {
            let part = ["_bucket", "_sum", "_count"].iter().find_map(|s| w.strip_suffix(s));
            part.filter(|p| declared.contains(*p)).unwrap_or(w).to_owned()
        })
        .collect()
}

fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                match value {
                    serde_json::Value::String(s) if key == "expr" || key == "query" => found.push(s.clone()),
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|v| expressions(v, found)),
        _ => {}
    }
}

/// Names that a Compose file replaces: `${NAME:-default}`.
pub fn variables(compose: &str) -> BTreeSet<&str> {
    compose.split("${").skip(1).filter_map(|rest| rest.split([':', '}']).next()).collect()
}

#[test]
fn what_compose_asks_for_is_documented_and_no_typing_error() {
    let compose = fs::read_to_string(root().join("docker/compose.yml")).unwrap();
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let names = variables(&compose);
    assert!(names.contains("MONITORING_PUBLISH") && names.len() >= 5, "{names:?}");
    let mut file = "DB_NAME=a\nSINKS=file\nCEL_MODE=bad\n".to_owned();
    for name in &names {
        assert!(page.contains(&format!("`{name}`")), "docs/operations.md does not tell of {name}");
        file.push_str(&format!("{name}=1\n"));
    }
    let check = crate::program::Program::new().env_file(&file).run(&["check"]);
    assert!(check.out.contains("CEL_MODE"), "{}", check.out);
    assert!(names.iter().all(|name| !check.out.contains(name)), "{}", check.out);
}

#[test]
fn the_container_keeps_its_name_over_updates() {
    let compose = yaml("docker/compose.yml");
    let service = &compose["services"]["callferry"];
    assert!(service["hostname"].as_str().is_some_and(|name| !name.is_empty()), "{service:?}");
}

#[test]
fn dashboards_show_metrics_that_exist() {
    let declared = declared();
    let mut dashboards = 0;
    for entry in fs::read_dir(root().join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        dashboards += 1;
        let dashboard: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut found = Vec::new();
        expressions(&dashboard, &mut found);
        assert!(found.len() >= 10, "{}: {} expressions", path.display(), found.len());
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_i64().unwrap()), "panel id {} occurs twice", panel["id"]);
        }
        for expression in found {
            let unknown: Vec<_> = used(&expression, &declared).difference(&declared).cloned().collect();
            assert!(unknown.is_empty(), "{}: {expression}: {unknown:?} are not declared", path.display());
        }
    }
    assert_eq!(dashboards, 1);
}

#[test]
fn alerts_use_metrics_that_exist_and_point_to_their_runbook() {
    let declared = declared();
    let operations = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let alerts = yaml("dashboards/alerts.yml");
    let mut count = 0;
    for group in alerts["groups"].as_vec().unwrap() {
        for rule in group["rules"].as_vec().unwrap() {
            let name = rule["alert"].as_str().expect("an alert");
            let expression = rule["expr"].as_str().unwrap_or_else(|| panic!("{name} has no expr"));
            let unknown: Vec<_> = used(expression, &declared).difference(&declared).cloned().collect();
            assert!(unknown.is_empty(), "{name}: {unknown:?} are not declared");
            for field in ["summary", "description", "runbook"] {
                assert!(rule["annotations"][field].as_str().is_some(), "{name} has no {field}");
            }
            assert!(operations.contains(&format!("### {name}\n")), "docs/operations.md has no section {name}");
            count += 1;
        }
    }
    assert!(count >= 6, "{count} alerts");
}

#[test]
fn every_metric_is_in_the_operations_manual() {
    let operations = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let documented: BTreeSet<&str> = words(&operations).filter(|w| is_ours(w)).collect();
    for name in declared() {
        assert!(documented.contains(name.as_str()), "{name} is not in docs/operations.md");
    }
}

#[test]
fn compose_mounts_files_that_exist_and_only_settings_that_exist() {
    let compose = yaml("docker/compose.yml");
    let services = compose["services"].as_hash().unwrap();
    for (name, service) in services {
        for volume in service["volumes"].as_vec().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            if source.starts_with('.') {
                let path: PathBuf = root().join("docker").join(source);
                assert!(path.exists(), "{name:?} mounts {source}, which is not there");
            } else {
                assert!(!compose["volumes"][source].is_badvalue(), "{source} is no declared volume");
            }
        }
    }
    for service in ["prometheus", "grafana"] {
        assert_eq!(compose["services"][service]["profiles"][0].as_str(), Some("monitoring"));
    }
    let example = callferry::config::env_example();
    for (name, _) in compose["services"]["callferry"]["environment"].as_hash().unwrap() {
        let name = name.as_str().unwrap();
        assert!(example.contains(&format!("#{name}=")), "{name} is not a setting");
    }
    for path in [
        "docker/prometheus.yml",
        "docker/grafana/provisioning/datasources/prometheus.yml",
        "docker/grafana/provisioning/dashboards/callferry.yml",
    ] {
        yaml(path);
    }
}

#[test]
fn the_image_sets_settings_that_exist_and_runs_commands_that_exist() {
    let dockerfile = fs::read_to_string(root().join("docker/Dockerfile")).unwrap();
    let example = callferry::config::env_example();
    for (name, value) in [("STATE_DIR", "/data"), ("MONITORING_ADDRESS", "0.0.0.0")] {
        assert!(dockerfile.contains(&format!("{name}={value}")), "{name}");
        assert!(example.contains(&format!("#{name}=")), "{name} is not a setting");
    }
    assert!(dockerfile.contains("USER 1000:1000") && dockerfile.contains(r#"CMD ["callferry", "healthcheck"]"#));
    // what the build reads is let through by .dockerignore
    let ignore = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let through: BTreeSet<&str> = ignore.lines().filter_map(|l| l.strip_prefix('!')).collect();
    for path in ["Cargo.toml", "Cargo.lock", ".cargo", "src", "migrations", "data/demo", "benches"] {
        assert!(through.contains(path), ".dockerignore keeps {path} out");
    }
    for path in through.into_iter().filter(|p| *p != "benches") {
        assert!(root().join(path).exists(), ".dockerignore lets {path} through, which is not there");
    }
}
