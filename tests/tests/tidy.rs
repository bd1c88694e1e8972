//! The house rules of CONTRIBUTING.md and docs/ARCHITECTURE.md, as far as a machine can check them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Lines of code in a file and in a function, comments and a file's own tests not counted.
const LONGEST_FILE: usize = 500;
const LONGEST_FUNCTION: usize = 70;

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the tests lie in the workspace").to_owned()
}

/// A package of the workspace.
struct WorkspacePackage {
    folder: PathBuf,
    name: String,
    manifest: Table,
}

impl WorkspacePackage {
    fn read(folder: PathBuf) -> Self {
        let text = fs::read_to_string(folder.join("Cargo.toml")).expect("a package has a manifest");
        let manifest: Table = toml::from_str(&text).expect("a manifest is TOML");
        let name = manifest["package"]["name"].as_str().expect("a package has a name").to_owned();
        Self { folder, name, manifest }
    }

    /// Its dependencies for a build, without those of its own tests.
    fn dependencies(&self) -> Vec<String> {
        let tables = ["dependencies", "build-dependencies"];
        let tables = tables.iter().filter_map(|key| self.manifest.get(*key)?.as_table());
        tables.flat_map(|table| table.keys().cloned()).collect()
    }

    fn sources(&self) -> Vec<SourceFile> {
        let mut sources = Vec::new();
        collect(&self.folder, &mut sources);
        sources
    }
}

/// A file of code.
struct SourceFile {
    path: PathBuf,
    text: String,
}

impl SourceFile {
    fn is_test(&self) -> bool {
        let tests = |part: std::path::Component<'_>| {
            ["tests", "benches", "examples"].iter().any(|name| part.as_os_str() == *name)
        };
        self.path.strip_prefix(root()).expect("it lies in the workspace").components().any(tests)
    }

    /// The lines without comments and without the file's own tests.
    fn code(&self) -> Vec<&str> {
        let tests = self.text.find("#[cfg(test)]\nmod ").unwrap_or(self.text.len());
        let lines = self.text[..tests].lines();
        lines.filter(|line| !line.trim_start().starts_with("//")).collect()
    }

    /// The longest function of the code, by its name and lines. A function ends at a brace with the
    /// indentation of its beginning, as rustfmt sets it.
    fn longest_function(&self) -> Option<(String, usize)> {
        let code = self.code();
        let begins = code.iter().enumerate().filter(|(_, line)| is_function(line));
        let functions = begins.map(|(begin, line)| {
            let indent = &line[..line.len() - line.trim_start().len()];
            let is_end = |line: &&str| match line.strip_prefix(indent) {
                Some(rest) => rest == "}" || rest.starts_with(')') && rest.ends_with(';'),
                None => false,
            };
            let lines = code[begin..].iter().position(is_end).unwrap_or(0);
            (line.trim().to_owned(), lines + 1)
        });
        functions.max_by_key(|(_, lines)| *lines)
    }

    fn assert_none(&self, what: &str, forbidden: impl Fn(&str) -> bool) {
        for line in self.code() {
            assert!(!forbidden(line), "{}: {what}: {line}", self.path.display());
        }
    }
}

fn is_function(line: &str) -> bool {
    let line = line.trim_start();
    let mut words = line.split(' ').take_while(|word| !word.contains('"'));
    line.ends_with(['{', '(']) && words.any(|word| word == "fn")
}

fn collect(folder: &Path, into: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(folder).expect("a folder can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("code is text");
            into.push(SourceFile { path, text });
        }
    }
}

fn packages() -> BTreeMap<String, WorkspacePackage> {
    let inside = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).expect("the folder exists");
        entries.map(|entry| entry.expect("an entry can be read").path()).collect::<Vec<_>>()
    };
    let folders = inside("crates").into_iter().chain(inside("bin")).chain([root().join("tests")]);
    let folders = folders.filter(|folder| folder.join("Cargo.toml").is_file());
    let read = folders.map(WorkspacePackage::read);
    // A package with a workspace of its own takes nothing from this one.
    let ours = read.filter(|package| !package.manifest.contains_key("workspace"));
    ours.map(|package| (package.name.clone(), package)).collect()
}

/// The binding to Python, which is a workspace of its own.
fn python_binding() -> WorkspacePackage {
    WorkspacePackage::read(root().join("crates/ipcd-python"))
}

