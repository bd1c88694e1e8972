//! Two sockets with different rights.

use tempfile::TempDir;

/// The endpoints of two sockets in a directory, and the configuration of a daemon that listens
/// there: peers of `root` may do everything, and those of `guest` have the rights of this part of a
/// rule.
pub fn classes(dir: &TempDir, guest: &str) -> ([String; 2], String) {
    let sockets = ["root", "guest"].map(|name| format!("unix://{}/{name}", dir.path().display()));
    let [root, other] = &sockets;
    let text = format!(
        "[[listen]]\nname = \"root\"\nendpoint = \"{root}\"\n\
         [[listen]]\nname = \"guest\"\nendpoint = \"{other}\"\n\
         [[acl]]\nlistener = \"root\"\npublish = [\">\"]\nsubscribe = [\">\"]\nadmin = true\n\
         [[acl]]\nlistener = \"guest\"\n{guest}\n"
    );
    (sockets, text)
}
