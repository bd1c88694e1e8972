//! The start of ipcd: its options from nats-server's configuration.

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::config::{ServerConfig, TlsConfig};
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
    let run = dir.join("run");
    DirBuilder::new().mode(0o700).recursive(true).create(&run).expect("a directory can be made");
    if let Some(token) = &config.token {
        // A token without a name is the daemon's own.
        write_secret(&run.join("token"), token);
    }
    let file = dir.join("ipcd.toml");
    fs::write(&file, configuration(config, dir)).expect("the directory is writable");
    command.arg("--runtime-dir").arg(&run).arg("--config").arg(file);
    command.arg("--listen").arg(listener(config, dir, port.unwrap_or(0)));
    if let Some(port) = &config.websocket_port {
        command.arg("--listen").arg(websocket(config, dir, port));
    }
}

fn listener(config: &ServerConfig, dir: &Path, port: u16) -> String {
    let address = format!("127.0.0.1:{port}?codec=nats{}", authority(config));
    // In the configuration of a WebSocket TLS is for that alone.
    match config.tls.as_ref().filter(|_| config.websocket_port.is_none()) {
        Some(tls) => format!("tls://{address}{}", certificates(tls, dir)),
        None => format!("tcp://{address}"),
    }
}

fn websocket(config: &ServerConfig, dir: &Path, port: &str) -> String {
    let address = format!("127.0.0.1:{port}?codec=nats{}", authority(config));
    match &config.tls {
        Some(tls) => format!("wss://{address}{}", certificates(tls, dir)),
        None => format!("ws://{address}"),
    }
}

/// Passwords and tokens of the tests are sent in clear text.
fn authority(config: &ServerConfig) -> &'static str {
    let has_secret = config.user.is_some() || config.token.is_some() || config.nkey.is_some();
    if has_secret || config.has_operator { "&auth=required&insecure=true" } else { "" }
}

fn certificates(tls: &TlsConfig, dir: &Path) -> String {
    let here = env::current_dir().expect("the tests have a directory");
    let at = |file: &str| here.join(file.trim_start_matches("./")).display().to_string();
    // A key that others can read is refused.
    let key = dir.join("key.pem");
    write_secret(&key, &fs::read_to_string(at(&tls.key)).expect("a key is text"));
    let mut options = format!("&cert={}&key={}", at(&tls.cert), key.display());
    if let Some(ca) = tls.ca.as_ref().filter(|_| tls.is_verified) {
        options += &format!("&ca={}&client_auth=required", at(ca));
    }
    if tls.handshake_first.as_deref() == Some("true") {
        options += "&handshake_first=true";
    }
    options
}

fn configuration(config: &ServerConfig, dir: &Path) -> String {
    let mut text = String::from("[limits]\n");
    if let Some(size) = &config.max_payload {
        // 1,024 bytes are a KB of nats-server, and a KiB of ipcd.
        text += &format!("max_message = \"{}\"\n", size.replace("KB", "KiB"));
    }
    if let Some((user, password)) = &config.user {
        let file = dir.join("password");
        write_secret(&file, password);
        text += &format!("[[token]]\nname = \"{user}\"\nfile = \"{}\"\n", file.display());
    }
    if let Some(nkey) = &config.nkey {
        text += &format!("[[token]]\nname = \"nkey\"\nnkey = \"{nkey}\"\n");
    }
    text
}

fn write_secret(file: &Path, secret: &str) {
    fs::write(file, secret).expect("the directory is writable");
    fs::set_permissions(file, Permissions::from_mode(0o600)).expect("the file is ours");
}
