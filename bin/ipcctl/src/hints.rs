//! Advice on what users type: filters that other brokers would understand, paths that they may not
//! use.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Gid, Group, Uid, User, access};

/// What is odd about a filter that can be subscribed to, but was hardly meant as it stands.
pub(crate) fn of_filter(filter: &str) -> Option<String> {
    let is_half = |word: &str| word.len() > 1 && word.contains(['*', '>']);
    let is_foreign = |word: &str| matches!(word, "#" | "+");
    let is_odd = filter.split('.').any(is_half) || filter.split(['.', '/']).any(is_foreign);
    is_odd.then(|| {
        let meant: Vec<&str> = filter.split(['.', '/']).map(meant).collect();
        format!(
            "{filter} matches only a subject that is written just so: words are joined by dots, * \
             stands for a whole word, and a last > for all that follow, as in {}",
            meant.join(".")
        )
    })
}

/// The word that was meant, where another broker has another wildcard.
fn meant(word: &str) -> &str {
    match word {
        "#" => ">",
        "+" => "*",
        word if word.len() > 1 && word.contains(['*', '>']) => "*",
        word => word,
    }
}

/// Who may not use a path, and whose it is.
pub(crate) fn of_denied(path: &Path) -> String {
    let uid = Uid::effective();
    let user = User::from_uid(uid).ok().flatten().map_or(uid.to_string(), |user| user.name);
    let mut advice = format!("user {user} may not use it");
    // The first on the way that is closed to this user; else the path itself.
    let is_closed = |at: &&Path| access(*at, AccessFlags::X_OK) == Err(Errno::EACCES);
    let parents: Vec<&Path> = path.ancestors().skip(1).collect();
    let at = parents.into_iter().rev().find(is_closed).unwrap_or(path);
    if let Ok(found) = fs::metadata(at) {
        let owner = User::from_uid(Uid::from_raw(found.uid())).ok().flatten();
        let owner = owner.map_or(found.uid().to_string(), |user| user.name);
        let group = Group::from_gid(Gid::from_raw(found.gid())).ok().flatten();
        let group = group.map_or(found.gid().to_string(), |group| group.name);
        let (at, mode) = (at.display(), found.mode() & 0o7777);
        let _ = write!(advice, ": {at} has mode {mode:04o}, owner {owner} and group {group}");
    }
    advice + " (mode= and group= of the listener open it)"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_other_brokers_are_remarked_on() {
        for (filter, meant) in [
            ("sensors/#", "sensors.>"),
            ("a/+", "a.*"),
            ("logs.web*", "logs.*"),
            ("a.#", "a.>"),
            ("+", "*"),
            ("logs.>x.y", "logs.*.y"),
        ] {
            let said = of_filter(filter).unwrap_or_default();
            assert!(said.starts_with(filter) && said.ends_with(meant), "{filter}: {said}");
        }
        for filter in ["logs.>", "*", ">", "a.*.b", "path/to/it", "a+b", "c#", "logs.web"] {
            assert_eq!(of_filter(filter), None, "{filter}");
        }
    }

    #[test]
    fn who_may_not_use_a_path_is_named_with_its_mode() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = of_denied(file.path());
        assert!(said.contains("mode 0600, owner ") && said.starts_with("user "), "{said}");
    }
}