/// The features of a package, and what each of them enables.
fn features(package: &WorkspacePackage) -> BTreeMap<String, Vec<String>> {
    let table = package.manifest["features"].as_table().expect("features are a table");
    let names = |value: &Value| -> Vec<String> {
        let names = value.as_array().expect("a feature is a list").iter();
        names.map(|name| name.as_str().expect("a list of names").to_owned()).collect()
    };
    table.iter().map(|(feature, enables)| (feature.clone(), names(enables))).collect()
}

/// Strings in a line of code, roughly.
fn strings(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

fn names_a_scheme(line: &str) -> bool {
    let is_scheme = |word: &str| ipcd_transports::schemes().any(|scheme| scheme == word);
    strings(line).any(|text| text.split(|c: char| !c.is_alphanumeric()).any(is_scheme))
}

#[test]
fn protocol_and_router_know_no_descriptor_clock_randomness_or_logger() {
    let packages = packages();
    for (name, allowed) in [
        (
            "ipcd-proto",
            &[
                "bincode",
                "hmac",
                "ipcd-address",
                "serde",
                "serde_bytes",
                "serde_json",
                "sha2",
                "thiserror",
            ][..],
        ),
        ("ipcd-core", &["foldhash", "ipcd-proto", "serde", "slab"]),
    ] {
        for dependency in packages[name].dependencies() {
            assert!(allowed.contains(&dependency.as_str()), "{name} depends on {dependency}");
        }
        for source in packages[name].sources().iter().filter(|source| !source.is_test()) {
            source.assert_none("it asks the system", |line| {
                ["Instant::now", "SystemTime", "std::os::", "std::fs", "std::thread", "println!"]
                    .iter()
                    .any(|word| line.contains(word))
            });
        }
    }
}

#[test]
fn a_transport_knows_neither_another_nor_what_the_bytes_mean() {
    let packages = packages();
    let transports: BTreeSet<String> =
        ipcd_transports::schemes().map(|scheme| format!("ipcd-transport-{scheme}")).collect();
    let found: BTreeSet<_> =
        packages.keys().filter(|name| name.starts_with("ipcd-transport-")).cloned().collect();
    let differ: Vec<_> = found.symmetric_difference(&transports).collect();
    assert!(
        differ.is_empty(),
        "a crate is named ipcd-transport-SCHEME, and is in the registry ipcd-transports: {differ:?}"
    );
    let contract = ["ipcd-transport", "ipcd-address", "ipcd-sys"];
    // Protocols over a stream that several transports use.
    let layers = ["ipcd-tls", "ipcd-websocket"];
    for name in transports.iter().map(String::as_str).chain(layers).chain(["ipcd-transport"]) {
        let may_use_layers = name.starts_with("ipcd-transport-");
        for dependency in packages[name].dependencies() {
            let dependency = dependency.as_str();
            let is_below =
                contract.contains(&dependency) || may_use_layers && layers.contains(&dependency);
            let foreign = dependency.starts_with("ipcd") && !is_below;
            assert!(!foreign, "{name} depends on {dependency}");
        }
    }
}

/// Clients choose transports by features, except for the first, which is always there.
#[test]
fn a_transport_is_a_feature_of_the_registry_and_of_the_client() {
    let packages = packages();
    let wanted: BTreeSet<String> = ipcd_transports::schemes().skip(1).map(str::to_owned).collect();
    for (package, all, enabled) in [
        ("ipcd-transports", "all", "dep:ipcd-transport-"),
        ("ipcd-client", "all-transports", "ipcd-transports/"),
    ] {
        let features = features(&packages[package]);
        assert!(features[all].iter().eq(&wanted), "{package}: {all} is {:?}", features[all]);
        for scheme in &wanted {
            assert_eq!(features[scheme], [format!("{enabled}{scheme}")], "{package}: {scheme}");
        }
    }
}

#[test]
fn only_the_registry_knows_all_transports() {
    for package in packages().values().filter(|package| package.name != "ipcd-transports") {
        for dependency in package.dependencies() {
            let is_transport = dependency.starts_with("ipcd-transport-");
            assert!(!is_transport, "{} depends on {dependency}", package.name);
        }
    }
}

#[test]
fn client_server_and_relay_know_no_scheme_by_name_and_not_each_other() {
    let packages = packages();
    for (name, strangers) in [
        ("ipcd-client", ["ipcd-core", "ipcd-server", "ipcd-sys"]),
        ("ipcd-server", ["ipcd-client", "ipcd-bench", "ipcd-conformance"]),
        ("ipcd-relay", ["ipcd-core", "ipcd-server", "ipcd-bench"]),
    ] {
        let package = &packages[name];
        for dependency in package.dependencies() {
            assert!(!strangers.contains(&dependency.as_str()), "{name} depends on {dependency}");
        }
        for source in package.sources().iter().filter(|source| !source.is_test()) {
            source.assert_none("a scheme by name", names_a_scheme);
        }
    }
}

#[test]
fn nothing_depends_on_the_binaries_or_on_the_tests() {
    let packages = packages();
    for package in packages.values() {
        for dependency in package.dependencies() {
            let ends = ["ipcd", "ipcctl", "ipcd-tests"].contains(&dependency.as_str());
            assert!(!ends, "{} depends on {dependency}", package.name);
        }
    }
}

#[test]
fn only_one_crate_has_unsafe_code() {
    for package in packages().values() {
        assert_eq!(
            package.manifest["lints"]["workspace"],
            Value::Boolean(true),
            "{}",
            package.name
        );
        if package.name == "ipcd-sys" {
            continue;
        }
        for source in package.sources() {
            let words =
                ["allow(unsafe_code", "expect(unsafe_code", "unsafe {", "unsafe fn", "unsafe impl"];
            // This file contains these words to look for them.
            if !source.path.ends_with("tidy.rs") {
                source.assert_none("unsafe code", |line| {
                    words.iter().any(|word| line.contains(word))
                });
            }
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has one");
    let manifest: Table = toml::from_str(&manifest).expect("a manifest is TOML");
    assert_eq!(manifest["workspace"]["lints"]["rust"]["unsafe_code"].as_str(), Some("deny"));
}

#[test]
fn a_package_is_named_as_its_folder_and_takes_what_the_workspace_chose() {
    for package in packages().values().filter(|package| package.name != "ipcd-tests") {
        assert!(package.folder.ends_with(&package.name), "{}", package.folder.display());
        for key in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let table = package.manifest.get(key).and_then(Value::as_table);
            for (dependency, how) in table.into_iter().flatten() {
                let inherited = how.get("workspace").and_then(Value::as_bool);
                assert_eq!(inherited, Some(true), "{}: {dependency}", package.name);
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for source in packages().values().flat_map(WorkspacePackage::sources) {
        assert!(source.text.starts_with("//! "), "{} opens without //!", source.path.display());
    }
}

/// It is not in the workspace, and follows the same rules.
#[test]
fn the_binding_to_python_has_short_files_without_unsafe_code_or_unwrap() {
    let binding = python_binding();
    assert_eq!(binding.manifest["lints"]["rust"]["unsafe_code"].as_str(), Some("deny"));
    for source in binding.sources() {
        let file = source.path.display();
        assert!(source.text.starts_with("//! "), "{file} opens without //!");
        assert!(source.code().len() <= LONGEST_FILE, "{file}: look for a seam");
        source.assert_none("unwrap", |line| line.contains(".unwrap()"));
        source.assert_none("unsafe code", |line| line.contains("unsafe {"));
        if let Some((name, lines)) = source.longest_function() {
            assert!(lines <= LONGEST_FUNCTION, "{file}: {name} has {lines} lines: split it");
        }
    }
}

#[test]
fn no_unwrap_outside_tests() {
    let packages = packages();
    let testing = ["ipcd-tests", "ipcd-conformance"];
    let real = packages.values().filter(|package| !testing.contains(&package.name.as_str()));
    for source in real.flat_map(WorkspacePackage::sources).filter(|source| !source.is_test()) {
        source.assert_none("unwrap", |line| line.contains(".unwrap()"));
    }
}

#[test]
fn files_and_functions_are_short() {
    for source in
        packages().values().flat_map(WorkspacePackage::sources).filter(|file| !file.is_test())
    {
        let (file, lines) = (source.path.display(), source.code().len());
        assert!(lines <= LONGEST_FILE, "{file} has {lines} lines of code: look for a seam");
        if let Some((name, lines)) = source.longest_function() {
            assert!(lines <= LONGEST_FUNCTION, "{file}: {name} has {lines} lines: split it");
        }
    }
}

/// The parts of the router, from the lowest to the highest.
const ROUTER_PARTS: [&str; 13] = [
    "model",
    "queue",
    "acl",
    "config",
    "routing",
    "directory",
    "output",
    "cluster",
    "peers",
    "requests",
    "sessions",
    "delivery",
    "router",
];

#[test]
fn a_part_of_the_router_imports_only_parts_below_it() {
    let core = &packages()["ipcd-core"];
    let height = |part: &str| ROUTER_PARTS.iter().position(|known| *known == part);
    let sources = core.sources().into_iter().filter(|source| !source.is_test());
    let mut seen = BTreeSet::new();
    for source in sources {
        let path = source.path.strip_prefix(core.folder.join("src")).expect("it lies in src");
        let part = path.iter().next().expect("a file has a name").to_string_lossy();
        let part = part.trim_end_matches(".rs");
        let Some(own) = height(part) else {
            assert_eq!(part, "lib", "{part} is no part of the router");
            continue;
        };
        seen.insert(own);
        for line in source.code() {
            for import in line.split("crate::").skip(1) {
                let other = import.split(|c: char| !c.is_alphanumeric() && c != '_').next();
                let other = other.and_then(height);
                let path = path.display();
                assert!(other.is_none_or(|other| other <= own), "{path} imports upwards: {line}");
            }
        }
    }
    assert_eq!(seen.len(), ROUTER_PARTS.len(), "a part of the router is missing");
}

/// A page may shorten a test's name: `begins_like_this_…`.
#[test]
fn pages_name_files_and_tests_that_there_are() {
    let sources: Vec<SourceFile> =
        packages().values().flat_map(WorkspacePackage::sources).collect();
    for page in ["ARCHITECTURE.md", "reliability.md"] {
        let text = fs::read_to_string(root().join("docs").join(page)).expect("the page is there");
        for word in text.split('`').skip(1).step_by(2) {
            let is_there = match word.strip_suffix("_…") {
                Some(test) => {
                    sources.iter().any(|source| source.text.contains(&format!("fn {test}_")))
                }
                None if word.ends_with(".rs") => {
                    sources.iter().any(|source| source.path.ends_with(word))
                }
                None => true,
            };
            assert!(is_there, "{page}: {word} does not exist");
        }
    }
}

/// The tables that have a row for each transport: a page, and the heading above the table.
const TRANSPORT_TABLES: [(&str, &str); 4] = [
    ("README.md", "## Transports"),
    ("docs/CLI.md", "## Endpoints"),
    ("docs/security.md", "## Peer identity by transport"),
    ("docs/ARCHITECTURE.md", "## Admission of a peer"),
];

/// Pages describe every transport of the registry, and no other.
#[test]
fn pages_have_a_row_for_every_transport() {
    let page = |name: &str| fs::read_to_string(root().join(name)).expect("the page is there");
    let schemes: Vec<_> = ipcd_transports::schemes().collect();
    let mut faults = Vec::new();
    for (name, heading) in TRANSPORT_TABLES {
        let found = schemes_in_table(&page(name), heading);
        if found != schemes {
            faults.push(format!("{name}, the table below {heading:?}: it has {found:?}"));
        }
    }
    let protocol = page("docs/PROTOCOL.md");
    let is_heading = |line: &str, scheme: &str| line.starts_with("##") && line.ends_with(scheme);
    for scheme in schemes.iter().map(|scheme| format!(" {scheme}")) {
        if !protocol.lines().any(|line| is_heading(line, &scheme)) {
            faults.push(format!("docs/PROTOCOL.md: no heading ends in {scheme:?}"));
        }
    }
    let faults = faults.join("\n");
    assert!(faults.is_empty(), "the registry has {schemes:?}, and not so the pages:\n{faults}");
}

/// The schemes that begin the rows of the first table below this heading.
fn schemes_in_table(page: &str, heading: &str) -> Vec<String> {
    let start = page.find(heading).unwrap_or_else(|| panic!("no page has {heading}"));
    let rows = page[start..].lines().skip_while(|line| !line.starts_with("|--"));
    let rows = rows.skip(1).take_while(|line| line.starts_with('|'));
    let of_row = |row: &str| {
        let cell = row.split('|').nth(1)?.trim().trim_matches('`').to_owned();
        Some(cell.split(':').next()?.to_owned()).filter(|found| is_scheme(found))
    };
    let mut found: Vec<_> = rows.filter_map(of_row).collect();
    // pipe has two kinds of endpoints, and so two rows.
    found.dedup();
    found
}

/// Not the head of a row of something else, such as `raw peers`.
fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
}
