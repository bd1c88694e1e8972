//! How ipcd is started: its options from nats-server's configuration.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::config::ServerConfig;
use crate::process::LogMarks;

/// The lines of its log that are waited for.
pub(crate) const MARKS: LogMarks = LogMarks {
    port: &["listening endpoint=tcp://", "listening endpoint=tls://"],
    ready: "INFO ready",
};

/// Completes its command line.
pub(crate) fn configure(
    command: &mut Command,
    config: &ServerConfig,
    dir: &Path,
    port: Option<u16>,
) {
    let file = dir.join("ipcd.toml");
    fs::write(&file, configuration(config)).expect("the directory is writable");
    command.arg("--runtime-dir").arg(dir.join("run")).arg("--config").arg(file);
    command.arg("--listen").arg(listener(config, port.unwrap_or(0)));
}

fn listener(_config: &ServerConfig, port: u16) -> String {
    format!("tcp://127.0.0.1:{port}?codec=nats")
}

fn configuration(config: &ServerConfig) -> String {
    let mut text = String::from("[limits]\n");
    if let Some(size) = &config.max_payload {
        // 1,024 bytes are a KB of nats-server, and a KiB of ipcd.
        text += &format!("max_message = \"{}\"\n", size.replace("KB", "KiB"));
    }
    text
}
