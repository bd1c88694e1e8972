//! The start of nats-server: it reads its configuration itself.

use std::path::Path;
use std::process::Command;

use crate::process::LogMarks;

/// The lines of its log that are waited for.
pub(crate) const MARKS: LogMarks =
    LogMarks { port: &["Listening for client connections on "], ready: "Server is ready" };

/// Completes its command line. A port of the configuration is not used, for tests run side by side.
pub(crate) fn configure(command: &mut Command, config: &Path, dir: &Path, port: Option<u16>) {
    let port = port.map_or("-1".to_owned(), |port| port.to_string());
    command.args(["--addr", "127.0.0.1", "--port", &port, "--store_dir"]).arg(dir.join("store"));
    if !config.as_os_str().is_empty() {
        command.arg("--config").arg(config);
    }
}

/// The options of one of several servers, whose ports for each other these are.
pub(crate) fn routes(ports: &[u16], own: usize) -> Vec<String> {
    let url = |port: &u16| format!("nats://127.0.0.1:{port}");
    let routes: Vec<String> = ports.iter().map(url).collect();
    let name = format!("server-{own}");
    let options = ["--cluster_name", "tests", "--server_name", &name, "--cluster", &routes[own]];
    let options = options.map(String::from).into_iter();
    options.chain(["--routes".to_owned(), routes.join(",")]).collect()
}
